//! Notices when files with credentials change.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Access;
use crate::threads::blocking;

/// How often the files are checked. A check costs a few system calls; inotify would have to follow
/// renames and links in every parent directory.
const INTERVAL: Duration = Duration::from_secs(2);

/// Distinguishes versions of a file: device, inode, size and change time.
type Version = Option<(u64, u64, u64, i64, i64)>;

/// Reloads the credentials whenever one of their files has changed, until it is stopped.
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

/// Reloads on a blocking thread: the files may be on a network file system.
pub async fn reload(access: &Arc<Access>) {
    let access = Arc::clone(access);
    // A panic in there is in the log.
    blocking(move || access.reload()).await.ok();
}

async fn versions(paths: &[PathBuf]) -> Vec<Version> {
    let paths = paths.to_vec();
    let looked = blocking(move || paths.iter().map(|path| version(path)).collect());
    // After a panic, which is in the log, the files count as changed.
    looked.await.unwrap_or_default()
}

fn version(path: &Path) -> Version {
    let file = std::fs::metadata(path).ok()?;
    Some((
        file.dev(),
        file.ino(),
        file.size(),
        file.ctime(),
        file.ctime_nsec(),
    ))
}
