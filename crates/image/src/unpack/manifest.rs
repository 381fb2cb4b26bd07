//! The manifest of an OVA (DMTF DSP0243, section 5.1): a member `*.mf` with lines `SHA256(NAME)= HEX`.
//!
//! It is part of the object that is read, so it tells damage and mistakes, and nothing about who made the image.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};

use crate::error::{Error, ErrorKind, Result};

/// Longest manifest, all members together: one line takes about 200 bytes.
pub(super) const MAX_MANIFEST_BYTES: u64 = 1 << 20; // 1 MiB

/// How much is hashed at a time.
const BLOCK_BYTES: usize = 256 << 10; // 256 KiB

/// What the manifest of an OVA says about its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Manifest {
    /// The archive has no `*.mf`.
    Missing,
    /// It has the disk's digests, and the disk has these.
    Agrees(Vec<&'static str>),
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("The OVA has no manifest to check its disk with"),
            Self::Agrees(algorithms) => write!(
                f,
                "The disk has the digest in the OVA's manifest ({})",
                algorithms.join(", ")
            ),
        }
    }
}

/// A digest that a manifest has for the disk.
struct Expected {
    algorithm: &'static str,
    hex: String,
}

/// Compares the unpacked disk with all that the manifests say about it.
pub(super) fn check(manifest: &[u8], name: &str, disk: &File, len: u64) -> Result<Manifest> {
    let expected = lines_of(manifest, name)?;
    if expected.is_empty() {
        return Err(bad(format!(
            "The OVA's manifest does not name its disk {name:?}: correct the manifest, or pack the OVA without one"
        )));
    }
    let mut sums = Sums::default();
    for Expected { algorithm, .. } in &expected {
        sums.want(algorithm);
    }
    sums.read(disk, len)
        .map_err(|source| Error::io(ErrorKind::Read, "Reading the unpacked disk failed", source))?;
    let found = sums.finish();
    let mut agreed = Vec::new();
    for Expected { algorithm, hex } in expected {
        let of_disk = found.iter().find(|(known, _)| *known == algorithm);
        match of_disk {
            Some((_, right)) if *right == hex => {
                if !agreed.contains(&algorithm) {
                    agreed.push(algorithm);
                }
            }
            found => {
                let right = found.map(|(_, right)| right.as_str()).unwrap_or_default();
                return Err(bad(format!(
                    "The disk {name:?} has the {algorithm} {right}, and the OVA's manifest says {hex}: fetch or pack \
                     the OVA again"
                )));
            }
        }
    }
    Ok(Manifest::Agrees(agreed))
}

/// The lines about one member. Lines about others may have any form.
fn lines_of(manifest: &[u8], name: &str) -> Result<Vec<Expected>> {
    let text = String::from_utf8_lossy(manifest);
    let mut found = Vec::new();
    for line in text.lines() {
        let Some((algorithm, rest)) = line.split_once('(') else {
            continue;
        };
        // A name may have parentheses; the digest has none.
        let Some((member, hex)) = rest.rsplit_once(')') else {
            continue;
        };
        if plain(member) != plain(name) {
            continue;
        }
        let hex = hex.trim_start().strip_prefix('=').unwrap_or_default();
        let hex = hex.trim().to_ascii_lowercase();
        let (algorithm, digits) = match &*algorithm.trim().to_ascii_uppercase() {
            "SHA1" => ("SHA1", 40),
            "SHA256" => ("SHA256", 64),
            "SHA512" => ("SHA512", 128),
            other => {
                return Err(bad(format!(
                    "The OVA's manifest has a digest by {other:?} for {name:?}, and SHA1, SHA256 and SHA512 are known: \
                     make the manifest again"
                )));
            }
        };
        if hex.len() != digits || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(bad(format!(
                "The OVA's manifest has no {algorithm} of {digits} digits for {name:?}: make the manifest again"
            )));
        }
        found.push(Expected { algorithm, hex });
    }
    Ok(found)
}

/// A member's name without the `./` that tar may put before it.
fn plain(name: &str) -> &str {
    name.strip_prefix("./").unwrap_or(name)
}

/// The hashes that are asked for.
#[derive(Default)]
struct Sums {
    sha1: Option<Sha1>,
    sha256: Option<Sha256>,
    sha512: Option<Sha512>,
}

impl Sums {
    fn want(&mut self, algorithm: &str) {
        match algorithm {
            "SHA1" => self.sha1 = Some(Sha1::new()),
            "SHA256" => self.sha256 = Some(Sha256::new()),
            _ => self.sha512 = Some(Sha512::new()),
        }
    }

    fn read(&mut self, disk: &File, len: u64) -> io::Result<()> {
        let mut block = vec![0; BLOCK_BYTES];
        let mut offset = 0;
        while offset < len {
            let part = usize::try_from(len - offset).map_or(BLOCK_BYTES, |n| n.min(BLOCK_BYTES));
            let part = &mut block[..part];
            disk.read_exact_at(part, offset)?;
            if let Some(sum) = &mut self.sha1 {
                sum.update(&*part);
            }
            if let Some(sum) = &mut self.sha256 {
                sum.update(&*part);
            }
            if let Some(sum) = &mut self.sha512 {
                sum.update(&*part);
            }
            offset += part.len() as u64;
        }
        Ok(())
    }

    fn finish(self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        found.extend(self.sha1.map(|sum| ("SHA1", hex(&sum.finalize()))));
        found.extend(self.sha256.map(|sum| ("SHA256", hex(&sum.finalize()))));
        found.extend(self.sha512.map(|sum| ("SHA512", hex(&sum.finalize()))));
        found
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bad(what: String) -> Error {
    Error::new(ErrorKind::BadManifest, what)
}
