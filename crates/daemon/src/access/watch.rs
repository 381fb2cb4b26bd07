//! Noticing that files with credentials have changed.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Access;
use crate::threads::blocking;

/// How often the files are looked at. A look costs a few system calls; watching by inotify would
/// have to follow renames and links of every directory above.
const INTERVAL: Duration = Duration::from_secs(2);

/// What tells one version of a file from the next: device, inode, size and time of change.
type Version = Option<(u64, u64, u64, i64, i64)>;

/// Reloads the credentials whenever a file of theirs has changed, until told to stop.
pub async fn watch(access: Arc<Access>, stop: CancellationToken) {
    let paths: Vec<PathBuf> = access.paths().map(ToOwned::to_owned).collect();
    if paths.is_empty() {
        return;
    }
    let mut seen = versions(&paths).await;
    let mut tick = tokio::time::interval(INTERVAL);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let now = versions(&paths).await;
        if now != seen {
            seen = now;
            reload(&access).await;
        }
    }
}

/// Reloads on a blocking thread: the files may be on a network.
pub async fn reload(access: &Arc<Access>) {
    let access = Arc::clone(access);
    // Were it to panic, that would be in the log.
    blocking(move || access.reload()).await.ok();
}

async fn versions(paths: &[PathBuf]) -> Vec<Version> {
    let mut versions = Vec::new();
    for path in paths {
        let metadata = tokio::fs::metadata(path).await.ok();
        versions.push(metadata.map(|file| {
            (
                file.dev(),
                file.ino(),
                file.size(),
                file.ctime(),
                file.ctime_nsec(),
            )
        }));
    }
    versions
}
