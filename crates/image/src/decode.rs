//! Decodes compressed clusters.
//!
//! The rules are QEMU's: a cluster is sound if its stream produces the whole cluster. A deflate
//! stream need not end there, and whatever follows is ignored, because a descriptor gives the
//! stream's length only to the sector. A zstd stream may consist of several frames, the last of
//! which has to end with the cluster.
//!
//! A VMDK grain is a zlib stream with a checksum, whose length is in the marker before it. The last
//! grain of a disk may hold only what the disk needs of it.
//!
//! One difference is known: libdeflate accepts a few codes that zlib refuses and no compressor
//! writes (length symbols 286 and 287, some incomplete codes).

use std::fmt;

use flate2::{Decompress, FlushDecompress, Status};
use zstd_safe::DCtx;

use crate::error::{Error, ErrorKind, Result};
use crate::map::Encoding;

/// QEMU decodes zstd as a stream. For that, libzstd by default refuses a frame of unknown length
/// whose window is larger than this (`ZSTD_MAXWINDOWSIZE_DEFAULT`).
const MAX_ZSTD_WINDOW: u64 = (1 << 27) + 1;

/// A grain's marker: its first sector on the disk, and the length of its stream.
const GRAIN_MARKER_BYTES: usize = 12;

/// Decodes compressed clusters, one at a time. Every worker thread has its own decoder.
///
/// No allocation depends on the stream: both methods write to the output directly.
pub struct Decoder {
    deflate: libdeflater::Decompressor,
    inflate: Decompress,
    zstd: DCtx<'static>,
}

impl Decoder {
    /// A decoder for clusters of any size and encoding.
    pub fn new() -> Self {
        Self {
            deflate: libdeflater::Decompressor::new(),
            inflate: Decompress::new(false),
            zstd: DCtx::create(),
        }
    }

    /// Decodes one cluster.
    ///
    /// `input` is the extent's host bytes, `output` a buffer of the cluster's size. The buffer is
    /// filled completely, or the cluster is refused with [`ErrorKind::BadCluster`].
    pub fn decode(&mut self, encoding: Encoding, input: &[u8], output: &mut [u8]) -> Result<()> {
        self.decode_part(encoding, input, output, output.len())
    }

    /// Decodes one cluster, of which only the first `needed` bytes are on the disk.
    ///
    /// What a grain does not hold after these is zero.
    pub fn decode_part(
        &mut self,
        encoding: Encoding,
        input: &[u8],
        output: &mut [u8],
        needed: usize,
    ) -> Result<()> {
        let is_filled = match encoding {
            Encoding::Plain => input.get(..output.len()).map(|input| {
                output.copy_from_slice(input);
            }),
            Encoding::Deflate => self.deflate(input, output),
            Encoding::Zstd => self.zstd(input, output),
            Encoding::Grain => self.grain(input, output, needed),
        };
        is_filled.ok_or_else(|| undecodable(input.len(), output.len()))
    }

    fn deflate(&mut self, input: &[u8], output: &mut [u8]) -> Option<()> {
        // Nearly every stream ends with its cluster, and takes this path.
        if self.deflate.deflate_decompress(input, output) == Ok(output.len()) {
            return Some(());
        }
        // zlib stops when the output is full, and says whether that was the end of the stream; QEMU
        // accepts both.
        self.inflate.reset(false);
        let status = self
            .inflate
            .decompress(input, output, FlushDecompress::Finish)
            .ok()?;
        let is_full = self.inflate.total_out() == output.len() as u64;
        (is_full && matches!(status, Status::StreamEnd | Status::BufError | Status::Ok))
            .then_some(())
    }

    fn grain(&mut self, input: &[u8], output: &mut [u8], needed: usize) -> Option<()> {
        let (marker, stream) = input.split_first_chunk::<GRAIN_MARKER_BYTES>()?;
        let [.., l0, l1, l2, l3] = *marker;
        let len = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).ok()?;
        let stream = stream.get(..len)?;
        let filled = self.deflate.zlib_decompress(stream, output).ok()?;
        output[filled..].fill(0);
        (filled >= needed).then_some(())
    }

    fn zstd(&mut self, mut input: &[u8], output: &mut [u8]) -> Option<()> {
        let mut filled = 0;
        while filled < output.len() {
            let frame_len = zstd_safe::find_frame_compressed_size(input).ok()?;
            let (frame, rest) = input.split_at_checked(frame_len)?;
            if frame.is_empty() || is_window_too_large(frame) {
                return None;
            }
            // A frame that holds more than the rest of the cluster is an error here.
            filled += self.zstd.decompress(&mut output[filled..], frame).ok()?;
            input = rest;
        }
        Some(())
    }
}

/// The error for a cluster that does not decode.
pub(crate) fn undecodable(input_bytes: usize, output_bytes: usize) -> Error {
    Error::new(
        ErrorKind::BadCluster,
        format!(
            "A compressed cluster's {input_bytes} bytes do not decompress to its {output_bytes} bytes; \
             fetch the image again"
        ),
    )
}

/// Whether QEMU's libzstd would refuse the frame because of its window.
fn is_window_too_large(frame: &[u8]) -> bool {
    // RFC 8878, 3.1.1.1: the magic number, the frame header descriptor, and then the window
    // descriptor, unless the frame is a single segment, which is its own window.
    let [m0, m1, m2, m3, descriptor, window, ..] = *frame else {
        return false;
    };
    let is_single_segment = descriptor & 0x20 != 0;
    let has_content_size = descriptor & 0xc0 != 0 || is_single_segment;
    if [m0, m1, m2, m3] != *b"\x28\xb5\x2f\xfd" || has_content_size {
        return false;
    }
    let base = 1_u64 << (10 + (window >> 3));
    base + base / 8 * u64::from(window & 7) > MAX_ZSTD_WINDOW
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: usize = 4096;

    fn cluster() -> Vec<u8> {
        (0..=u8::MAX)
            .cycle()
            .flat_map(|byte| [byte; 7])
            .take(CLUSTER)
            .collect()
    }

    fn deflated(data: &[u8]) -> Vec<u8> {
        let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
        let mut out = vec![0; compressor.deflate_compress_bound(data.len())];
        let len = compressor.deflate_compress(data, &mut out).unwrap();
        out.truncate(len);
        out
    }

    fn zstd_frame(data: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(zstd_safe::compress_bound(data.len()));
        zstd_safe::compress(&mut out, data, 3).unwrap();
        out
    }

    /// Decodes with a decoder that has decoded a bad cluster before, which must have no effect.
    fn decode(encoding: Encoding, input: &[u8]) -> Result<Vec<u8>> {
        let mut decoder = Decoder::new();
        let mut output = vec![0xaa; CLUSTER];
        assert!(decoder.decode(encoding, b"\xff\xff", &mut output).is_err());
        decoder.decode(encoding, input, &mut output)?;
        Ok(output)
    }

    #[track_caller]
    fn accepts(encoding: Encoding, input: &[u8]) {
        assert_eq!(decode(encoding, input).unwrap(), cluster());
    }

    #[track_caller]
    fn refuses(encoding: Encoding, input: &[u8]) {
        let error = decode(encoding, input).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadCluster);
    }

    #[test]
    fn a_deflate_stream_of_a_whole_cluster_is_accepted_whatever_follows() {
        let mut stream = deflated(&cluster());
        accepts(Encoding::Deflate, &stream);
        stream.extend_from_slice(&[0x5a; 700]);
        accepts(Encoding::Deflate, &stream);
    }

    #[test]
    fn a_deflate_stream_that_goes_on_after_a_whole_cluster_is_accepted() {
        let mut longer = cluster();
        longer.extend_from_slice(b"more than the cluster holds");
        accepts(Encoding::Deflate, &deflated(&longer));
    }

    #[test]
    fn a_deflate_stream_without_its_end_is_accepted_if_the_cluster_is_whole() {
        // One stored block that is not the last: the stream never ends.
        let mut stored = vec![0x00, 0x00, 0x10, 0xff, 0xef];
        stored.extend_from_slice(&cluster());
        accepts(Encoding::Deflate, &stored);
        stored.pop();
        refuses(Encoding::Deflate, &stored);
    }

    #[test]
    fn a_deflate_stream_that_yields_too_little_is_refused() {
        refuses(Encoding::Deflate, &deflated(&cluster()[1..]));
        refuses(Encoding::Deflate, &[]);
        let stream = deflated(&cluster());
        refuses(Encoding::Deflate, &stream[..stream.len() / 2]);
    }

    #[test]
    fn zstd_frames_of_a_whole_cluster_are_accepted_whatever_follows() {
        let mut stream = zstd_frame(&cluster());
        accepts(Encoding::Zstd, &stream);
        stream.extend_from_slice(&[0x5a; 700]);
        accepts(Encoding::Zstd, &stream);
        let mut frames = zstd_frame(&cluster()[..1000]);
        frames.extend_from_slice(b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc");
        frames.extend_from_slice(&zstd_frame(&cluster()[1000..]));
        accepts(Encoding::Zstd, &frames);
    }

    #[test]
    fn zstd_frames_of_more_or_less_than_a_cluster_are_refused() {
        let mut longer = cluster();
        longer.push(0);
        refuses(Encoding::Zstd, &zstd_frame(&longer));
        refuses(Encoding::Zstd, &zstd_frame(&cluster()[1..]));
        refuses(Encoding::Zstd, &[]);
        let stream = zstd_frame(&cluster());
        refuses(Encoding::Zstd, &stream[..stream.len() - 1]);
        let mut garbage_between = zstd_frame(&cluster()[..1000]);
        garbage_between.push(0);
        garbage_between.extend_from_slice(&zstd_frame(&cluster()[1000..]));
        refuses(Encoding::Zstd, &garbage_between);
    }

    #[test]
    fn a_zstd_window_that_qemu_refuses_is_refused() {
        // A raw block of a whole cluster in a frame without content size; only the window differs.
        let frame = |window: u8| {
            let mut frame = b"\x28\xb5\x2f\xfd\x00".to_vec();
            frame.push(window);
            frame.extend_from_slice(&[0x01, 0x80, 0x00]);
            frame.extend_from_slice(&cluster());
            frame
        };
        accepts(Encoding::Zstd, &frame(17 << 3));
        refuses(Encoding::Zstd, &frame(18 << 3));
    }
}
