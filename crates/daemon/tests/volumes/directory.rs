//! A directory with volumes.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lvp_testkit::loopfs::LoopFs;
use provisioner::volume::dir::Dir;
use provisioner::volume::{InUse, NoLibvirt, Volumes};
use tempfile::TempDir;

use super::contract::{Place, SIZE};

/// The directory; it goes with this.
pub(crate) struct Directory {
    directory: TempDir,
    // Unmounted after the directory in it is gone.
    _file_system: Option<LoopFs>,
}

impl Directory {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            _file_system: None,
        }
    }

    /// A directory on a file system of this kind, which `require` has found.
    pub(crate) fn on(kind: &str) -> Self {
        let file_system = LoopFs::new(kind, 0).unwrap();
        Self {
            directory: tempfile::tempdir_in(file_system.path()).unwrap(),
            _file_system: Some(file_system),
        }
    }

    pub(crate) fn location(&self) -> &Path {
        self.directory.path()
    }
}

impl Place for Directory {
    fn asking(&self, in_use: Arc<dyn InUse>) -> Box<dyn Volumes> {
        Box::new(Dir::new(self.location().to_owned(), in_use))
    }

    fn missing(&self) -> (Box<dyn Volumes>, String) {
        let missing = self.location().join("missing");
        let called = missing.display().to_string();
        (Box::new(Dir::new(missing, Arc::new(NoLibvirt))), called)
    }

    fn path(&self, volume: &str) -> PathBuf {
        self.location().join(volume)
    }

    fn make(&self, volume: &str) {
        let file = File::create_new(self.path(volume)).unwrap();
        file.set_len(SIZE).unwrap();
    }

    fn replace(&self, volume: &str) {
        // Made before the first is gone, so that it has another number.
        let other = format!("{volume}-other");
        self.make(&other);
        fs::rename(self.path(&other), self.path(volume)).unwrap();
    }

    fn make_alias(&self, volume: &str, other: &str) {
        symlink(self.path(other), self.path(volume)).unwrap();
    }

    fn marks(&self, volume: &str) -> String {
        let record = self.path(&format!(".lvp/{volume}.json"));
        match fs::metadata(&record) {
            Ok(found) => {
                let (seconds, nanoseconds) = (found.mtime(), found.mtime_nsec());
                let text = fs::read_to_string(&record).unwrap();
                format!("{}, {seconds}.{nanoseconds}: {text}", found.ino())
            }
            Err(_) => String::new(),
        }
    }
}
