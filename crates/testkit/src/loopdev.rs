//! Loop devices: real block devices from files, on the kernel that runs the tests.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::require::{command, root};

/// A loop device over a sparse file; detached and removed when dropped.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    /// The file behind it.
    backing: PathBuf,
    /// What slows it down. Ended after the device is detached.
    throttle: Option<Throttle>,
    // Removed last.
    _directory: Option<TempDir>,
}

/// A file that takes so many bytes per second, by qemu-storage-daemon.
#[derive(Debug)]
struct Throttle {
    server: Child,
    file: PathBuf,
}

/// How long qemu-storage-daemon may take to serve its file.
const START_DEADLINE: Duration = Duration::from_secs(60);

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

    /// The same, whose writes are held to a rate. Needs `require("slow-device")`.
    pub fn slow(size_bytes: u64, write_bytes_per_sec: u64) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let (backing, served) = (directory.path().join("disk"), directory.path().join("slow"));
        File::create(&backing)?.set_len(size_bytes)?;
        File::create(&served)?;
        let server = command("qemu-storage-daemon")
            .arg("--object")
            .arg(format!(
                "throttle-group,id=slow,x-bps-write={write_bytes_per_sec}"
            ))
            .arg("--blockdev")
            .arg(format!(
                "driver=file,node-name=file,filename={}",
                backing.display()
            ))
            .args([
                "--blockdev",
                "driver=throttle,throttle-group=slow,node-name=throttled,file=file",
            ])
            .arg("--export")
            .arg(format!(
                "fuse,id=export,node-name=throttled,mountpoint={},writable=on,allow-other=off",
                served.display()
            ))
            .spawn()
            .context("running qemu-storage-daemon")?;
        let throttle = Throttle {
            server,
            file: served,
        };
        let deadline = Instant::now() + START_DEADLINE;
        while std::fs::metadata(&throttle.file)?.len() != size_bytes {
            ensure!(
                Instant::now() < deadline,
                "qemu-storage-daemon serves no file"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        let served = throttle.file.clone();
        let mut device = Self::attach(served, 512, Some(directory))?;
        device.throttle = Some(throttle);
        Ok(device)
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
            throttle: None,
            _directory: directory,
        })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let detached = command("losetup").arg("--detach").arg(&self.path).status();
        drop(self.throttle.take());
        let ok = matches!(&detached, Ok(status) if status.success());
        assert!(
            ok || std::thread::panicking(),
            "detaching {}: {detached:?}",
            self.path.display()
        );
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        // Its server ends with the mount; the file of its backing is removed with the directory.
        let unmounted = command("umount").arg("--lazy").arg(&self.file).status();
        self.server.kill().ok();
        self.server.wait().ok();
        let ok = matches!(&unmounted, Ok(status) if status.success());
        assert!(ok || std::thread::panicking(), "umount: {unmounted:?}");
    }
}

/// Whether a slow device can be made as well.
pub(crate) fn check_slow() -> Result<(), String> {
    check()?;
    let fuse = "/dev/fuse";
    let opened = OpenOptions::new().read(true).write(true).open(fuse);
    opened.map(drop).map_err(|error| format!("{fuse}: {error}"))
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
