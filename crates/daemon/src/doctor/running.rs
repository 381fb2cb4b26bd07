//! The checks that the running daemon makes of itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lvp_api::{DoctorCheck, DoctorReport};
use tokio::runtime::Handle;

use super::{Database, Finding, Report, checks};
use crate::clock;
use crate::cmd::Launcher;
use crate::config::{Config, Settings};
use crate::http::Checkup;

/// The checks of a configuration and its file, for whoever asks the daemon. Some block: they have a thread
/// of their own.
pub fn checkup(what: (PathBuf, Settings, Config), launcher: Launcher, runtime: Handle) -> Checkup {
    let what = Arc::new(what);
    Checkup::new(Arc::new(move || {
        let (what, runtime) = (Arc::clone(&what), runtime.clone());
        let running = tokio::task::spawn_blocking(move || {
            let (file, settings, config) = &*what;
            runtime.block_on(examine(file, settings, config, launcher))
        });
        Box::pin(async move { running.await.ok() })
    }))
}

/// All checks except for that of the database's file: nothing but the store may open that.
async fn examine(
    file: &Path,
    settings: &Settings,
    config: &Config,
    launcher: Launcher,
) -> DoctorReport {
    let findings = checks(None, file, settings, config, Database::InUse, launcher);
    let report = Report::new(findings.await);
    let check = |finding: Finding| DoctorCheck {
        check: finding.check.to_owned(),
        status: finding.status,
        message: finding.message,
        remedy: finding.remedy,
    };
    DoctorReport {
        checked_at: clock::now_text(),
        status: report.status,
        checks: report.checks.into_iter().map(check).collect(),
    }
}
