//! Health and readiness in one view.

use lvp_api::{Health, HealthStatus, Readiness};
use serde::Serialize;

use super::Context;
use crate::exit::{Exit, Failure};
use crate::output::{self, Format};

/// Both answers, for `-o json`.
#[derive(Debug, Serialize)]
struct Report {
    health: Health,
    readiness: Readiness,
}

pub(super) async fn health(context: &Context) -> Result<Exit, Failure> {
    let report = Report {
        health: context.client.health().await?,
        readiness: context.client.readiness().await?,
    };
    match context.format {
        Format::Json => output::print_json(&report)?,
        Format::Name => output::print_line(word(report.health.status))?,
        Format::Table => output::print(&describe(&report))?,
    }
    if report.readiness.ready {
        Ok(Exit::Success)
    } else {
        Err(Failure::new(
            Exit::Unavailable,
            "The daemon is not ready to accept jobs",
        ))
    }
}

fn word(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::Healthy => "healthy",
        HealthStatus::Degraded => "degraded",
    }
}

fn describe(report: &Report) -> String {
    let Report { health, readiness } = report;
    let load = match health.status {
        HealthStatus::Healthy => "healthy",
        HealthStatus::Degraded => "degraded (every job slot is taken; further jobs wait)",
    };
    let ready = if readiness.ready { "yes" } else { "no" };
    let mut fields = vec![
        ("Status", Some(load.to_owned())),
        ("Ready", Some(ready.to_owned())),
        ("Version", Some(health.version.clone())),
        ("Uptime", Some(health.uptime.clone())),
    ];
    for (name, state) in &readiness.dependencies {
        let text = match (&state.error, state.up) {
            (_, true) => "up".to_owned(),
            (Some(error), false) => format!("down: {error}"),
            (None, false) => "down".to_owned(),
        };
        fields.push((name, Some(text)));
    }
    output::details(&fields)
}
