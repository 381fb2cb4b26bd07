//! Whether a destination has the source's bytes: the same file or device, or one that is stored on the
//! other.
//!
//! A loop device is stored in a file, a partition on a disk, a volume on its group's disks. Names, links and device
//! numbers do not matter. Writing the destination would then destroy the source while it is being read. Two neighbours
//! on one disk do no harm.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};

/// Where bytes are stored, independent of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    /// Device and inode.
    File(u64, u64),
    /// Device number.
    Device(u64),
}

/// Whether one of the two is stored on the other. For what cannot be examined the answer is no; opening it will
/// report why.
pub(super) fn is_same(source: &Path, destination: &Path) -> bool {
    let (Some(from), Some(to)) = (place(source), place(destination)) else {
        return false;
    };
    below(to).contains(&from) || below(from).contains(&to)
}

fn place(path: &Path) -> Option<Place> {
    let found = fs::metadata(path).ok()?;
    let kind = found.file_type();
    if kind.is_block_device() {
        return Some(Place::Device(found.rdev()));
    }
    kind.is_file()
        .then(|| Place::File(found.dev(), found.ino()))
}

/// A place, and everything that it is stored on.
fn below(start: Place) -> HashSet<Place> {
    let mut found = HashSet::new();
    let mut left = vec![start];
    while let Some(place) = left.pop() {
        if found.insert(place)
            && let Place::Device(number) = place
        {
            left.extend(under(number));
        }
    }
    found
}

/// What a block device is stored on, according to sysfs (Documentation/ABI/stable/sysfs-block).
fn under(number: u64) -> Vec<Place> {
    let sysfs = PathBuf::from(format!(
        "/sys/dev/block/{}:{}",
        major(number),
        minor(number)
    ));
    let mut found = Vec::new();
    if sysfs.join("partition").exists() {
        found.extend(numbered(&sysfs.join("../dev")));
    }
    if let Ok(file) = fs::read_to_string(sysfs.join("loop/backing_file")) {
        found.extend(place(Path::new(file.trim_end_matches('\n'))));
    }
    let parts = fs::read_dir(sysfs.join("slaves")).into_iter().flatten();
    found.extend(
        parts
            .flatten()
            .filter_map(|part| numbered(&part.path().join("dev"))),
    );
    found
}

/// The device whose number is in a file of sysfs, as `MAJOR:MINOR`.
fn numbered(file: &Path) -> Option<Place> {
    let text = fs::read_to_string(file).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    let number = rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?);
    Some(Place::Device(number))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use lvp_testkit::loopdev::LoopDevice;
    use lvp_testkit::require::require;
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn a_file_is_known_by_any_of_its_names() {
        let home = tempfile::tempdir().expect("there is room");
        let at = |name: &str| home.path().join(name);
        fs::write(at("a"), "x").expect("it is written");
        fs::write(at("b"), "x").expect("it is written");
        fs::hard_link(at("a"), at("hard")).expect("it is linked");
        symlink(at("a"), at("soft")).expect("it is linked");
        for name in ["a", "hard", "soft", "./a"] {
            assert!(is_same(&at("a"), &at(name)), "{name}");
        }
        for name in ["b", "none"] {
            assert!(!is_same(&at("a"), &at(name)), "{name}");
        }
    }

    #[test]
    fn a_loop_device_is_the_file_behind_it_by_any_node_link_or_partition() {
        if !require("loop") {
            return;
        }
        let device = LoopDevice::new(8 << 20).expect("a loop device");
        let other = LoopDevice::new(8 << 20).expect("a loop device");
        let home = tempfile::tempdir().expect("there is room");
        let at = |name: &str| home.path().join(name);
        let file = device.backing_file();
        symlink(device.path(), at("link")).expect("it is linked");
        let number = fs::metadata(device.path()).expect("it is there").rdev();
        mknodat(
            CWD,
            at("node"),
            FileType::BlockDevice,
            Mode::RUSR | Mode::WUSR,
            number,
        )
        .expect("it is made");
        for path in [device.path().to_owned(), at("link"), at("node")] {
            assert!(is_same(&file, &path), "{}", path.display());
            assert!(is_same(&path, &file), "{}", path.display());
            assert!(is_same(device.path(), &path), "{}", path.display());
            assert!(!is_same(other.path(), &path), "{}", path.display());
            assert!(!is_same(&other.backing_file(), &path), "{}", path.display());
        }
    }
}
