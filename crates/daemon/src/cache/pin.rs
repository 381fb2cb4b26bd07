//! Who uses a published image, and that it stays meanwhile.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lvp_api::Sha256Digest;

use crate::stamp::FileStamp;

/// What is being done with an image.
#[derive(Debug)]
enum Use {
    /// So many have it.
    Pinned(usize),
    /// It is being removed.
    Closed,
}

/// All pins. An image is pinned or being removed, never both.
#[derive(Debug, Default)]
pub(super) struct Pins(Mutex<HashMap<Sha256Digest, Use>>);

/// One user's hold on an image, whether or not it is there.
#[derive(Debug)]
pub(super) struct Seat {
    pins: Arc<Pins>,
    digest: Sha256Digest,
}

/// Keeps everybody from an image while it is removed.
pub(super) struct Closed {
    pins: Arc<Pins>,
    digest: Sha256Digest,
}

impl Closed {
    pub(super) fn digest(&self) -> Sha256Digest {
        self.digest
    }
}

/// A published image that stays while this lives: its open file, as it was found to be right.
pub struct Pin {
    seat: Seat,
    path: PathBuf,
    file: File,
    pub(super) stamp: FileStamp,
}

impl Pins {
    /// A seat, unless the image is just being removed.
    pub(super) fn take(self: &Arc<Self>, digest: Sha256Digest) -> Option<Seat> {
        match self.lock().entry(digest).or_insert(Use::Pinned(0)) {
            Use::Pinned(count) => *count += 1,
            Use::Closed => return None,
        }
        Some(Seat {
            pins: Arc::clone(self),
            digest,
        })
    }

    /// Closes the image, unless somebody has it.
    pub(super) fn close(self: &Arc<Self>, digest: Sha256Digest) -> Option<Closed> {
        match self.lock().entry(digest) {
            Entry::Occupied(_) => None,
            Entry::Vacant(free) => {
                free.insert(Use::Closed);
                Some(Closed {
                    pins: Arc::clone(self),
                    digest,
                })
            }
        }
    }

    /// Whether somebody has the image.
    pub(super) fn has(&self, digest: &Sha256Digest) -> bool {
        matches!(self.lock().get(digest), Some(Use::Pinned(_)))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Sha256Digest, Use>> {
        // Counts that no panic can leave half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut pins = self.pins.lock();
        if let Entry::Occupied(mut pinned) = pins.entry(self.digest)
            && let Use::Pinned(count) = pinned.get_mut()
        {
            *count -= 1;
            if *count == 0 {
                pinned.remove();
            }
        }
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        self.pins.lock().remove(&self.digest);
    }
}

impl Pin {
    pub(super) fn new(seat: Seat, path: PathBuf, file: File, stamp: FileStamp) -> Self {
        Self {
            seat,
            path,
            file,
            stamp,
        }
    }

    /// The image's file, as it is shown; what is read is [`Pin::file`], whatever has this name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The image, open. Its position is nobody's.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The image's digest.
    pub fn digest(&self) -> Sha256Digest {
        self.seat.digest
    }

    /// The file's length.
    pub fn size_bytes(&self) -> u64 {
        self.stamp.size_bytes
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pin").field(&self.digest()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_pinned_or_being_removed_and_never_both() {
        let pins = Arc::<Pins>::default();
        let digest = Sha256Digest::new([1; 32]);
        let seats = [pins.take(digest), pins.take(digest)].map(|seat| seat.expect("it is free"));
        assert!(pins.has(&digest));
        assert!(pins.close(digest).is_none());
        let [first, second] = seats;
        drop(first);
        assert!(pins.close(digest).is_none(), "one is left");
        drop(second);
        let closed = pins.close(digest).expect("nobody has it");
        assert!(pins.take(digest).is_none());
        assert!(pins.close(digest).is_none());
        assert!(!pins.has(&digest));
        drop(closed);
        assert!(pins.take(digest).is_some());
    }
}
