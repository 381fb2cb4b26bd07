//! Unpacks an image from a stream or archive into a file that can be read at random.
//!
//! ```text
//! stream ──> decoder ──┬──────────> file
//! archive ─────────────┴──> tar ──> file: the one image in it
//! ```
//!
//! The file is the caller's, who also sets its maximum size. Runs of zeros are not written to it.

mod manifest;
mod tar;
mod writer;

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::copy::{Engine, feed_file};
use crate::error::{Error, ErrorKind, Result};
use crate::format::ImageType;
use crate::formats::packed::{self, Package};
use crate::plan::Planner;
use crate::source::FileSource;
pub use manifest::Manifest;
use tar::Archive;
use writer::Writer;

/// Options for unpacking.
#[derive(Debug, Clone)]
pub struct UnpackOptions {
    /// The engine whose budget for large windows is used, and whose decoders.
    pub engine: Engine,
    /// Maximum size of the unpacked image.
    pub max_bytes: u64,
    /// Set by the owner to stop.
    pub cancel: Arc<AtomicBool>,
}

/// The result of unpacking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// What the image was packed in: `gzip`, `tar`, `tar.xz`.
    pub package: String,
    /// Its name in the archive.
    pub name: Option<String>,
    /// What the manifest of an OVA says about it; None for other archives without a manifest.
    pub manifest: Option<Manifest>,
    /// Its length.
    pub bytes: u64,
    /// Bytes after the stream that were ignored, as the codec's own tool does.
    pub ignored_bytes: u64,
}

/// Opens an image, packed or not. `scratch` provides the file to unpack to, and is called only if it is
/// needed.
pub fn open(
    source: FileSource,
    declared: ImageType,
    scratch: impl FnOnce() -> Result<File>,
    options: &UnpackOptions,
) -> Result<(Planner<FileSource>, Option<Unpacked>)> {
    let decoders = options.engine.decoders();
    if let Err(error) = packed::check(&source, declared, decoders) {
        if error.kind() != ErrorKind::Packed {
            return Err(error);
        }
        let (file, unpacked) = unpack(&source, scratch()?, options)?;
        let planner =
            Planner::open_with(file, declared, decoders).map_err(|error| match error.kind() {
                ErrorKind::Packed => Error::new(
                    ErrorKind::OtherFormat,
                    format!(
                        "What was in the {} is packed itself; unpack it before it is uploaded",
                        unpacked.package
                    ),
                ),
                _ => error,
            })?;
        return Ok((planner, Some(unpacked)));
    }
    Ok((Planner::open_with(source, declared, decoders)?, None))
}

/// Unpacks the image.
fn unpack(
    source: &FileSource,
    into: File,
    options: &UnpackOptions,
) -> Result<(FileSource, Unpacked)> {
    let writer = Writer::new(into, options.max_bytes);
    let (codec, is_archive) = match packed::look(source, options.engine.decoders())? {
        Some(Package::Stream(codec, content)) => (Some(codec), packed::is_archive(content)),
        Some(Package::Archive) => (None, true),
        None => {
            return Err(Error::new(
                ErrorKind::Internal,
                "An image that is not packed was to be unpacked, which is a bug in this program",
            ));
        }
    };
    let mut sink = match is_archive {
        true => Sink::Archive(Box::new(Archive::new(writer))),
        false => Sink::Image(writer),
    };
    let mut ignored_bytes = 0;
    let cancel = &options.cancel;
    let check = || match cancel.load(Ordering::Relaxed) {
        true => Err(Error::new(ErrorKind::Cancelled, "The copy was cancelled")),
        false => Ok(()),
    };
    match codec {
        None => feed_file(source, |chunk| {
            check()?;
            sink.take(&chunk)
        })?,
        Some(codec) => {
            let is_cancelled = Arc::clone(cancel);
            let is_cancelled = move || is_cancelled.load(Ordering::Relaxed);
            let decoder = options.engine.stream_decoder(codec, is_cancelled)?;
            let mut decoder = decoder.of_anything();
            let mut take = |piece: &[u8]| {
                check()?;
                sink.take(piece)
            };
            feed_file(source, |chunk| decoder.push(&chunk, &mut take))?;
            (_, ignored_bytes) = decoder.finish_counted(&mut take)?;
        }
    }
    let (writer, name, manifest) = match sink {
        Sink::Image(writer) => (writer, None, None),
        Sink::Archive(archive) => {
            let found = archive.finish()?;
            (found.writer, Some(found.name), found.manifest)
        }
    };
    let bytes = writer.len();
    let package = match (is_archive, codec) {
        (false, Some(codec)) => codec.to_string(),
        (true, Some(codec)) => format!("tar.{codec}"),
        (_, None) => "tar".to_owned(),
    };
    Ok((
        writer.finish()?,
        Unpacked {
            package,
            name,
            manifest,
            bytes,
            ignored_bytes,
        },
    ))
}

enum Sink {
    Image(Writer),
    Archive(Box<Archive>),
}

impl Sink {
    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Image(writer) => writer.append(bytes),
            Self::Archive(archive) => archive.take(bytes),
        }
    }
}
