//! Recognises by their content the formats that this crate reads, and others that it does not.
//!
//! Anything can be a raw disk, so the content of an image that is declared raw is checked: if it
//! begins (or, for two formats, ends) like another image format or an archive, it is refused.
//! Otherwise a guest or a tool on the hypervisor could be made to trust that content. A disk begins
//! with a boot sector, a file system or nothing, never with one of these.

use std::fmt;
use std::io;

use crate::error::{Error, ErrorKind, Result};
use crate::format::{ImageType, StreamCodec};
use crate::source::ReadAt;

/// What the first bytes of a raw image show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recognised {
    /// Nothing that is known: a disk.
    Disk,
    /// A compressed stream.
    Stream(StreamCodec),
    /// Something else, with its name.
    Other(&'static str),
}

impl fmt::Display for Recognised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk => f.write_str("a raw disk"),
            Self::Stream(codec) => write!(f, "a {codec} stream"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// How much of an image's beginning [`sniff_head`] looks at.
pub(crate) const HEAD_BYTES: usize = 4096;
/// How much of an image's end [`sniff_tail`] looks at.
pub(crate) const TAIL_BYTES: usize = 512;

/// Checks both ends of an image that is declared raw: it is a disk or a stream, or it is refused.
pub(crate) fn sniff_raw(source: &dyn ReadAt) -> Result<Recognised> {
    let len = source.len();
    if len == 0 {
        return Err(Error::new(
            ErrorKind::Truncated,
            "The image file is empty; fetch the image again",
        ));
    }
    let content = sniff_head(&read_head(source)?);
    if let Recognised::Other(name) = content {
        return Err(other_format(name));
    }
    if let Some(tail_offset) = len.checked_sub(TAIL_BYTES as u64) {
        let mut tail = [0; TAIL_BYTES];
        read(source, tail_offset, &mut tail)?;
        if let Some(name) = sniff_tail(&tail) {
            return Err(other_format(name));
        }
    }
    Ok(content)
}

/// As much of an image's beginning as is looked at.
pub(super) fn read_head(source: &dyn ReadAt) -> Result<Vec<u8>> {
    let len = usize::try_from(source.len()).unwrap_or(HEAD_BYTES);
    let mut head = vec![0; len.min(HEAD_BYTES)];
    read(source, 0, &mut head)?;
    Ok(head)
}

fn read(source: &dyn ReadAt, offset: u64, buf: &mut [u8]) -> Result<()> {
    source.read_exact_at(buf, offset).map_err(|error| {
        let kind = if error.kind() == io::ErrorKind::UnexpectedEof {
            ErrorKind::Truncated
        } else {
            ErrorKind::Read
        };
        Error::io(kind, format!("Reading the image at {offset:#x}"), error)
    })
}

/// The error for an image that is declared raw and is `name`.
pub(crate) fn other_format(name: &str) -> Error {
    let advice = match other_format_of(name) {
        Some(other) => format!("declare it {other} (image_type)"),
        None => "declare its real type, or convert it to raw".to_owned(),
    };
    Error::new(
        ErrorKind::OtherFormat,
        format!("The image is declared raw, but its content is {name}; {advice}"),
    )
}

/// The declared type for what is recognised under this name; neither raw nor auto.
pub(super) fn other_format_of(name: &str) -> Option<ImageType> {
    [
        ("VHDX", ImageType::Vhdx),
        ("VHD", ImageType::Vhd),
        ("VMDK", ImageType::Vmdk),
        ("VDI", ImageType::Vdi),
        ("qcow2", ImageType::Qcow2),
    ]
    .into_iter()
    .find_map(|(word, image_type)| name.contains(word).then_some(image_type))
}

/// The error for an image that is declared to be of one format and is something else.
pub(super) fn not_this_format(declared: ImageType, source: &dyn ReadAt) -> Error {
    let found = match kinds(source) {
        Ok(found) => found.into_iter().next().unwrap_or(Recognised::Disk),
        Err(error) => return error,
    };
    let advice = match found {
        Recognised::Disk => "of no known format; declare it raw if it is a disk".to_owned(),
        Recognised::Stream(codec) => format!("a {codec} stream"),
        Recognised::Other(name) => match other_format_of(name) {
            Some(other) => format!("{name}; declare it {other} (image_type)"),
            None => format!("{name}, which is not supported"),
        },
    };
    Error::new(
        ErrorKind::NotThisFormat,
        format!("The image is declared {declared}, but its content is {advice}"),
    )
}

/// Everything that an image's two ends are recognised as, other than a disk.
pub(super) fn kinds(source: &dyn ReadAt) -> Result<Vec<Recognised>> {
    let len = source.len();
    let head = read_head(source)?;
    let mut found = Vec::new();
    let mut add = |kind: Recognised| {
        let is_same = |known: &Recognised| match (known, kind) {
            (Recognised::Other(known), Recognised::Other(name)) => {
                *known == name
                    || other_format_of(name).is_some_and(|one| other_format_of(known) == Some(one))
            }
            (known, kind) => *known == kind,
        };
        if !found.iter().any(is_same) {
            found.push(kind);
        }
    };
    if let Recognised::Stream(codec) = sniff_head(&head) {
        add(Recognised::Stream(codec));
    }
    others(&head).for_each(|name| add(Recognised::Other(name)));
    if let Some(tail_offset) = len.checked_sub(TAIL_BYTES as u64) {
        let mut tail = [0; TAIL_BYTES];
        read(source, tail_offset, &mut tail)?;
        if let Some(name) = sniff_tail(&tail) {
            add(Recognised::Other(name));
        }
    }
    Ok(found)
}

/// The supported streams, by their first bytes.
const STREAMS: &[(&[u8], StreamCodec)] = &[
    (b"\x1f\x8b\x08", StreamCodec::Gzip),
    (b"\xfd7zXZ\0", StreamCodec::Xz),
    (b"\x28\xb5\x2f\xfd", StreamCodec::Zstd),
    // After the block size: the magic numbers of a block, and of an empty stream.
    (b"BZh?\x31\x41\x59\x26\x53\x59", StreamCodec::Bzip2),
    (b"BZh?\x17\x72\x45\x38\x50\x90", StreamCodec::Bzip2),
    // Tools put skippable frames first; the last digit can be any.
    (b"\x50\x2a\x4d\x18", StreamCodec::Zstd),
];

/// What else an image may be, by the bytes at an offset.
const OTHERS: &[(usize, &[u8], &str)] = &[
    (0, b"QFI\xfb", "a qcow or qcow2 image"),
    (0, b"QED\0", "a QED image"),
    (0, b"KDMV", "a VMDK image"),
    (0, b"COWD", "a VMDK image"),
    (0, b"\xbe\xba\xfe\xca\0\0\0\0", "a VMDK (SESparse) image"),
    (0, b"conectix", "a VHD image"),
    (0, b"vhdxfile", "a VHDX image"),
    (0, b"<<< ", "a VDI image"),
    (0x40, b"\x7f\x10\xda\xbe", "a VDI image"),
    (0, b"LUKS\xba\xbe", "a LUKS volume"),
    (0, b"WithoutFreeSpace", "a Parallels image"),
    (0, b"WithouFreSpacExt", "a Parallels image"),
    (0, b"Bochs Virtual HD Image", "a Bochs image"),
    (0, b"#!/bin/sh\n#V2.0 Format", "a cloop image"),
    (0, b"koly", "a DMG image"),
    (0, b"encrcdsa", "an encrypted DMG image"),
    (0, b"sprs", "an Apple sparse image"),
    (0, b"shdw", "an Apple sparse image"),
    (0, b"\x3a\xff\x26\xed", "an Android sparse image"),
    (0, b"MSWIM\0\0\0", "a WIM image"),
    (0, b"EVF\x09\x0d\x0a\xff\0", "an EnCase image"),
    (0, b"partclone-image", "a Partclone image"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (0, b"Rar!\x1a\x07", "a RAR archive"),
    (257, b"ustar", "a tar archive (perhaps an OVA)"),
    (0, b"\x04\x22\x4d\x18", "an LZ4 stream"),
    (0, b"\x02\x21\x4c\x18", "an LZ4 stream"),
    (0, b"LZIP\x01", "an lzip stream"),
    (0, b"\x89LZO\0\x0d\x0a\x1a\x0a", "an lzop stream"),
    (0, b"\x1f\x9d", "a compress (.Z) stream"),
    (
        0,
        b"\x5d\0\0?\0\xff\xff\xff\xff\xff\xff\xff\xff",
        "an LZMA stream",
    ),
];

/// Recognises an image by its first [`HEAD_BYTES`], or all of it if it is shorter.
pub(crate) fn sniff_head(head: &[u8]) -> Recognised {
    if head.is_empty() {
        return Recognised::Disk;
    }
    for &(magic, codec) in STREAMS {
        let is_skippable = magic[0] == 0x50;
        // An image of a few bytes is not a disk, so the beginning of a magic number is enough.
        let is_stream = head.iter().zip(magic).all(|(byte, expected)| {
            *expected == b'?' || byte == expected || is_skippable && byte ^ expected < 0x10
        });
        if is_stream && !(is_skippable && head.len() < magic.len()) {
            return Recognised::Stream(codec);
        }
    }
    others(head)
        .next()
        .map_or(Recognised::Disk, Recognised::Other)
}

/// What an image's first bytes show, other than a stream.
fn others(head: &[u8]) -> impl Iterator<Item = &'static str> {
    let has_magic = |offset: usize, magic: &[u8]| {
        let found = head.get(offset..).and_then(|rest| rest.get(..magic.len()));
        found.is_some_and(|bytes| {
            (bytes.iter().zip(magic))
                .all(|(byte, expected)| byte == expected || (*expected == b'?' && magic[0] == 0x5d))
        })
    };
    OTHERS
        .iter()
        .filter(move |(offset, magic, _)| has_magic(*offset, magic))
        .map(|(_, _, name)| *name)
        .chain(is_vmdk_descriptor(head).then_some("a VMDK descriptor"))
        .chain(is_old_tar(head).then_some("a tar archive of the old format"))
}

/// Recognises a tar archive without the word `ustar`: its first header has a valid checksum.
fn is_old_tar(head: &[u8]) -> bool {
    const CHECKSUM: std::ops::Range<usize> = 148..156;
    let Some(header) = head.first_chunk::<512>() else {
        return false;
    };
    let has_name = header[0] != 0 && !header[257..].starts_with(b"ustar");
    let digits = header[CHECKSUM].split(|byte| matches!(byte, 0 | b' '));
    let digits = digits.filter(|part| !part.is_empty()).collect::<Vec<_>>();
    let [digits] = digits[..] else {
        return false;
    };
    let stored = std::str::from_utf8(digits).ok();
    let stored = stored.and_then(|digits| u32::from_str_radix(digits, 8).ok());
    // The checksum field itself counts as spaces.
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    let found = sum(&header[..CHECKSUM.start]) + sum(&header[CHECKSUM.end..]) + 8 * u32::from(b' ');
    has_name && stored == Some(found)
}

/// Recognises an image by its last [`TAIL_BYTES`].
pub(crate) fn sniff_tail(tail: &[u8; TAIL_BYTES]) -> Option<&'static str> {
    if tail.starts_with(b"conectix") {
        Some("a VHD image of fixed size")
    } else if tail.starts_with(b"koly") {
        Some("a DMG image")
    } else {
        None
    }
}

/// Recognises a VMDK descriptor: the title, or comments and blank lines before a version, as QEMU
/// probes for it.
pub(super) fn is_vmdk_descriptor(head: &[u8]) -> bool {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    text.split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .find(|line| !line.is_empty() && line.first() != Some(&b'#') || is_vmdk_title(line))
        .is_some_and(|line| {
            is_vmdk_title(line)
                || line
                    .strip_prefix(b"version=")
                    .is_some_and(|version| version.first().is_some_and(u8::is_ascii_digit))
        })
}

fn is_vmdk_title(line: &[u8]) -> bool {
    const TITLE: &[u8] = b"# Disk DescriptorFile";
    line.get(..TITLE.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(TITLE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_recognised_as_disks() {
        let mut boot_sector = vec![0; HEAD_BYTES];
        boot_sector[..3].copy_from_slice(b"\xeb\x63\x90");
        boot_sector[510..512].copy_from_slice(b"\x55\xaa");
        let mut iso = vec![0; HEAD_BYTES * 9];
        iso[0x8001..0x8006].copy_from_slice(b"CD001");
        let mut xfs = vec![0; HEAD_BYTES];
        xfs[..4].copy_from_slice(b"XFSB");
        for disk in [boot_sector, iso, xfs, vec![0; 512], b"BZhello".to_vec()] {
            assert_eq!(sniff_head(&disk), Recognised::Disk, "{:?}", &disk[..4]);
        }
    }

    #[test]
    fn streams_are_recognised_even_when_cut_within_their_magic_number() {
        for (magic, codec) in STREAMS {
            let stream: Vec<u8> = magic
                .iter()
                .map(|byte| if *byte == b'?' { b'9' } else { *byte })
                .collect();
            assert_eq!(sniff_head(&stream), Recognised::Stream(*codec));
            if magic[0] != 0x50 {
                assert_eq!(sniff_head(&stream[..3]), Recognised::Stream(*codec));
            }
        }
        assert_eq!(
            sniff_head(b"\x5e\x2a\x4d\x18\x00\x00\x00\x00"),
            Recognised::Stream(StreamCodec::Zstd)
        );
    }

    #[test]
    fn vmdk_descriptors_are_recognised_by_title_or_version() {
        for text in [
            "# Disk DescriptorFile\nversion=1\n",
            "#disk\n\n  \r\n# more\nversion=3\r\nCID=1\n",
            "\n# disk descriptorfile\nencoding=1\n",
        ] {
            assert_eq!(
                sniff_head(text.as_bytes()),
                Recognised::Other("a VMDK descriptor"),
                "{text}"
            );
        }
        for text in [
            "#!/bin/sh\necho\n",
            "# only a comment\n",
            "version\n",
            "a\nversion=1\n",
        ] {
            assert_eq!(sniff_head(text.as_bytes()), Recognised::Disk, "{text}");
        }
    }

    #[test]
    fn every_other_format_is_recognised_by_its_magic_number() {
        for &(offset, magic, name) in OTHERS {
            let mut head = vec![0; HEAD_BYTES];
            head[offset..offset + magic.len()].copy_from_slice(magic);
            assert_eq!(sniff_head(&head), Recognised::Other(name));
        }
    }
}
