//! Small file systems of a chosen kind, each in a file of its own that is mounted.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::require::{command, root};

/// What the smallest XFS takes; the file is sparse.
const LEAST_BYTES: u64 = 320 << 20;

/// A file system that is mounted from a file; unmounted and removed when dropped. Whoever has files open in it
/// must be gone then.
#[derive(Debug)]
pub struct LoopFs {
    directory: TempDir,
}

impl LoopFs {
    /// An empty file system of this kind (`xfs`, `btrfs`, `ext4`), at least of so many bytes. Needs a `require` of its kind.
    pub fn new(kind: &str, size_bytes: u64) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let (disk, mounted) = (
            directory.path().join("disk"),
            directory.path().join("mounted"),
        );
        File::create(&disk)?.set_len(size_bytes.max(LEAST_BYTES))?;
        std::fs::create_dir(&mounted)?;
        run(&format!("mkfs.{kind}"), &["-q".as_ref(), disk.as_path()])?;
        run(
            "mount",
            &["-o".as_ref(), "loop".as_ref(), &disk, mounted.as_path()],
        )?;
        Ok(Self { directory })
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        let unmounted = run("umount", &[&self.path()]);
        assert!(
            unmounted.is_ok() || std::thread::panicking(),
            "{unmounted:?}"
        );
    }
}

fn run(program: &str, arguments: &[&Path]) -> Result<()> {
    let output = command(program)
        .args(arguments)
        .output()
        .with_context(|| format!("running {program}"))?;
    ensure!(output.status.success(), "{program}: {output:?}");
    Ok(())
}

/// Whether this process may mount XFS; only trying tells what the kernel has.
pub(crate) fn check_xfs() -> Result<(), String> {
    check("xfs")
}

/// Whether this process may mount btrfs.
pub(crate) fn check_btrfs() -> Result<(), String> {
    check("btrfs")
}

/// Whether this process may mount ext4.
pub(crate) fn check_ext4() -> Result<(), String> {
    check("ext4")
}

fn check(kind: &str) -> Result<(), String> {
    root()?;
    LoopFs::new(kind, LEAST_BYTES)
        .map(drop)
        .map_err(|error| format!("{error:#}"))
}
