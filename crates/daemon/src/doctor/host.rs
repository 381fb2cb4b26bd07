//! The process and the host.

use rustix::process::{Resource, geteuid, getrlimit};

use super::Finding;
use crate::config::{BackendKind, Config};

/// Connections that are served at the same time, as `net` limits them.
const CONNECTIONS: u64 = crate::net::MAX_CONNECTIONS as u64;

/// Descriptors of one job: ranges in flight, the cache's file, the volume, pipes of a tool.
const FILES_PER_JOB: u64 = 32;

/// Descriptors of everything else: the database, the log, the listener, libvirt, the runtime.
const FILES_OF_THE_REST: u64 = 64;

pub(super) fn check(config: &Config) -> Vec<Finding> {
    let jobs = u64::try_from(config.libvirt.max_concurrent).unwrap_or(u64::MAX);
    vec![
        user(config, geteuid().as_raw()),
        files(getrlimit(Resource::Nofile).current, jobs),
    ]
}

fn user(config: &Config, uid: u32) -> Finding {
    const CHECK: &str = "host.user";
    match (config.volumes.backend.kind(), uid) {
        (_, 0) => Finding::ok(CHECK, "Running as root"),
        (BackendKind::Lvm, uid) => Finding::fail(
            CHECK,
            format!("Running as user {uid}, but LVM's commands need root"),
            "Run the doctor and the daemon as root, or set volumes.backend to dir",
        ),
        (BackendKind::Dir, uid) => Finding::ok(
            CHECK,
            format!("Running as user {uid}; the daemon has to run as the same one"),
        ),
    }
}

fn files(limit: Option<u64>, jobs: u64) -> Finding {
    const CHECK: &str = "host.files";
    let needed = jobs
        .saturating_mul(FILES_PER_JOB)
        .saturating_add(CONNECTIONS + FILES_OF_THE_REST);
    match limit {
        None => Finding::ok(CHECK, "The number of open files is not limited"),
        Some(limit) if limit >= needed => Finding::ok(
            CHECK,
            format!("{limit} files may be open; {needed} are needed"),
        ),
        Some(limit) => Finding::warn(
            CHECK,
            format!(
                "Only {limit} files may be open here, and {CONNECTIONS} connections and {jobs} jobs \
                 may take {needed}"
            ),
            format!("Set LimitNOFILE={needed} in the unit, or raise 'ulimit -n'"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::super::tests::config;
    use super::*;

    #[test]
    fn too_few_files_are_reported_with_the_number_that_is_needed() {
        let few = files(Some(256), 2);
        assert_eq!(few.status, Status::Warn);
        let remedy = few.remedy.expect("there is one");
        assert!(remedy.contains("LimitNOFILE=672"), "{remedy}");
        assert_eq!(files(Some(672), 2).status, Status::Ok);
        assert_eq!(files(None, 64).status, Status::Ok);
    }

    #[test]
    fn lvm_needs_root_and_a_directory_does_not() {
        let lvm = config(&[("VOLUME_BACKEND", "lvm")]);
        let dir = config(&[("VOLUME_BACKEND", "dir"), ("VOLUME_DIR", "/srv/vms")]);
        assert_eq!(user(&lvm, 0).status, Status::Ok);
        assert_eq!(user(&lvm, 990).status, Status::Fail);
        assert_eq!(user(&dir, 990).status, Status::Ok);
    }
}
