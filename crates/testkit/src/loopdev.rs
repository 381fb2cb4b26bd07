//! Loop devices: real block devices from files, on the kernel that runs the tests.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::require::{command, root};

/// A loop device over a sparse file; detached and removed when dropped.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    /// The file behind it.
    backing: PathBuf,
    // Removed after the device is detached.
    _directory: Option<TempDir>,
}

impl LoopDevice {
    /// A device of `size_bytes`, all zero. Needs `require("loop")`.
    pub fn new(size_bytes: u64) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let backing = directory.path().join("disk");
        File::create(&backing)?.set_len(size_bytes)?;
        Self::attach(backing, 512, Some(directory))
    }

    /// A device over an existing file, with logical blocks of this size. Needs `require("loop")`.
    pub fn over(backing: &Path, block_bytes: u32) -> Result<Self> {
        Self::attach(backing.to_owned(), block_bytes, None)
    }

    /// The device's path, such as `/dev/loop3`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file behind it.
    pub fn backing_file(&self) -> PathBuf {
        self.backing.clone()
    }

    fn attach(backing: PathBuf, block_bytes: u32, directory: Option<TempDir>) -> Result<Self> {
        let output = command("losetup")
            .args(["--find", "--show", "--sector-size"])
            .arg(block_bytes.to_string())
            .arg(&backing)
            .output()
            .context("running losetup")?;
        ensure!(
            output.status.success(),
            "losetup: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        let path = PathBuf::from(String::from_utf8(output.stdout)?.trim_end());
        Ok(Self {
            path,
            backing,
            _directory: directory,
        })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let detached = command("losetup").arg("--detach").arg(&self.path).status();
        let ok = matches!(&detached, Ok(status) if status.success());
        assert!(
            ok || std::thread::panicking(),
            "detaching {}: {detached:?}",
            self.path.display()
        );
    }
}

/// Whether this process may attach loop devices.
pub(crate) fn check() -> Result<(), String> {
    root()?;
    let control = "/dev/loop-control";
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(control)
        .map_err(|error| format!("{control}: {error}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::require::require;

    #[test]
    fn bytes_written_to_the_device_are_in_its_file() {
        if !require("loop") {
            return;
        }
        let device = LoopDevice::new(1 << 20).unwrap();
        let file = OpenOptions::new().write(true).open(device.path()).unwrap();
        file.write_all_at(b"marker", 4096).unwrap();
        file.sync_all().unwrap();
        let mut bytes = [0; 6];
        let backing = File::open(device.backing_file()).unwrap();
        backing.read_exact_at(&mut bytes, 4096).unwrap();
        assert_eq!(&bytes, b"marker");
    }
}
