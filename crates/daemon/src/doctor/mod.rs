//! `doctor`: checks everything that the daemon needs, before it is needed.
//!
//! Each check asks the real component and yields one or more [`Finding`]s. None makes a lasting
//! change: a missing directory or pool is not created, and the file with which direct I/O is tried
//! is removed again. Checks do not depend on each other, so that one report has everything that is
//! wrong. The daemon may run meanwhile.
//!
//! Exit codes are those of monitoring plugins: 0 ok, 1 warnings, 2 something failed. Failed means
//! that jobs will fail, or that the daemon will not start.

mod access;
mod devices;
mod host;
mod libvirt;
mod lvm;
mod network;
mod running;
mod s3;
mod sandbox;
mod storage;
mod thin;
mod volumes;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use crate::cmd::Launcher;
use crate::config::{Backend, Config, ConfigError, Origin, Settings};
use crate::error::chain;

/// Every check, with what it looks at. `docs/doctor.md` has this table.
pub const CHECKS: &[(&str, &str)] = &[
    (
        "config",
        "The configuration can be used; if its file has secrets, not every user can read it",
    ),
    ("host.user", "Who runs the checks; LVM needs root"),
    (
        "host.files",
        "The limit of open files, compared with what connections and jobs may need",
    ),
    (
        "image.sandbox",
        "Compressed images are decoded in a process of their own, and what keeps it from doing anything else",
    ),
    (
        "lvm.tools",
        "LVM's programs are installed in the system's directories, and their version",
    ),
    ("lvm.kernel", "The kernel's device-mapper can be used"),
    (
        "lvm.volume_group",
        "The volume group exists, is complete and writable, and has free space",
    ),
    (
        "lvm.devices",
        "lvm.conf's filters and the devices file: LVM sees the group's disks, and not those of guests",
    ),
    (
        "lvm.disks",
        "Each disk of the group can be opened for writing, and supports WRITE ZEROES",
    ),
    (
        "lvm.thin_pools",
        "Other thin pools in the group and how full they are; volumes are not created in them",
    ),
    (
        "lvm.thin_pool",
        "The pool of lvm.thin_pool: sound, how full, zeroing, discards, chunk size, spare metadata, monitored and extended by \
         itself, room in the group, thin-provisioning-tools",
    ),
    (
        "volumes.dir",
        "The directory of the volumes is writable, has free space, and supports direct I/O",
    ),
    (
        "volumes.adopted",
        "Volumes without this program's tags or records, for which requests are refused",
    ),
    (
        "cache.dir",
        "The cache directory is writable, has free space, and supports direct I/O",
    ),
    (
        "database",
        "The database is sound, its directory is writable and has free space, and its WAL is small",
    ),
    (
        "s3.endpoint",
        "The S3 server answers and accepts the credentials",
    ),
    (
        "s3.clock",
        "The clocks of the S3 server and this host; if they differ by 15 minutes or more, S3 refuses signatures",
    ),
    (
        "s3.certificate",
        "How long the S3 server's certificate and minio.ca_cert are valid",
    ),
    ("s3.mirror", "Each of minio.mirrors answers"),
    (
        "minio.network",
        "With minio.max_read_bytes_per_sec auto: the links to the object store, and whether it can be measured what others receive",
    ),
    (
        "s3.image",
        "With --image: the image can be found and read, and its .sha256 object can be used",
    ),
    (
        "access",
        "Who may connect: loopback only, tokens, certificates; whether tokens are sent unencrypted",
    ),
    (
        "access.tokens",
        "The tokens file can be used, and not every user can read it",
    ),
    (
        "access.tls",
        "The server's certificate and key match, and how long it and the CA are valid",
    ),
    (
        "libvirt.connection",
        "libvirt answers; this build supports it, and this user may use it",
    ),
    (
        "libvirt.pool",
        "The storage pool exists, is active and set to autostart; its directory is the cache",
    ),
];

pub use running::checkup;

/// The result of a check.
pub use lvp_api::CheckStatus as Status;

/// The process's exit code for a result.
fn exit_code(status: Status) -> u8 {
    match status {
        Status::Ok => 0,
        Status::Warn => 1,
        Status::Fail => 2,
    }
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which of [`CHECKS`].
    pub check: &'static str,
    /// How it ended.
    pub status: Status,
    /// What was seen.
    pub message: String,
    /// What to do about it; None if nothing is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self {
            check,
            status: Status::Ok,
            message: message.into(),
            remedy: None,
        }
    }

    fn warn(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            check,
            status: Status::Warn,
            message: message.into(),
            remedy: Some(remedy.into()),
        }
    }

    fn fail(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            status: Status::Fail,
            ..Self::warn(check, message, remedy)
        }
    }
}

/// The results of all checks. `--json` prints this as it is.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The program's version.
    pub version: &'static str,
    /// The worst result of all.
    pub status: Status,
    /// Every finding, in the order of [`CHECKS`].
    pub checks: Vec<Finding>,
}

impl Report {
    fn new(checks: Vec<Finding>) -> Self {
        let worst = checks.iter().map(|finding| finding.status).max();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            status: worst.unwrap_or(Status::Ok),
            checks,
        }
    }

    /// The report for people: a line for each finding, its remedy below.
    pub fn text(&self) -> String {
        let width = self.checks.iter().map(|finding| finding.check.len()).max();
        let width = width.unwrap_or(0);
        let mut text = String::new();
        let mut counts = [0_u32; 3];
        for finding in &self.checks {
            let Finding {
                check,
                status,
                message,
                remedy,
            } = finding;
            counts[usize::from(exit_code(*status))] += 1;
            // Writing to a string cannot fail.
            writeln!(text, "{:<4}  {check:<width$}  {message}", status.as_str()).ok();
            if let Some(remedy) = remedy {
                writeln!(text, "      {:<width$}  -> {remedy}", "").ok();
            }
        }
        let [ok, warn, fail] = counts;
        writeln!(text, "\n{ok} ok, {warn} to look at, {fail} failed").ok();
        text
    }
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Also check whether this image can be read, such as s3://images/debian-12.qcow2
    #[arg(long, value_name = "URL")]
    image: Option<String>,
}

/// Runs all checks and prints the report. Returns the exit code.
pub async fn run(
    args: &DoctorArgs,
    file: &Path,
    loaded: Result<(Settings, Config), ConfigError>,
    launcher: Launcher,
) -> anyhow::Result<u8> {
    let report = examine(args.image.as_deref(), file, loaded, launcher).await;
    let text = match args.json {
        true => serde_json::to_string_pretty(&report)? + "\n",
        false => report.text(),
    };
    io::stdout()
        .write_all(text.as_bytes())
        .context("Cannot write to standard output")?;
    Ok(exit_code(report.status))
}

/// Whether the database's file can be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Database {
    /// It is checked.
    Checked,
    /// This process has it open.
    InUse,
}

async fn examine(
    image: Option<&str>,
    file: &Path,
    loaded: Result<(Settings, Config), ConfigError>,
    launcher: Launcher,
) -> Report {
    let (settings, config) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            let remedy = "See 'libvirt-volume-provisioner config check' and docs/config.md; \
                the other checks need a valid configuration";
            return Report::new(vec![Finding::fail("config", chain(&error), remedy)]);
        }
    };
    let findings = checks(image, file, &settings, &config, Database::Checked, launcher);
    Report::new(findings.await)
}

async fn checks(
    image: Option<&str>,
    file: &Path,
    settings: &Settings,
    config: &Config,
    database: Database,
    launcher: Launcher,
) -> Vec<Finding> {
    let mut findings = configuration(file, settings);
    findings.extend(former_program());
    findings.extend(host::check(config));
    findings.push(sandbox::check(config.image.sandbox, launcher).await);
    match &config.volumes.backend {
        Backend::Lvm => findings.extend(lvm::check(config).await),
        Backend::Dir(directory) => {
            findings.push(storage::directory("volumes.dir", directory, 0));
        }
    }
    findings.push(volumes::check(config).await);
    let hypervisor = libvirt::check(config).await;
    if let Some(directory) = &hypervisor.cache_dir {
        let keep = config.cache.min_free_bytes;
        findings.push(storage::directory("cache.dir", directory, keep));
    }
    if database == Database::Checked {
        findings.push(storage::database(&config.server.db_path));
    }
    findings.extend(s3::check(config, image).await);
    findings.extend(network::check(config).await);
    findings.extend(access::check(config));
    findings.extend(hypervisor.findings);
    findings
}

/// Files that the Go program of the same name leaves on a host.
const OF_GO_PROGRAM: [&str; 4] = [
    "/etc/sudoers.d/libvirt-volume-provisioner",
    "/etc/systemd/system/libvirt-volume-provisioner.service",
    "/etc/apparmor.d/usr.sbin.libvirt-volume-provisioner",
    "/var/lib/libvirt-volume-provisioner/provisioner.db",
];

/// What the Go program left on this host.
fn former_program() -> Option<Finding> {
    let left = OF_GO_PROGRAM.iter().filter(|path| Path::new(path).exists());
    let left: Vec<_> = left.copied().collect();
    (!left.is_empty()).then(|| {
        Finding::warn(
            "config",
            format!("The Go program left {}", left.join(", ")),
            "See docs/upgrade.md: 'config migrate' takes its configuration along, 'db adopt-go-volumes' its volumes; then \
             remove the files",
        )
    })
}

fn configuration(file: &Path, settings: &Settings) -> Vec<Finding> {
    let mut findings: Vec<_> = settings
        .warnings
        .iter()
        .map(|warning| {
            let remedy =
                "Set it as docs/config.md says, or remove it from the file or the environment";
            Finding::warn("config", warning, remedy)
        })
        .collect();
    let has_secrets = settings.iter().any(|(key, setting)| {
        key.kind.is_secret()
            && matches!(setting.origin, Origin::File(_))
            && !setting.text.is_empty()
    });
    let file_shown = file.display();
    match storage::mode(file) {
        Some(mode) if has_secrets && mode & 0o007 != 0 => findings.push(Finding::warn(
            "config",
            format!("{file_shown} has secrets, and every user of this host can read it"),
            format!("Remove that permission with 'chmod o= {file_shown}', and change the secrets"),
        )),
        Some(_) => findings.push(Finding::ok("config", format!("{file_shown} can be used"))),
        None => findings.push(Finding::ok(
            "config",
            format!("There is no {file_shown}: defaults and the environment are used"),
        )),
    }
    findings
}

/// A size in a form for people.
fn size(bytes: u64) -> String {
    lvp_api::units::ByteSize(bytes).to_string()
}

#[cfg(test)]
mod tests;
