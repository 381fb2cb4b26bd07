use super::*;

const GUEST: &str = "253:1";
const OURS: &str = "253:2";
const SHARED: &str = "253:0";

fn device(text: &str) -> Device {
    text.parse().unwrap()
}

/// Files as the kernel has them, written anew for each look.
struct Host {
    _dir: tempfile::TempDir,
    files: Files,
    leaves: Leaves,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let slice = dir.path().join("machine.slice");
        fs::create_dir(&slice).unwrap();
        let devices = |names: &[&str]| names.iter().map(|name| device(name)).collect();
        Self {
            files: Files {
                diskstats: dir.path().join("diskstats"),
                own: dir.path().join("io"),
                slice: Some(slice),
            },
            leaves: Leaves {
                all: devices(&[GUEST, OURS, SHARED]),
                shared: devices(&[SHARED]),
                disks: devices(&["8:0"]),
            },
            _dir: dir,
        }
    }

    /// Lines of (device, reads, bytes read, ms, writes, bytes written, ms).
    fn look(
        &self,
        lines: &[(&str, [u64; 6])],
        own_read: u64,
        guest_writes: u64,
        stalled_us: u64,
    ) -> Counted {
        let mut text = "   8       0 sda 900 0 900 900 900 0 900 900 0 9 9\n".to_owned();
        for (name, [reads, read_bytes, read_ms, writes, written_bytes, write_ms]) in lines {
            let (major, minor) = name.split_once(':').unwrap();
            let sectors = |bytes: &u64| bytes / SECTOR_BYTES;
            text += &format!(
                " {major} {minor} dm-{minor} {reads} 7 {} {read_ms} {writes} 7 {} {write_ms} 0 5 5 1 2 3 4 5 6\n",
                sectors(read_bytes),
                sectors(written_bytes),
            );
        }
        fs::write(&self.files.diskstats, text).unwrap();
        let own = format!("rchar: 99\nread_bytes: {own_read}\nwrite_bytes: 5\n");
        fs::write(&self.files.own, own).unwrap();
        let slice = self.files.slice.as_ref().unwrap();
        let stat = format!("8:0 rbytes=1 wbytes=2 rios=3 wios={guest_writes} dbytes=0 dios=0\n");
        fs::write(slice.join("io.stat"), stat).unwrap();
        let pressure = format!(
            "some avg10=1.00 avg60=0.00 avg300=0.00 total={stalled_us}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=9\n"
        );
        fs::write(slice.join("io.pressure"), pressure).unwrap();
        Counted::read(&self.files, &self.leaves).unwrap()
    }

    fn others(&self, before: &Counted, after: &Counted) -> Others {
        let ours = HashSet::from([device(OURS)]);
        after.others(before, &self.leaves, &ours, Duration::from_millis(500))
    }
}

const NOTHING: [u64; 6] = [0; 6];
const MIB: u64 = 1 << 20;

#[test]
fn a_guest_s_volume_tells_its_waits_and_ours_are_left_out() {
    let host = Host::new();
    let before = host.look(
        &[(GUEST, [100, MIB, 50, 10, MIB, 10]), (OURS, NOTHING)],
        0,
        0,
        0,
    );
    let after = host.look(
        &[
            (GUEST, [160, 2 * MIB, 110, 50, 2 * MIB, 50]),
            (OURS, [0, 0, 0, 4000, 1000 * MIB, 400_000]),
        ],
        0,
        0,
        0,
    );
    // 60 reads waited 60 ms, and 40 writes 40 ms.
    assert_eq!(
        host.others(&before, &after).wait,
        Some(Duration::from_millis(1))
    );
}

#[test]
fn next_to_no_requests_are_nobody() {
    let host = Host::new();
    let before = host.look(&[(GUEST, NOTHING)], 0, 0, 0);
    let after = host.look(&[(GUEST, [3, MIB, 500, 0, 0, 0])], 0, 0, 0);
    assert_eq!(host.others(&before, &after).wait, None);
    // A device that was not there before is counted from now on.
    let before = host.look(&[], 0, 0, 0);
    let after = host.look(&[(GUEST, [300, MIB, 500, 0, 0, 0])], 0, 0, 0);
    assert_eq!(host.others(&before, &after).wait, None);
}

#[test]
fn what_this_process_reads_from_a_shared_file_system_is_no_guest() {
    let host = Host::new();
    let before = host.look(&[(SHARED, NOTHING)], 0, 0, 0);
    let after = host.look(
        &[(SHARED, [100, 64 * MIB, 900, 800, 64 * MIB, 8000])],
        64 * MIB,
        0,
        0,
    );
    assert_eq!(host.others(&before, &after).wait, None);
    // Others have read half a MiB, and all requests wait in one queue.
    let after = host.look(
        &[(SHARED, [200, 64 * MIB + MIB / 2, 1000, 800, 64 * MIB, 8000])],
        64 * MIB,
        0,
        0,
    );
    assert_eq!(
        host.others(&before, &after).wait,
        Some(Duration::from_millis(5))
    );
}

#[test]
fn writes_to_a_shared_file_system_count_while_guests_write() {
    let host = Host::new();
    let before = host.look(&[(SHARED, NOTHING)], 0, 70, 0);
    let lines = [(SHARED, [0, 0, 0, 100, 64 * MIB, 700])];
    assert_eq!(
        host.others(&before, &host.look(&lines, 0, 70, 0)).wait,
        None
    );
    let wait = host.others(&before, &host.look(&lines, 0, 90, 0)).wait;
    assert_eq!(wait, Some(Duration::from_millis(7)));
}

#[test]
fn pressure_is_the_part_of_the_time_in_which_a_guest_s_task_stood_still() {
    let host = Host::new();
    let before = host.look(&[], 0, 0, 1_000_000);
    let after = host.look(&[], 0, 0, 1_200_000);
    let found = host.others(&before, &after).pressure.unwrap();
    assert!((found - 0.4).abs() < 1e-9, "{found}");
    // The group is gone with the last guest.
    fs::remove_dir_all(host.files.slice.as_ref().unwrap()).unwrap();
    let gone = Counted::read(&host.files, &host.leaves).unwrap();
    assert_eq!(host.others(&after, &gone).pressure, None);
}

#[test]
fn counters_that_go_back_and_lines_that_cannot_be_read_do_no_harm() {
    let host = Host::new();
    let before = host.look(&[(GUEST, [100, MIB, 900, 9, MIB, 9])], 9, 9, 9);
    let after = host.look(&[(GUEST, NOTHING)], 0, 0, 0);
    let found = host.others(&before, &after);
    assert_eq!((found.wait, found.pressure), (None, Some(0.0)));
    for line in [
        "",
        "8",
        "8 0 sda",
        "8 0 sda 1 2 3 4 5",
        "a b c 1 2 3 4 5 6 7 8",
        "8 0 sda -1 2 3 4 5 6 7 8",
    ] {
        assert_eq!(disk_line(line), None, "{line}");
    }
    assert_eq!(stalled("full avg10=0.00 total=7"), None);
    assert_eq!(group_line("8:0 rbytes=1"), None);
}
