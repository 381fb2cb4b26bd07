//! `--dry-run`: which hosts would do what, by what they say about themselves.

use std::collections::BTreeMap;

use lvp_fleet::report::SILENT_SECONDS;
use lvp_fleet::{HostName, Order, OrderKind, Target};
use serde::Serialize;

use super::Fleet;
use crate::exit::{Exit, Failure};
use crate::output::{self, Format, say};

#[derive(Debug, Serialize)]
struct Line {
    host: HostName,
    does: String,
}

pub(super) async fn show(
    fleet: &Fleet,
    documents: &BTreeMap<String, Order>,
) -> Result<Exit, Failure> {
    let hosts = fleet.hosts().await?;
    let mut lines = BTreeMap::new();
    for order in documents.values() {
        if let Target::Host(name) = &order.target
            && !hosts.contains_key(name)
        {
            let unknown = "nothing was ever heard of it".to_owned();
            lines.insert(name.clone(), unknown);
        }
        for (name, (heard, _)) in &hosts {
            let report = &heard.report;
            if !order.target.is(name, &report.groups) {
                continue;
            }
            let has_it = report.cached.contains(&order.image.sha256);
            let does = if !report.allow.contains(&order.kind) {
                "refuses: its fleet.allow does not name such orders".to_owned()
            } else {
                match (order.kind, has_it) {
                    (OrderKind::Prewarm, true) => "has the image already".to_owned(),
                    (OrderKind::Prewarm, false) => "fetches the image".to_owned(),
                    (OrderKind::Provision, true) => {
                        format!("writes {} volume(s) from its cache", order.volumes.len())
                    }
                    (OrderKind::Provision, false) => {
                        format!("fetches the image for {} volume(s)", order.volumes.len())
                    }
                    (OrderKind::Evict, true) => "removes the image".to_owned(),
                    (OrderKind::Evict, false) => "does not list the image".to_owned(),
                }
            };
            let does = match heard.age_seconds > SILENT_SECONDS {
                true => format!(
                    "{does}, once it is back (silent for {} s)",
                    heard.age_seconds
                ),
                false => does,
            };
            lines.insert(name.clone(), does);
        }
    }
    let lines = lines.into_iter().map(|(host, does)| Line { host, does });
    let lines: Vec<_> = lines.collect();
    match fleet.format {
        Format::Json => output::print_json(&lines)?,
        Format::Name => {
            for line in &lines {
                output::print_line(line.host.as_str())?;
            }
        }
        Format::Table => {
            let rows: Vec<_> = lines
                .iter()
                .map(|line| [line.host.to_string(), line.does.clone()])
                .collect();
            output::print(&output::table(["HOST", "DOES"], &rows))?;
            say(&format!("{} host(s); nothing was sent", lines.len()));
        }
    }
    Ok(Exit::Success)
}
