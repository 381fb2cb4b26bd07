//! What files do beyond what every back end promises (`tests/volumes/contract`).

mod records;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use lvp_api::Sha256Digest;
use lvp_testkit::require::{command, require};
use serde_json::Value;
use tempfile::TempDir;

use super::super::{NoLibvirt, VolumeState};
use super::place::RECORDS;
use super::*;

const MIB: u64 = 1 << 20;

struct Fixture {
    directory: TempDir,
    volumes: Dir,
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let volumes = Dir::new(directory.path().to_owned(), Arc::new(NoLibvirt));
    Fixture { directory, volumes }
}

impl Fixture {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A file that somebody else made, full of a marker.
    fn foreign(&self, text: &str, len: u64) -> VolumeName {
        let bytes = vec![0xaa; usize::try_from(len).unwrap()];
        fs::write(self.path(text), bytes).unwrap();
        name(text)
    }

    async fn found(&self, name: &VolumeName) -> Volume {
        self.volumes.lookup(name).await.unwrap().unwrap()
    }

    /// The names of everything in the directory and among the records.
    fn leftovers(&self) -> Vec<String> {
        let list = |path: PathBuf| {
            let entries = fs::read_dir(path).into_iter().flatten();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap())
        };
        let mut names: Vec<_> = list(self.path(""))
            .chain(list(self.path(RECORDS)))
            .collect();
        names.sort();
        names
    }
}

fn name(text: &str) -> VolumeName {
    text.parse().unwrap()
}

fn digest(byte: u8) -> Sha256Digest {
    Sha256Digest::new([byte; 32])
}

fn kind<T: std::fmt::Debug>(result: Result<T, VolumeError>) -> VolumeErrorKind {
    result.unwrap_err().kind()
}

#[tokio::test]
async fn a_reused_file_reads_as_zero_everywhere_once_it_is_open() {
    let f = fixture();
    let vm = f.foreign("vm", 3 * MIB);
    let volume = f.found(&vm).await;
    assert_eq!(volume.state, VolumeState::Untagged);
    let volume = f
        .volumes
        .mark_populating(&volume, JobId::random(), Unmarked::Adopt)
        .await
        .unwrap();
    assert_eq!(
        fs::read(f.path("vm")).unwrap()[0],
        0xaa,
        "marked, not yet emptied"
    );
    let mut open = f.volumes.open(&volume).await.unwrap();
    assert!(open.known_zero);
    let mut bytes = Vec::new();
    open.file.seek(SeekFrom::Start(0)).unwrap();
    open.file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, vec![0; 3 << 20]);
    assert_eq!(open.file.metadata().unwrap().blocks(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_keeps_its_size_at_every_instant_while_it_is_emptied() {
    const LEN: u64 = 1 << 20;
    let f = fixture();
    let vm = f.foreign("vm", LEN);
    let path = f.path("vm");
    let done = Arc::new(AtomicBool::new(false));
    let watcher = std::thread::spawn({
        let (path, done) = (path.clone(), Arc::clone(&done));
        move || {
            let mut shortest = u64::MAX;
            while !done.load(Ordering::Relaxed) {
                shortest = shortest.min(fs::metadata(&path).unwrap().len());
            }
            shortest
        }
    });
    for _ in 0..200 {
        let found = f.found(&vm).await;
        let volume = f
            .volumes
            .mark_populating(&found, JobId::random(), Unmarked::Adopt)
            .await
            .unwrap();
        let open = f.volumes.open(&volume).await.unwrap();
        // So that there is something to free the next time.
        open.file.write_all_at(&[1; 1 << 20], 0).unwrap();
    }
    done.store(true, Ordering::Relaxed);
    assert_eq!(watcher.join().unwrap(), LEN);
}

#[tokio::test]
async fn rollback_removes_what_the_job_created_and_leaves_nothing() {
    let f = fixture();
    let (vm, job) = (name("vm"), JobId::random());
    f.volumes.create(&vm, MIB, job).await.unwrap();
    let removed = f.volumes.remove_created(&vm, job).await.unwrap();
    assert_eq!(removed, Removed::Removed);
    assert_eq!(f.leftovers(), [RECORDS]);
    let removed = f.volumes.remove_created(&vm, job).await.unwrap();
    assert_eq!(removed, Removed::Absent);
}

#[tokio::test]
async fn a_broken_or_unknown_record_makes_a_volume_untagged_never_ready() {
    let f = fixture();
    let (vm, job) = (name("vm"), JobId::random());
    let volume = f.volumes.create(&vm, MIB, job).await.unwrap();
    f.volumes
        .mark_ready(&volume, job, &digest(1).into())
        .await
        .unwrap();
    let record = f.path(".lvp/vm.json");
    let good = fs::read_to_string(&record).unwrap();
    assert!(matches!(
        f.found(&vm).await.state,
        VolumeState::Ready { .. }
    ));
    for bad in [
        String::new(),
        good[..good.len() - 2].to_owned(),
        good.replace("\"version\":1", "\"version\":2"),
        good.replace("ready", "polished"),
        good.replace("0101", "01"),
        "x".repeat(1 << 20),
    ] {
        fs::write(&record, &bad).unwrap();
        assert_eq!(f.found(&vm).await.state, VolumeState::Untagged, "{bad:.80}");
    }
}

#[tokio::test]
async fn links_directories_and_pipes_are_refused_and_what_they_lead_to_stays() {
    let f = fixture();
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, b"precious").unwrap();
    symlink(&victim, f.path("link")).unwrap();
    fs::create_dir(f.path("directory")).unwrap();
    for text in ["link", "directory"] {
        let looked = f.volumes.lookup(&name(text)).await;
        assert_eq!(kind(looked), VolumeErrorKind::NotOurs, "{text}");
        let made = f.volumes.create(&name(text), MIB, JobId::random()).await;
        assert_eq!(kind(made), VolumeErrorKind::NotOurs, "{text}");
    }
    // A link put there after the look-up.
    let vm = f.foreign("vm", 512);
    let volume = f.found(&vm).await;
    fs::remove_file(f.path("vm")).unwrap();
    symlink(&victim, f.path("vm")).unwrap();
    let marked = f
        .volumes
        .mark_populating(&volume, JobId::random(), Unmarked::Adopt)
        .await;
    assert_eq!(kind(marked), VolumeErrorKind::NotOurs);
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    assert!(f.volumes.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn the_list_has_everybody_s_volumes_and_not_our_records() {
    let f = fixture();
    f.foreign("b", 512);
    fs::write(f.path("not a volume's name"), b"x").unwrap();
    f.volumes
        .create(&name("a"), MIB, JobId::random())
        .await
        .unwrap();
    let listed = f.volumes.list().await.unwrap();
    let names: Vec<_> = listed.iter().map(|volume| volume.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    let reserved = f.volumes.lookup(&name(RECORDS)).await;
    assert_eq!(kind(reserved), VolumeErrorKind::NotOurs);
}

#[tokio::test]
async fn a_missing_directory_is_down_and_not_empty() {
    let f = fixture();
    let missing = Dir::new(f.path("missing"), Arc::new(NoLibvirt));
    assert_eq!(kind(missing.probe().await), VolumeErrorKind::DependencyDown);
    let looked = missing.lookup(&name("vm")).await;
    assert_eq!(kind(looked), VolumeErrorKind::DependencyDown);
    let made = missing.create(&name("vm"), MIB, JobId::random()).await;
    assert_eq!(kind(made), VolumeErrorKind::DependencyDown);
    assert!(!f.path("missing").exists());
}

#[tokio::test]
async fn a_file_that_qemu_has_open_is_refused_untouched() {
    if !require("qemu-io") {
        return;
    }
    let f = fixture();
    let vm = f.foreign("vm", MIB);
    let volume = f.found(&vm).await;
    for options in ["", "-r"] {
        let qemu = QemuIo::open(&f.path("vm"), options);
        let marked = f
            .volumes
            .mark_populating(&volume, JobId::random(), Unmarked::Adopt)
            .await;
        assert_eq!(kind(marked), VolumeErrorKind::InUse, "{options}");
        assert_eq!(f.found(&vm).await.state, VolumeState::Untagged);
        drop(qemu);
    }
    let marked = f
        .volumes
        .mark_populating(&volume, JobId::random(), Unmarked::Adopt)
        .await
        .unwrap();
    f.volumes.open(&marked).await.unwrap();
}

/// An interactive qemu-io that has a file open, as a virtual machine would.
struct QemuIo(Child);

impl QemuIo {
    fn open(path: &Path, options: &str) -> Self {
        let mut command = command("qemu-io");
        command.args(["-f", "raw"]);
        if !options.is_empty() {
            command.arg(options);
        }
        let mut child = command
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.as_ref().unwrap();
        input.write_all(b"read 0 512\n").unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.as_mut().unwrap());
        output.read_line(&mut line).unwrap();
        assert!(line.contains("read 512/512"), "{line}");
        Self(child)
    }
}

impl Drop for QemuIo {
    fn drop(&mut self) {
        let killed = self.0.kill().and_then(|()| self.0.wait());
        assert!(killed.is_ok() || std::thread::panicking());
    }
}

#[tokio::test]
async fn a_file_that_anybody_has_open_is_refused_untouched() {
    let f = fixture();
    let vm = f.foreign("vm", MIB);
    let volume = f.found(&vm).await;
    let path = f.path("vm");
    let refused = async |who: &str| {
        let marked = f
            .volumes
            .mark_populating(&volume, JobId::random(), Unmarked::Adopt)
            .await;
        let error = marked.expect_err(who);
        assert_eq!(error.kind(), VolumeErrorKind::InUse, "{who}: {error}");
        assert_eq!(f.found(&vm).await.state, VolumeState::Untagged, "{who}");
        error.to_string()
    };
    for options in [File::options().read(true), File::options().write(true)] {
        let holder = options.open(&path).unwrap();
        refused("an opener").await;
        drop(holder);
    }
    let holder = File::open(&path).unwrap();
    // The command goes at once, and with it this process's own descriptor.
    let mut other = command("sleep").arg("60").stdin(holder).spawn().unwrap();
    let text = refused("another process").await;
    assert!(text.contains("(sleep)"), "{text}");
    other.kill().unwrap();
    other.wait().unwrap();

    fs::hard_link(&path, f.path("second")).unwrap();
    let text = refused("a second name").await;
    assert!(text.contains("hard links"), "{text}");
    fs::remove_file(f.path("second")).unwrap();

    if require("loop") {
        let losetup = |arguments: &[&str]| {
            let output = command("losetup").args(arguments).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        let device = losetup(&["--find", "--show", path.to_str().unwrap()]);
        let text = refused("a loop device").await;
        losetup(&["--detach", &device]);
        assert!(text.contains(device.trim_start_matches("/dev/")), "{text}");
    }
    f.volumes
        .mark_populating(&volume, JobId::random(), Unmarked::Adopt)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_comes_while_ours_is_made_stays_and_has_no_record() {
    let f = fixture();
    let (vm, path, staged) = (name("vm"), f.path("vm"), f.path(".lvp/vm.new"));
    let mut met = 0;
    // Whether the other comes in between is a matter of chance.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while met == 0 {
        assert!(std::time::Instant::now() < deadline, "they never met");
        let done = Arc::new(AtomicBool::new(false));
        let other = std::thread::spawn({
            let (path, staged, done) = (path.clone(), staged.clone(), Arc::clone(&done));
            move || {
                while !done.load(Ordering::Relaxed) {
                    if staged.exists() {
                        return File::create_new(&path).is_ok();
                    }
                }
                false
            }
        });
        let made = f.volumes.create(&vm, MIB, JobId::random()).await;
        done.store(true, Ordering::Relaxed);
        if other.join().unwrap() {
            let error = made.expect_err("the name was taken");
            assert_eq!(error.kind(), VolumeErrorKind::AlreadyExists, "{error}");
            assert_eq!(f.leftovers(), [RECORDS, "vm"]);
            assert_eq!(fs::metadata(&path).unwrap().len(), 0);
            met += 1;
        } else {
            fs::remove_file(&path).unwrap();
            fs::remove_file(f.path(".lvp/vm.json")).unwrap();
        }
    }
}

#[tokio::test]
async fn what_a_kill_left_before_the_file_had_its_name_is_cleared_by_its_job() {
    let f = fixture();
    let (vm, job) = (name("vm"), JobId::random());
    f.volumes.create(&vm, MIB, job).await.unwrap();
    // Killed by a release that linked, between the two names.
    fs::hard_link(f.path("vm"), f.path(".lvp/vm.new")).unwrap();
    let again = f.volumes.create(&vm, MIB, job).await.unwrap();
    drop(f.volumes.open(&again).await.unwrap());
    assert!(!f.path(".lvp/vm.new").exists());
    // Killed before it had its name.
    fs::rename(f.path("vm"), f.path(".lvp/vm.new")).unwrap();
    let removed = f.volumes.remove_created(&vm, job).await.unwrap();
    assert_eq!(removed, Removed::Absent);
    assert_eq!(f.leftovers(), [RECORDS]);
}
