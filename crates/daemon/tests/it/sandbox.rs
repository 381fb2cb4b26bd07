//! Decoding in a process that can do nothing, with decoders that an attacker has taken over.

mod attempts;
mod clusters;
mod process;
mod streams;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use lvp_image::builder::{ImageBuilder, Stored};
use lvp_image::convert::{ConvertOptions, Converted, convert};
use lvp_image::copy::{CopyOptions, Engine, TailPolicy};
use lvp_image::format::ImageType;
use lvp_image::sandbox::{Launch, Parts, Sandbox};
use lvp_image::{ErrorKind, worker};
use lvp_testkit::require::command;

use crate::support::{BINARY, MIB};

/// What `examples/hostile.rs` looks for.
const MARK: &str = "LVP-HOSTILE: ";

/// The daemon with a hostile decoder, which is built with the tests.
fn hostile() -> PathBuf {
    let path = Path::new(BINARY).with_file_name("examples").join("hostile");
    assert!(path.exists(), "{} is not built", path.display());
    path
}

/// Starts a program as the decoding process, as the daemon does.
#[derive(Debug)]
struct Start {
    program: PathBuf,
    is_filtered: bool,
}

impl Start {
    fn hostile() -> Self {
        Self {
            program: hostile(),
            is_filtered: true,
        }
    }
}

impl Launch for Start {
    fn launch(&self, socket: OwnedFd, memory: OwnedFd) -> io::Result<Child> {
        let mut command = command(&self.program);
        command.arg(worker::ARGUMENT).env_clear();
        if !self.is_filtered {
            command.env("HOSTILE_UNFILTERED", "1");
        }
        command
            .stdin(Stdio::from(socket))
            .stdout(Stdio::from(memory))
            .stderr(Stdio::null())
            .spawn()
    }
}

/// An engine with such processes, which have this long for an answer.
fn engine(start: Start, answer: Duration) -> Engine {
    let sandbox = Sandbox::within(Box::new(start), Parts::NONE, answer);
    Engine::with_sandbox(sandbox.expect("it starts"))
}

/// Some megabytes of compressed clusters, of which one in the middle has an order for the decoder.
fn image_with(order: Option<&str>) -> ImageBuilder {
    let mut image = ImageBuilder::new(8 * MIB);
    for cluster in 0..100_u8 {
        let bytes: Vec<u8> = (0..65536_u32)
            .map(|index| (index / 7) as u8 ^ cluster)
            .collect();
        image.write(u64::from(cluster) << 16, &bytes, Stored::Compressed);
    }
    if let Some(order) = order {
        let text = format!("{MARK}{order} ");
        image.write(60 << 16, text.as_bytes(), Stored::Compressed);
    }
    image
}

/// Converts an image in memory to a file. Returns the result and the file's bytes.
fn converted(
    engine: &Engine,
    image: &[u8],
    declared: ImageType,
) -> (lvp_image::Result<Converted>, Vec<u8>) {
    let directory = tempfile::tempdir().expect("there is room");
    let (source, target) = (
        directory.path().join("image"),
        directory.path().join("disk"),
    );
    std::fs::write(&source, image).expect("there is room");
    let options = ConvertOptions {
        copy: CopyOptions::new(&engine.for_job(), TailPolicy::Zero),
        verify_first: false,
        max_bytes: None,
    };
    let result = convert(&source, declared, &target, &options);
    (result, std::fs::read(&target).unwrap_or_default())
}

/// How a copy ends of an image with this order.
fn refusal(engine: &Engine, order: &str) -> String {
    let (result, disk) = converted(engine, &image_with(Some(order)).build(), ImageType::Qcow2);
    let error = result.expect_err(order);
    assert_eq!(error.kind(), ErrorKind::Decoder, "{order}: {error}");
    assert!(disk.is_empty(), "{order}: a file was published");
    error.to_string()
}
