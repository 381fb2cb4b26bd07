//! qemu-img and qemu-io, and a reader that is as simple as possible.

#![expect(
    clippy::cast_possible_truncation,
    reason = "tests know how large their numbers are"
)]

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use lvp_image::decode::Decoder;
use lvp_image::format::{Format, ImageType};
use lvp_image::plan::{Batch, Encoding, Planner};
use lvp_image::source::FileSource;
use lvp_image::stream::StreamDecoder;
use lvp_image::{ErrorKind, ReadAt, Result};

pub(crate) use crate::parser_disk::Disk;

/// Reads an image by its plan, and checks the plan's promises on the way.
pub(crate) fn read<S: ReadAt>(source: S, declared: ImageType) -> Result<Disk> {
    read_within(source, declared, lvp_image::limits::MAX_BATCH_BYTES)
}

pub(crate) fn read_within<S: ReadAt>(
    source: S,
    declared: ImageType,
    budget: usize,
) -> Result<Disk> {
    let mut planner = Planner::open_within(source, declared, budget)?;
    if let Format::RawStream(codec) = planner.info().format {
        return read_stream(planner.source(), StreamDecoder::new(codec)?);
    }
    let info = planner.info().clone();
    let virtual_size = info.virtual_size.unwrap();
    let cluster_size = info.cluster_size.unwrap_or(0);
    let one_pass = planner.is_one_pass();
    let mut disk = Disk::new(virtual_size);
    let mut decoder = Decoder::new();
    let (mut end, mut batches, mut extents, mut compressed) = (0, 0, 0, 0);
    let (mut host_bytes, mut guest_bytes) = (0, 0);
    while let Some(batch) = planner.next_batch()? {
        assert_eq!(batch.guest_range().start, end, "batches follow each other");
        end = batch.guest_range().end;
        assert_partition(&batch, info.alignment, virtual_size);
        batches += 1;
        extents += batch.len() as u64;
        let mut previous = None;
        for extent in batch.extents() {
            if let Some(previous) = previous.replace(extent) {
                let both =
                    previous.encoding != Encoding::Plain && extent.encoding != Encoding::Plain;
                assert!(previous.host_offset <= extent.host_offset);
                assert!(both || previous.host_range().end <= extent.host_offset);
            }
            guest_bytes += extent.guest_len;
            host_bytes += extent.host_len;
            compressed += u64::from(extent.encoding != Encoding::Plain);
            if extent.encoding == Encoding::Plain {
                assert!(extent.host_len <= extent.guest_len);
                let mut buf = vec![0; 1 << 20];
                let mut done = 0;
                while done < extent.host_len {
                    let len = (extent.host_len - done).min(buf.len() as u64) as usize;
                    let at = extent.host_offset + done;
                    planner.source().read_exact_at(&mut buf[..len], at).unwrap();
                    disk.write(extent.guest_offset + done, &buf[..len]);
                    done += len as u64;
                }
            } else {
                let mut input = vec![0; extent.host_len as usize];
                let source = planner.source();
                source
                    .read_exact_at(&mut input, extent.host_offset)
                    .unwrap();
                let mut output = vec![0xaa; cluster_size as usize];
                let needed = extent.guest_len as usize;
                decoder.decode_part(extent.encoding, &input, &mut output, needed)?;
                disk.write(extent.guest_offset, &output[..extent.guest_len as usize]);
            }
        }
    }
    assert_eq!(end, virtual_size, "the batches cover the disk");
    assert!(batches <= 1 || !one_pass, "one pass is one batch");
    assert_eq!(
        (extents, compressed, guest_bytes, host_bytes),
        (
            info.extents,
            info.compressed_clusters,
            info.allocated_bytes,
            info.host_data_bytes
        ),
        "the totals are those of the batches"
    );
    Ok(disk)
}

/// Extents and zero ranges cover the batch's range, each byte once.
fn assert_partition(batch: &Batch, alignment: u64, virtual_size: u64) {
    let mut ranges: Vec<_> = batch.extents().map(|extent| extent.guest_range()).collect();
    for range in &ranges {
        assert!(range.start.is_multiple_of(alignment));
        assert!(range.end == virtual_size || range.end.is_multiple_of(alignment));
    }
    let zeroes: Vec<_> = batch.zero_ranges().collect();
    assert!(zeroes.windows(2).all(|pair| pair[0].end < pair[1].start));
    ranges.extend(zeroes);
    ranges.sort_unstable_by_key(|range| range.start);
    let mut next = batch.guest_range().start;
    for range in ranges {
        assert_eq!(range.start, next, "every guest byte is said once");
        assert!(!range.is_empty());
        next = range.end;
    }
    assert_eq!(next, batch.guest_range().end);
}

fn read_stream<S: ReadAt>(source: &S, mut decoder: StreamDecoder) -> Result<Disk> {
    let mut disk = Disk::new(0);
    let mut input = vec![0; source.len() as usize];
    source.read_exact_at(&mut input, 0).unwrap();
    let mut offset = 0;
    let mut sink = |piece: &[u8]| {
        disk.write(offset, piece);
        offset += piece.len() as u64;
        Ok(())
    };
    // Pieces of odd and growing sizes, so that every field is cut somewhere.
    let mut rest = input.as_slice();
    let mut len = 1;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(len.min(rest.len()));
        decoder.push(piece, &mut sink)?;
        rest = after;
        len = (len * 3 / 2 + 1) % 70_001;
    }
    disk.size = decoder.finish(&mut sink)?;
    assert_eq!(disk.size, offset);
    Ok(disk)
}

pub(crate) fn read_file(path: &Path, declared: ImageType) -> Result<Disk> {
    read(
        FileSource::new(File::open(path).unwrap()).unwrap(),
        declared,
    )
}

/// The kind of refusal, or `None` when the image is read.
pub(crate) fn verdict(bytes: &[u8], declared: ImageType) -> Option<ErrorKind> {
    read(bytes, declared).err().map(|error| error.kind())
}

/// Whether a component is there. Its absence is said, and a failure if `LVP_REQUIRE` lists it.
#[must_use]
pub(crate) fn require(component: &str, programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| find(program).is_none());
    let Some(missing) = missing else {
        return true;
    };
    let required = std::env::var("LVP_REQUIRE").unwrap_or_default();
    assert!(
        !required
            .split(',')
            .any(|name| name == component || name == "all"),
        "LVP_REQUIRE lists {component}, but {missing} is not installed"
    );
    eprintln!("SKIPPED: {missing} is not installed");
    false
}

pub(crate) fn qemu() -> bool {
    require("qemu-img", &["qemu-img", "qemu-io"])
}

fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

/// Runs a program that has to succeed.
#[track_caller]
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = try_run(program, args);
    assert!(
        output.status.success(),
        "{program} {args:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[expect(
    clippy::disallowed_methods,
    reason = "tests run the tools they compare with"
)]
pub(crate) fn try_run(program: &str, args: &[&str]) -> Output {
    Command::new(find(program).unwrap_or_else(|| program.into()))
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Feeds `input` to a program and returns what it prints.
#[expect(
    clippy::disallowed_methods,
    reason = "tests run the tools they compare with"
)]
pub(crate) fn pipe(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(find(program).unwrap())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).unwrap());
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{program} {args:?}");
    output.stdout
}

/// A directory with an image that qemu-img makes.
pub(crate) struct Lab {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) image: PathBuf,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image.qcow2");
        Self { dir, image }
    }

    /// `qemu-img create -f qcow2 -o OPTIONS IMAGE SIZE`
    #[track_caller]
    pub(crate) fn create(options: &str, size: &str) -> Self {
        let lab = Self::new();
        run(
            "qemu-img",
            &[
                "create",
                "-q",
                "-f",
                "qcow2",
                "-o",
                options,
                lab.path(),
                size,
            ],
        );
        lab
    }

    /// Another image, `qemu-img convert -O qcow2 ARGS FROM`.
    #[track_caller]
    pub(crate) fn converted(from: &Self, args: &[&str]) -> Self {
        let lab = Self::new();
        let mut all = vec!["convert", "-O", "qcow2"];
        all.extend(args);
        all.extend([from.path(), lab.path()]);
        run("qemu-img", &all);
        lab
    }

    #[track_caller]
    pub(crate) fn resize(&self, args: &[&str], size: &str) {
        let mut all = vec!["resize", "-q", "-f", "qcow2"];
        all.extend(args);
        all.extend([self.path(), size]);
        run("qemu-img", &all);
    }

    #[track_caller]
    pub(crate) fn bitmap(&self, args: &[&str], name: &str) {
        let mut all = vec!["bitmap"];
        all.extend(args);
        all.extend([self.path(), name]);
        run("qemu-img", &all);
    }

    pub(crate) fn path(&self) -> &str {
        self.image.to_str().unwrap()
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Runs qemu-io commands on the image, in one process.
    #[track_caller]
    pub(crate) fn io(&self, commands: &[&str]) {
        let output = self.io_that_may_fail(commands);
        // qemu-io exits with 0 even when a command fails; then it says so.
        assert!(!output.contains("failed"), "{output}");
    }

    /// The same, for commands that QEMU may refuse; returns what it printed.
    #[track_caller]
    pub(crate) fn io_that_may_fail(&self, commands: &[&str]) -> String {
        let mut args = vec!["-f", "qcow2", "-d", "unmap"];
        for command in commands {
            args.extend(["-c", command]);
        }
        args.push(self.path());
        let output = try_run("qemu-io", &args);
        let (stdout, stderr) = (&output.stdout, &output.stderr);
        format!(
            "{}{}",
            String::from_utf8_lossy(stdout),
            String::from_utf8_lossy(stderr)
        )
    }

    /// `qemu-img COMMAND ARGS.. IMAGE`, with the image after the command's own arguments.
    #[track_caller]
    pub(crate) fn img(&self, args: &[&str]) {
        let mut args = args.to_vec();
        args.push(self.path());
        run("qemu-img", &args);
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.image).unwrap()
    }

    /// The disk as qemu-img reads it.
    #[track_caller]
    pub(crate) fn oracle(&self) -> Disk {
        let raw = self.file("oracle.raw");
        run(
            "qemu-img",
            &["convert", "-f", "qcow2", "-O", "raw", self.path(), &raw],
        );
        let disk = Disk::from_raw_file(Path::new(&raw));
        std::fs::remove_file(raw).unwrap();
        disk
    }

    /// Both readers read the same, and ours says the same in one batch and in many.
    #[track_caller]
    pub(crate) fn compare(&self, what: &str) {
        let ours = match read_file(&self.image, ImageType::Qcow2) {
            Ok(disk) => disk,
            Err(error) => panic!("{what}: refused as {:?}: {error}", error.kind()),
        };
        ours.assert_same(&self.oracle(), what);
        let source = FileSource::new(File::open(&self.image).unwrap()).unwrap();
        let in_batches = read_within(source, ImageType::Qcow2, 0).unwrap();
        in_batches.assert_same(&ours, &format!("{what}, in many batches"));
    }
}

/// A file that counts how much of it is read.
pub(crate) struct Counted<S> {
    pub(crate) source: S,
    pub(crate) bytes: std::sync::atomic::AtomicU64,
    pub(crate) reads: std::sync::atomic::AtomicU64,
}

impl<S> Counted<S> {
    pub(crate) fn new(source: S) -> Self {
        Self {
            source,
            bytes: 0.into(),
            reads: 0.into(),
        }
    }
}

impl<S: ReadAt> ReadAt for Counted<S> {
    fn len(&self) -> u64 {
        self.source.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        use std::sync::atomic::Ordering::Relaxed;
        self.bytes.fetch_add(buf.len() as u64, Relaxed);
        self.reads.fetch_add(1, Relaxed);
        self.source.read_exact_at(buf, offset)
    }
}
