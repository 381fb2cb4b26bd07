use std::os::unix::fs::symlink;

use super::*;

/// A host whose `/sys` and `/proc` are files of this test.
struct Host(tempfile::TempDir);

impl Host {
    /// With one disk that carries the volumes.
    fn new() -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        let disk = host.path("sys/devices/sda");
        for directory in ["holders", "slaves", "queue"] {
            fs::create_dir_all(disk.join(directory)).unwrap();
        }
        fs::create_dir_all(host.path("sys/dev/block")).unwrap();
        fs::write(disk.join("queue/iostats"), "1\n").unwrap();
        fs::write(disk.join("queue/rotational"), "0\n").unwrap();
        let (major, minor) = host.carrier();
        let number = format!("{major}:{minor}");
        fs::write(disk.join("dev"), format!("{number}\n")).unwrap();
        symlink(&disk, host.path("sys/dev/block").join(number)).unwrap();
        fs::write(host.path("diskstats"), "").unwrap();
        fs::write(host.path("io"), "read_bytes: 0\n").unwrap();
        host
    }

    /// The number of the device that really carries the files.
    fn carrier(&self) -> (u32, u32) {
        let number = fs::metadata(self.0.path()).unwrap().dev();
        (rustix::fs::major(number), rustix::fs::minor(number))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What the kernel has counted of reads of the disk.
    fn count(&self, reads: u64, wait_ms: u64) {
        let (major, minor) = self.carrier();
        let line = format!(
            "{major} {minor} sda {reads} 0 {} {wait_ms} 0 0 0 0 0 0 0\n",
            reads * 64
        );
        fs::write(self.path("diskstats"), line).unwrap();
    }

    fn guests(&self, windows: &str) -> Guests {
        let mut guests = Guests::new(GuestsSettings {
            yields: YieldUse::Auto,
            floor_bytes_per_sec: 1 << 20,
            windows: Windows::parse(windows).unwrap(),
            yields_network: false,
        });
        guests.tree = Tree::new(self.path("sys"));
        guests.files = Files {
            diskstats: self.path("diskstats"),
            own: self.path("io"),
            slice: None,
        };
        let places = Places {
            volumes: vec![self.0.path().to_owned()],
            cache: self.0.path().to_owned(),
            others: Vec::new(),
        };
        assert_eq!(guests.find(places).unwrap(), ["sda"]);
        guests
    }
}

#[test]
fn devices_that_cannot_be_found_again_are_believed_in_for_a_minute_and_no_longer() {
    let host = Host::new();
    if host.carrier().0 == 0 {
        // A file system in memory has no disk that could be lost.
        return;
    }
    let guests = host.guests("");
    let begin = Instant::now();
    let step = |after: Duration| guests.step_at(begin + after, true);
    step(Duration::ZERO).unwrap();
    // What is found again counts anew.
    step(2 * REFRESH).unwrap();
    let lost = host.path("sys/dev/block");
    fs::rename(&lost, host.path("elsewhere")).unwrap();
    step(2 * REFRESH + BELIEVED / 2).unwrap();
    let error = step(2 * REFRESH + BELIEVED).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
    fs::rename(host.path("elsewhere"), lost).unwrap();
    step(3 * REFRESH + BELIEVED).unwrap();
}

#[test]
fn jobs_do_not_step_aside_in_a_window() {
    let host = Host::new();
    if host.carrier().0 == 0 {
        return;
    }
    for (windows, is_limited) in [("", true), ("00:00-24:00", false)] {
        host.count(0, 0);
        let guests = host.guests(windows);
        let begin = Instant::now();
        guests.step_at(begin, true).unwrap();
        let mut shown = None;
        for number in 1..4 {
            // A hundred reads of others that wait for half a second each, beside a job.
            host.count(100 * number, 50_000 * number);
            guests.limiter.reserve(100 << 20, begin);
            let now = begin + INTERVAL * u32::try_from(number).unwrap();
            shown = guests.step_at(now, true).unwrap();
        }
        let shown = shown.expect("it was measured");
        assert_eq!(shown.wait, Some(Duration::from_millis(500)));
        assert_eq!(shown.rate.is_some(), is_limited, "{windows}: {shown:?}");
        assert_eq!(guests.limiter.rate().is_some(), is_limited);
        assert_eq!(shown.is_held, is_limited);
    }
}
