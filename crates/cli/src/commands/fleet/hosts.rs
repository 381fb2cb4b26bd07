//! `lvpctl fleet hosts`.

use std::time::Duration;

use lvp_api::units::{ByteSize, duration_text};
use lvp_fleet::HostReport;
use lvp_fleet::report::SILENT_SECONDS;
use serde::Serialize;
use time::OffsetDateTime;

use super::Fleet;
use crate::exit::{Exit, Failure};
use crate::output::{self, Format, say};

/// A clock that differs by less is right: a record takes its time.
const CLOCK_TOLERANCE_SECONDS: i64 = 10;

#[derive(Debug, Serialize)]
struct Line {
    #[serde(flatten)]
    report: HostReport,
    /// `ok` or `silent`.
    state: &'static str,
    silent_seconds: u64,
    /// How far its clock is ahead of the broker's.
    clock_ahead_seconds: i64,
}

pub(super) async fn list(fleet: &Fleet) -> Result<Exit, Failure> {
    let hosts = fleet.hosts().await?;
    let lines = hosts.into_values().map(|(heard, stored)| Line {
        state: match heard.age_seconds > SILENT_SECONDS {
            true => "silent",
            false => "ok",
        },
        silent_seconds: heard.age_seconds,
        clock_ahead_seconds: ahead(heard.report.time, stored),
        report: heard.report,
    });
    let lines: Vec<_> = lines.collect();
    match fleet.format {
        Format::Json => output::print_json(&lines)?,
        Format::Name => {
            for line in &lines {
                output::print_line(line.report.host.as_str())?;
            }
        }
        Format::Table if lines.is_empty() => say("No host has said anything yet"),
        Format::Table => {
            let rows: Vec<_> = lines.iter().map(row).collect();
            let header = [
                "HOST", "STATE", "HEARD", "VERSION", "GROUPS", "FOLLOWS", "JOBS", "IMAGES", "FREE",
                "CLOCK",
            ];
            output::print(&output::table(header, &rows))?;
        }
    }
    Ok(Exit::Success)
}

fn ahead(time: u64, stored: OffsetDateTime) -> i64 {
    i64::try_from(time)
        .unwrap_or(i64::MAX)
        .saturating_sub(stored.unix_timestamp())
}

fn row(line: &Line) -> [String; 10] {
    let report = &line.report;
    let groups: Vec<_> = report.groups.iter().map(ToString::to_string).collect();
    let allow: Vec<_> = report.allow.iter().map(ToString::to_string).collect();
    let more = if report.has_more { "+" } else { "" };
    let clock = match line.clock_ahead_seconds {
        ahead if ahead.abs() < CLOCK_TOLERANCE_SECONDS => "right".to_owned(),
        ahead => format!("{ahead:+} s"),
    };
    [
        report.host.to_string(),
        line.state.to_owned(),
        format!(
            "{} ago",
            duration_text(Duration::from_secs(line.silent_seconds))
        ),
        report.version.clone(),
        groups.join(","),
        allow.join(","),
        format!("{}/{}", report.running, report.slots),
        format!("{}{more}", report.cached.len()),
        ByteSize(report.free_bytes).to_string(),
        clock,
    ]
}
