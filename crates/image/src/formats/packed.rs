//! Recognises what an image is packed in: a compressed stream, a tar archive, or an archive in a
//! stream.
//!
//! A raw disk in a stream is read as it is decoded. Other formats need random access, and archives are
//! searched for their one image: both are first unpacked to a file, which is done elsewhere.

use std::sync::atomic::Ordering;

use super::content::{
    HEAD_BYTES, Recognised, other_format, other_format_of, read_head, sniff_head,
};
use super::stream::{StreamDecoder, Windows};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{ImageType, StreamCodec};
use crate::sandbox::Decoders;
use crate::source::ReadAt;

/// How much of a stream is decoded at most to see what it holds. Headers may be long, but not that
/// long.
const MAX_PEEK_BYTES: u64 = 1 << 20; // 1 MiB

/// How much is read at a time for that.
const PEEK_STEP_BYTES: u64 = 16 << 10; // 16 KiB

/// What an image is packed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Package {
    /// A compressed stream, and what it holds.
    Stream(StreamCodec, Recognised),
    /// A tar archive.
    Archive,
}

/// What the image is packed in, if anything.
pub(crate) fn look(source: &dyn ReadAt, decoders: &Decoders) -> Result<Option<Package>> {
    match sniff_head(&read_head(source)?) {
        Recognised::Stream(codec) => {
            let content = sniff_head(&peek(source, codec, decoders)?);
            Ok(Some(Package::Stream(codec, content)))
        }
        content if is_archive(content) => Ok(Some(Package::Archive)),
        Recognised::Disk | Recognised::Other(_) => Ok(None),
    }
}

/// Whether what was recognised is a tar archive.
pub(crate) fn is_archive(content: Recognised) -> bool {
    matches!(content, Recognised::Other(name) if name.starts_with("a tar archive"))
}

/// Fails unless an image of this declared type can be read from its source directly. The error is
/// [`ErrorKind::Packed`] if it can be read once it has been unpacked.
pub(crate) fn check(source: &dyn ReadAt, declared: ImageType, decoders: &Decoders) -> Result<()> {
    let (codec, content) = match look(source, decoders)? {
        None => return Ok(()),
        Some(Package::Archive) => return Err(packed("a tar archive")),
        Some(Package::Stream(codec, content)) => (codec, content),
    };
    let takes_disks = matches!(declared, ImageType::Raw | ImageType::Auto);
    match content {
        Recognised::Disk if takes_disks => Ok(()),
        // A fixed VHD is recognised only by its end.
        Recognised::Disk if declared == ImageType::Vhd => Err(packed(&format!("a {codec} stream"))),
        content if is_archive(content) => Err(packed(&format!("an archive in a {codec} stream"))),
        Recognised::Other(name) => match other_format_of(name) {
            Some(inner) if inner == declared || declared == ImageType::Auto => {
                Err(packed(&format!("a {codec} stream")))
            }
            _ if declared == ImageType::Raw => Err(other_format(name)),
            inner => {
                let advice = match inner {
                    Some(inner) => format!("declare it {inner} (image_type)"),
                    None => "which is not supported".to_owned(),
                };
                Err(not_in_stream(declared, codec, &format!("{name}; {advice}")))
            }
        },
        Recognised::Disk => Err(not_in_stream(
            declared,
            codec,
            "something of no known format; declare it raw if it is a disk",
        )),
        Recognised::Stream(inner) => Err(Error::new(
            ErrorKind::OtherFormat,
            format!(
                "The image's content is a {inner} stream inside a {codec} stream; decompress it once \
                 before it is uploaded"
            ),
        )),
    }
}

fn packed(what: &str) -> Error {
    Error::new(
        ErrorKind::Packed,
        format!("The image is inside {what}, and has to be unpacked before it is read"),
    )
}

fn not_in_stream(declared: ImageType, codec: StreamCodec, content: &str) -> Error {
    Error::new(
        ErrorKind::NotThisFormat,
        format!(
            "The image is declared {declared}, but its content is a {codec} stream that holds {content}"
        ),
    )
}

/// The first bytes that a stream decodes to. Too few if it is damaged, which shows when it is read.
fn peek(source: &dyn ReadAt, codec: StreamCodec, decoders: &Decoders) -> Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    match decode_head(source, codec, decoders, &mut head) {
        Err(error) if error.kind() == ErrorKind::Decoder => Err(error),
        _ if decoders.cancel().load(Ordering::Relaxed) => {
            Err(Error::new(ErrorKind::Cancelled, "The copy was cancelled"))
        }
        // Another error means that there is enough, or that there is no more.
        _ => Ok(head),
    }
}

fn decode_head(
    source: &dyn ReadAt,
    codec: StreamCodec,
    decoders: &Decoders,
    head: &mut Vec<u8>,
) -> Result<()> {
    let cancel = decoders.cancel();
    let is_cancelled = move || cancel.load(Ordering::Relaxed);
    let decoder = StreamDecoder::within(codec, decoders, Windows::default(), is_cancelled)?;
    let mut decoder = decoder.of_anything();
    let enough = || Error::new(ErrorKind::Cancelled, "That is enough");
    let mut take = |piece: &[u8]| {
        let wanted = piece.len().min(HEAD_BYTES - head.len());
        head.extend_from_slice(&piece[..wanted]);
        match head.len() {
            HEAD_BYTES => Err(enough()),
            _ => Ok(()),
        }
    };
    let mut offset = 0;
    let end = source.len().min(MAX_PEEK_BYTES);
    let mut step = vec![0; usize::try_from(PEEK_STEP_BYTES).unwrap_or(0)];
    while offset < end {
        let len = (end - offset).min(PEEK_STEP_BYTES);
        let chunk = &mut step[..usize::try_from(len).unwrap_or(0)];
        source.read_exact_at(chunk, offset).map_err(|_| enough())?;
        decoder.push(chunk, &mut take)?;
        offset += len;
    }
    // Some decoders return their last bytes only when the stream has ended.
    decoder.finish(&mut take).map(drop)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn nothing_is_said_of_a_stream_that_is_not_wanted_any_more() {
        let frame: &[u8] = b"\x28\xb5\x2f\xfd\x20\x05\x29\0\0hello";
        let look_until = |is_cancelled| {
            let cancel = Arc::new(AtomicBool::new(is_cancelled));
            look(&frame, &Decoders::here().until(cancel))
        };
        assert!(look_until(false).unwrap().is_some());
        let error = look_until(true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    }
}
