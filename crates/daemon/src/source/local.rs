//! The checksum files and signatures beside an image on a disk: the same files that a job looks for beside an
//! object.

use std::io;
use std::path::Path;

use super::checksums::{FILES, MAX_DIRECTORY_BYTES, MAX_IMAGE_BYTES};
use super::evidence::{Beside, SIGNATURES, SignatureFile, SumsFile};
use super::url::Sibling;
use crate::files::{self, with_ending};

/// Reads all files that exist; signatures only if they are requested. Blocks.
pub fn beside(image: &Path, with_signatures: bool) -> io::Result<Beside> {
    let signatures = |of: &Path| match with_signatures {
        true => signatures(of),
        false => Ok(Vec::new()),
    };
    let mut beside = Beside {
        sums: Vec::new(),
        signatures: signatures(image)?,
    };
    for (sibling, algorithm) in FILES {
        let (path, max_bytes) = match sibling {
            Sibling::Suffix(suffix) => (with_ending(image, suffix), MAX_IMAGE_BYTES),
            Sibling::Beside(name) => (image.with_file_name(name), MAX_DIRECTORY_BYTES),
        };
        if let Some(bytes) = read(&path, max_bytes)? {
            beside.sums.push(SumsFile {
                sibling,
                algorithm,
                shown: path.display().to_string(),
                bytes,
                signatures: signatures(&path)?,
            });
        }
    }
    Ok(beside)
}

fn signatures(of: &Path) -> io::Result<Vec<SignatureFile>> {
    let mut found = Vec::new();
    for suffix in SIGNATURES {
        let path = with_ending(of, suffix);
        if let Some(bytes) = read(&path, lvp_trust::MAX_SIGNATURE_BYTES)? {
            found.push(SignatureFile {
                shown: path.display().to_string(),
                bytes,
            });
        }
    }
    Ok(found)
}

fn read(path: &Path, max_bytes: usize) -> io::Result<Option<Vec<u8>>> {
    match files::read(path, max_bytes as u64) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let shown = path.display();
            Err(io::Error::new(
                error.kind(),
                format!("Reading {shown} failed: {error}"),
            ))
        }
    }
}
