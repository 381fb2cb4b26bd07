//! Tar archives with one member that is the image, in the formats of v7, ustar, GNU and pax.

mod fields;
mod map;

use std::collections::VecDeque;

use super::manifest::{self, MAX_MANIFEST_BYTES, Manifest};
use super::writer::Writer;
use crate::error::{Error, ErrorKind, Result};
use fields::{MAX_MEMBER_BYTES, checksum, damaged, number, octal};
use map::Map;

const BLOCK: usize = 512;

/// The suffixes of members that are images.
const IMAGE_NAMES: [&str; 7] = ["raw", "img", "qcow2", "vmdk", "vhd", "vhdx", "vdi"];

/// Longest name, and longest pax header.
const MAX_TEXT_BYTES: u64 = 64 << 10; // 64 KiB

/// How many names an error shows.
const SHOWN_NAMES: usize = 8;

/// Reads an archive from its bytes, pushed in order.
pub(super) struct Archive {
    writer: Writer,
    state: State,
    block: Vec<u8>,
    /// What earlier headers say about the next member.
    next: Overrides,
    images: Vec<String>,
    others: Vec<String>,
    /// Whether there is an OVF descriptor, which makes the archive an OVA.
    is_ova: bool,
    /// The manifests' text.
    manifest: Option<Vec<u8>>,
}

/// The one image of an archive.
pub(super) struct Found {
    pub(super) writer: Writer,
    pub(super) name: String,
    pub(super) manifest: Option<Manifest>,
}

#[derive(Default)]
struct Overrides {
    name: Option<String>,
    size: Option<u64>,
}

enum State {
    Header,
    /// The blocks that continue a sparse member's map.
    Map {
        map: Map,
        size: u64,
    },
    Body {
        left: u64,
        what: What,
    },
    /// Zeros up to the next block.
    Padding(u64),
    /// Two blocks of zeros, or what follows them.
    End,
}

enum What {
    Skipped,
    Image(Map),
    Name(Vec<u8>),
    Pax(Vec<u8>),
    /// The length of the manifest itself, without its padding.
    Manifest(Vec<u8>, usize),
}

impl Archive {
    pub(super) fn new(writer: Writer) -> Self {
        Self {
            writer,
            state: State::Header,
            block: Vec::with_capacity(BLOCK),
            next: Overrides::default(),
            images: Vec::new(),
            others: Vec::new(),
            is_ova: false,
            manifest: None,
        }
    }

    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::End => return Ok(()),
                State::Header | State::Map { .. } => {
                    let wanted = bytes.len().min(BLOCK - self.block.len());
                    self.block.extend_from_slice(&bytes[..wanted]);
                    bytes = &bytes[wanted..];
                    if self.block.len() == BLOCK {
                        let block = std::mem::take(&mut self.block);
                        self.state = match std::mem::replace(&mut self.state, State::End) {
                            State::Map { map, size } => self.map(map, size, &block)?,
                            _ => self.header(&block)?,
                        };
                    }
                }
                State::Padding(left) => {
                    let skipped = (*left).min(bytes.len() as u64);
                    *left -= skipped;
                    bytes = &bytes[usize::try_from(skipped).unwrap_or(bytes.len())..];
                    if *left == 0 {
                        self.state = State::Header;
                    }
                }
                State::Body { left, what } => {
                    let len =
                        usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                    let (now, later) = bytes.split_at(len);
                    match what {
                        What::Skipped => {}
                        What::Name(text) | What::Pax(text) | What::Manifest(text, _) => {
                            text.extend_from_slice(now);
                        }
                        What::Image(map) => map.write(&mut self.writer, now)?,
                    }
                    *left -= len as u64;
                    bytes = later;
                    if *left == 0 {
                        self.end_of_body()?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Ends the archive. Returns its image, which has the digests in its manifest.
    pub(super) fn finish(self) -> Result<Found> {
        let is_whole = match self.state {
            State::End => true,
            State::Header => self.block.is_empty(),
            _ => false,
        };
        if !is_whole {
            return Err(Error::new(
                ErrorKind::Truncated,
                "The tar archive ends inside a member; fetch the image again",
            ));
        }
        let shown = |names: &[String]| {
            let more = if names.len() > SHOWN_NAMES {
                ", …"
            } else {
                ""
            };
            let first = names
                .iter()
                .take(SHOWN_NAMES)
                .map(|name| format!("{name:?}"));
            format!("{}{more}", first.collect::<Vec<_>>().join(", "))
        };
        match &self.images[..] {
            [name] => {
                let manifest = match &self.manifest {
                    Some(text) => {
                        let disk = self.writer.whole()?;
                        Some(manifest::check(text, name, disk, self.writer.len())?)
                    }
                    None => self.is_ova.then_some(Manifest::Missing),
                };
                Ok(Found {
                    name: name.clone(),
                    manifest,
                    writer: self.writer,
                })
            }
            [] => Err(Error::new(
                ErrorKind::OtherFormat,
                format!(
                    "The tar archive holds no image, which is a file named *.{}; it holds {}",
                    IMAGE_NAMES.join(", *."),
                    shown(&self.others)
                ),
            )),
            several => Err(Error::new(
                ErrorKind::OtherFormat,
                format!(
                    "The tar archive holds {} images: {}; upload the one that is meant",
                    several.len(),
                    shown(several)
                ),
            )),
        }
    }

    fn header(&mut self, block: &[u8]) -> Result<State> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(State::End);
        }
        if octal(&block[148..156]) != Some(checksum(block)) {
            return Err(damaged("a header has a wrong checksum"));
        }
        let kind = block[156];
        let own_size = number(&block[124..136]).filter(|size| *size <= MAX_MEMBER_BYTES);
        let own_size = own_size.ok_or_else(|| damaged("a member's length is not a number"))?;
        match kind {
            b'L' | b'K' | b'x' if own_size > MAX_TEXT_BYTES => {
                return Err(damaged("a member's name or header is too long"));
            }
            b'L' => return Ok(body(own_size, What::Name(Vec::new()))),
            b'x' => return Ok(body(own_size, What::Pax(Vec::new()))),
            b'K' | b'g' => return Ok(body(own_size, What::Skipped)),
            _ => {}
        }
        let Overrides { name, size } = std::mem::take(&mut self.next);
        let name = name.unwrap_or_else(|| fields::name(block));
        let size = size.unwrap_or(own_size);
        match kind {
            b'0' | 0 | b'7' | b'S' if !name.ends_with('/') => self.file(name, size, kind, block),
            // Links, devices and directories have no content, whatever their length field says.
            b'1'..=b'6' => Ok(State::Header),
            _ => Ok(body(size, What::Skipped)),
        }
    }

    fn file(&mut self, name: String, size: u64, kind: u8, block: &[u8]) -> Result<State> {
        let extension = name.rsplit_once('.').map(|(_, extension)| extension);
        let is_image = extension.is_some_and(|extension| {
            (IMAGE_NAMES.iter()).any(|known| extension.eq_ignore_ascii_case(known))
        });
        let has = |known: &str| extension.is_some_and(|found| found.eq_ignore_ascii_case(known));
        self.is_ova |= has("ovf");
        if has("mf") && kind != b'S' {
            let before = self.manifest.as_ref().map_or(0, Vec::len) as u64;
            if before + size > MAX_MANIFEST_BYTES {
                return Err(damaged("its manifest is too long"));
            }
            let length = usize::try_from(size).unwrap_or_default();
            // An empty one says nothing about the image, and is not as good as none.
            self.manifest.get_or_insert_default();
            return Ok(body(size, What::Manifest(Vec::new(), length)));
        }
        let list = match is_image {
            true => &mut self.images,
            false => &mut self.others,
        };
        let is_wanted = is_image && list.is_empty();
        // One more than are shown.
        if list.len() <= SHOWN_NAMES {
            list.push(name);
        }
        if kind == b'S' {
            // GNU's sparse members: a map of 4 pieces in the header, and more in the blocks after
            // it.
            let mut map = Map::default();
            map.add(&block[386..482])?;
            map.len = number(&block[483..495]).unwrap_or(u64::MAX);
            if block[482] != 0 {
                return Ok(State::Map { map, size });
            }
            return self.sparse(map, size);
        }
        if !is_wanted {
            return Ok(body(size, What::Skipped));
        }
        self.writer.extend(size)?;
        let map = Map {
            pieces: VecDeque::from([(0, size)]),
            len: size,
        };
        Ok(body(size, What::Image(map)))
    }

    fn map(&mut self, mut map: Map, size: u64, block: &[u8]) -> Result<State> {
        map.add(&block[..504])?;
        match block[504] {
            0 => self.sparse(map, size),
            _ => Ok(State::Map { map, size }),
        }
    }

    /// The body of a sparse member whose map is complete: the last member that was listed.
    fn sparse(&mut self, map: Map, size: u64) -> Result<State> {
        let packed: u64 = map.pieces.iter().map(|(_, len)| len).sum();
        let end = map.pieces.iter().map(|(offset, len)| offset + len).max();
        if packed != size || end.unwrap_or(0) > map.len {
            return Err(damaged("a sparse member's map does not fit its length"));
        }
        // Another image, or a member that is none, is only counted.
        if self.images.len() != 1 || self.writer.len() > 0 {
            return Ok(body(size, What::Skipped));
        }
        self.writer.extend(map.len)?;
        Ok(body(size, What::Image(map)))
    }

    fn end_of_body(&mut self) -> Result<()> {
        let State::Body { what, .. } = std::mem::replace(&mut self.state, State::Header) else {
            return Ok(());
        };
        let len = match &what {
            What::Name(text) | What::Pax(text) => text.len() as u64,
            What::Skipped | What::Image(_) | What::Manifest(..) => 0,
        };
        match what {
            What::Name(text) => {
                let name = text.split(|byte| *byte == 0).next().unwrap_or_default();
                self.next.name = Some(String::from_utf8_lossy(name).into_owned());
            }
            What::Pax(text) => self.pax(&text)?,
            What::Manifest(mut text, length) => {
                text.truncate(length);
                let manifest = self.manifest.get_or_insert_default();
                manifest.extend_from_slice(&text);
                manifest.push(b'\n');
                return Ok(());
            }
            What::Skipped | What::Image(_) => return Ok(()),
        }
        let padding = len.next_multiple_of(BLOCK as u64) - len;
        if padding > 0 {
            self.state = State::Padding(padding);
        }
        Ok(())
    }

    /// Records of a pax header: `LENGTH KEY=VALUE\n`.
    fn pax(&mut self, mut text: &[u8]) -> Result<()> {
        let bad = || damaged("a pax header has an invalid record");
        while !text.is_empty() {
            let space = text.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
            let len = std::str::from_utf8(&text[..space]).ok();
            let len: usize = len.and_then(|len| len.parse().ok()).ok_or_else(bad)?;
            let record = text.get(space + 1..len).ok_or_else(bad)?;
            text = &text[len..];
            let record = String::from_utf8_lossy(record);
            let (key, value) = record
                .trim_end_matches('\n')
                .split_once('=')
                .ok_or_else(bad)?;
            match key {
                "path" => self.next.name = Some(value.to_owned()),
                "size" => {
                    let size = value.parse().ok().filter(|size| *size <= MAX_MEMBER_BYTES);
                    self.next.size = Some(size.ok_or_else(bad)?);
                }
                key if key.starts_with("GNU.sparse.") => {
                    return Err(Error::new(
                        ErrorKind::UnknownFeature,
                        "A member of the tar archive is stored sparse in pax's way; pack it with \
                         `tar --format=gnu`",
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A member's body; in whole blocks if the bytes themselves do not show where it ends.
fn body(size: u64, what: What) -> State {
    let left = match what {
        // The padding is skipped with it, or belongs to no piece.
        What::Skipped | What::Image(_) | What::Manifest(..) => size.next_multiple_of(BLOCK as u64),
        What::Name(_) | What::Pax(_) => size,
    };
    match left {
        0 => State::Header,
        left => State::Body { left, what },
    }
}
