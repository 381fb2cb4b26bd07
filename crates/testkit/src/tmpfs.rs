//! Small file systems to be filled up.

use std::fs::{File, create_dir_all, remove_file};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::require::command;

/// A file system in memory; unmounted when dropped. Whoever has files open in it must be gone then.
#[derive(Debug)]
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Mounts an empty file system of `size_bytes` on a directory, which is made when absent. Needs
    /// `require("mount")`.
    pub fn mount(directory: &Path, size_bytes: u64) -> Result<Self> {
        create_dir_all(directory)?;
        let output = command("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size_bytes}"), "tmpfs"])
            .arg(directory)
            .output()
            .context("running mount")?;
        ensure!(output.status.success(), "mount: {output:?}");
        Ok(Self(directory.to_owned()))
    }

    /// Uses up all free space, as another program's file would.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.filler())?;
        // The second round takes what is less than the first one's blocks.
        for block in [vec![1; 1 << 20], vec![1; 4096]] {
            loop {
                match file.write_all(&block) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Frees it again.
    pub fn make_room(&self) -> Result<()> {
        Ok(remove_file(self.filler())?)
    }

    fn filler(&self) -> PathBuf {
        self.0.join("another-program's-file")
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let unmounted = command("umount").arg(&self.0).output();
        let ok = matches!(&unmounted, Ok(output) if output.status.success());
        assert!(
            ok || std::thread::panicking(),
            "unmounting {}: {unmounted:?}",
            self.0.display()
        );
    }
}

/// Whether this process may mount.
pub(crate) fn check() -> Result<(), String> {
    crate::require::root()?;
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    // A container's root may lack the capability; only trying tells.
    Tmpfs::mount(directory.path(), 1 << 20)
        .map(drop)
        .map_err(|error| format!("{error:#}"))
}
