use std::os::unix::fs::symlink;

use super::*;

/// A directory that looks like `/sys`.
struct Sys(tempfile::TempDir);

impl Sys {
    fn new() -> Self {
        let sys = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(sys.0.path().join("dev/block")).unwrap();
        sys
    }

    fn tree(&self) -> Tree {
        Tree::new(self.0.path().to_owned())
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.0.path().join("devices").join(name)
    }

    /// A device below `devices`, such as `sda` or `sda/sda1`.
    fn device(&self, name: &str, number: &str) -> Device {
        let directory = self.directory(name);
        fs::create_dir_all(directory.join("holders")).unwrap();
        fs::write(directory.join("dev"), format!("{number}\n")).unwrap();
        if name.contains('/') {
            fs::write(directory.join("partition"), "1\n").unwrap();
        } else {
            fs::create_dir_all(directory.join("slaves")).unwrap();
            fs::create_dir_all(directory.join("queue")).unwrap();
            self.queue(name, "iostats", "1");
            self.queue(name, "rotational", "0");
        }
        symlink(&directory, self.0.path().join("dev/block").join(number)).unwrap();
        number.parse().unwrap()
    }

    fn queue(&self, name: &str, file: &str, value: &str) {
        let file = self.directory(name).join("queue").join(file);
        fs::write(file, format!("{value}\n")).unwrap();
    }

    fn stack(&self, lower: &str, upper: &str) {
        let short = |name: &str| Path::new(name).file_name().unwrap().to_owned();
        let holder = self.directory(lower).join("holders").join(short(upper));
        symlink(self.directory(upper), holder).unwrap();
        let slave = self.directory(upper).join("slaves").join(short(lower));
        symlink(self.directory(lower), slave).unwrap();
    }
}

fn set<const N: usize>(devices: [Device; N]) -> BTreeSet<Device> {
    devices.into_iter().collect()
}

#[test]
fn the_way_down_ends_at_the_disks_and_the_way_up_at_what_is_used() {
    let sys = Sys::new();
    let sda = sys.device("sda", "8:0");
    let sda1 = sys.device("sda/sda1", "8:1");
    sys.device("sda/sda2", "8:2");
    let sdb = sys.device("sdb", "8:16");
    let other = sys.device("sdc", "8:32");
    sys.device("md0", "9:0");
    let cache = sys.device("dm-0", "254:0");
    sys.device("dm-1", "254:1");
    let guest = sys.device("dm-2", "254:2");
    sys.stack("sda/sda2", "md0");
    sys.stack("sdb", "md0");
    sys.stack("md0", "dm-0");
    sys.stack("md0", "dm-1");
    sys.stack("dm-1", "dm-2");
    let tree = sys.tree();
    for from in [cache, guest] {
        assert_eq!(tree.disks(&[from]).unwrap(), set([sda, sdb]));
    }
    assert_eq!(tree.disks(&[sda1, other]).unwrap(), set([sda, other]));
    let leaves = tree.leaves(&set([sda, sdb])).unwrap();
    assert_eq!(leaves, set([sda1, cache, guest]));
    assert_eq!(tree.leaves(&set([other])).unwrap(), set([other]));
    assert_eq!(tree.name(guest), "dm-2");
}

#[test]
fn one_rotating_disk_makes_all_of_them_slow_and_one_that_is_not_counted_cannot_be_measured() {
    let sys = Sys::new();
    let disks = set([sys.device("sda", "8:0"), sys.device("sdb", "8:16")]);
    let tree = sys.tree();
    assert_eq!(tree.kind(&disks).unwrap(), Disks::Flash);
    sys.queue("sdb", "rotational", "1");
    assert_eq!(tree.kind(&disks).unwrap(), Disks::Rotating);
    sys.queue("sda", "iostats", "0");
    assert!(tree.kind(&disks).is_err());
}

#[test]
fn a_device_that_is_gone_and_a_circle_are_errors() {
    let sys = Sys::new();
    let tree = sys.tree();
    assert!(tree.disks(&[Device::new(8, 0)]).is_err());
    let first = sys.device("dm-0", "254:0");
    sys.device("dm-1", "254:1");
    sys.stack("dm-0", "dm-1");
    sys.stack("dm-1", "dm-0");
    assert!(tree.disks(&[first]).is_err());
    assert!(tree.leaves(&set([first])).is_err());
}

#[test]
fn a_volume_that_goes_while_it_is_looked_for_is_not_there() {
    let sys = Sys::new();
    let disk = sys.device("sda", "8:0");
    let stays = sys.device("dm-0", "254:0");
    sys.device("dm-1", "254:1");
    sys.device("dm-2", "254:2");
    for name in ["dm-0", "dm-1", "dm-2"] {
        sys.stack("sda", name);
    }
    // One is gone as a whole, of the other only the link by its number.
    fs::remove_dir_all(sys.directory("dm-1")).unwrap();
    fs::remove_file(sys.0.path().join("dev/block/254:2")).unwrap();
    assert_eq!(sys.tree().leaves(&set([disk])).unwrap(), set([stays]));
}

#[test]
fn a_line_of_the_table_of_mounts_has_the_number_and_the_source() {
    let line = "36 25 0:31 /@home /home rw,relatime shared:1 - btrfs /dev/mapper/vg-home rw,ssd";
    let (number, source) = mount(line).unwrap();
    assert_eq!(
        (number, source.as_path()),
        (Device::new(0, 31), Path::new("/dev/mapper/vg-home"))
    );
    assert!(mount("nonsense").is_none());
}

#[test]
fn the_directory_of_this_test_is_on_some_device_or_on_none_at_all() {
    let mounts = Path::new("/proc/self/mountinfo");
    // An overlay or a file system in memory has none, which is an error and not a wrong number.
    if let Ok(device) = Device::carrying(Path::new(env!("CARGO_MANIFEST_DIR")), mounts) {
        assert_ne!(device.major, 0);
    }
}
