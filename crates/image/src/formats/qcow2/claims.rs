//! Which host clusters are in use, and by what.
//!
//! In one layer, QEMU never puts two things in the same host cluster, except compressed clusters.
//! An image where that happens is damaged or was made to confuse, for instance by an L2 table that
//! is also guest data, or one that two L1 entries point to.
//!
//! Outside the active layer, things of one kind may be shared, with corresponding refcounts:
//! bitmaps may share tables and clusters, and snapshots their L1 tables
//! ([`snapshots`](super::snapshots)).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};
use crate::limits::MAX_CLAIM_BYTES;

/// The use of a host cluster, in two bits.
const FREE: u64 = 0;
const EXCLUSIVE: u64 = 1;
const COMPRESSED: u64 = 2;
const BITMAP: u64 = 3;

/// A word of clusters with the same use.
const ALL_FREE: u64 = 0;
const ALL_EXCLUSIVE: u64 = u64::MAX / 3;

const PAGE_WORDS: usize = 512;
const CLUSTERS_PER_WORD: u64 = 32;
const CLUSTERS_PER_PAGE: u64 = PAGE_WORDS as u64 * CLUSTERS_PER_WORD;
/// A page with its share of the hash map.
const PAGE_BYTES: usize = PAGE_WORDS * 8 + 64;

type Page = [u64; PAGE_WORDS];

/// The record of the host clusters that an image's tables and data use.
///
/// It consists of pages that exist only where something is claimed, so that its size depends on
/// what the image uses, not on the length of a sparse file.
pub(super) struct Claims {
    cluster_bits: u32,
    index: HashMap<u64, usize>,
    pages: Vec<Box<Page>>,
    /// The page that was used last: its number and its index in `pages`.
    last: (u64, usize),
}

impl Claims {
    pub(super) fn new(cluster_bits: u32) -> Self {
        Self {
            cluster_bits,
            index: HashMap::new(),
            pages: Vec::new(),
            last: (u64::MAX, 0),
        }
    }

    /// The first cluster holds the header and nothing else.
    pub(super) fn header(&mut self) -> Result<()> {
        self.exclusive(0..1, || "The header".to_owned())
    }

    /// Claims every cluster that `range` (in bytes, not empty) touches, exclusively.
    pub(super) fn exclusive(&mut self, range: Range<u64>, what: impl Fn() -> String) -> Result<()> {
        let mut clusters = self.clusters(range);
        while let Some(cluster) = clusters.next() {
            let (word, shift) = self.slot(cluster)?;
            if shift == 0 && clusters.end - cluster >= CLUSTERS_PER_WORD && *word == ALL_FREE {
                // A large table claims its clusters a word at a time.
                *word = ALL_EXCLUSIVE;
                clusters.start = cluster + CLUSTERS_PER_WORD;
            } else if (*word >> shift) & 3 == FREE {
                *word |= EXCLUSIVE << shift;
            } else {
                return Err(self.overlap(cluster, what()));
            }
        }
        Ok(())
    }

    /// Claims every cluster that `range` touches for compressed data, which may share it.
    pub(super) fn compressed(
        &mut self,
        range: Range<u64>,
        what: impl Fn() -> String,
    ) -> Result<()> {
        self.shared(COMPRESSED, range, what)
    }

    /// Claims every cluster that `range` touches for bitmaps, which may share it.
    pub(super) fn bitmap(&mut self, range: Range<u64>, what: impl Fn() -> String) -> Result<()> {
        self.shared(BITMAP, range, what)
    }

    fn shared(&mut self, user: u64, range: Range<u64>, what: impl Fn() -> String) -> Result<()> {
        for cluster in self.clusters(range) {
            let (word, shift) = self.slot(cluster)?;
            let found = (*word >> shift) & 3;
            if found != FREE && found != user {
                return Err(self.overlap(cluster, what()));
            }
            *word |= user << shift;
        }
        Ok(())
    }

    fn clusters(&self, range: Range<u64>) -> Range<u64> {
        range.start >> self.cluster_bits..((range.end - 1) >> self.cluster_bits) + 1
    }

    fn slot(&mut self, cluster: u64) -> Result<(&mut u64, u64)> {
        let number = cluster / CLUSTERS_PER_PAGE;
        if self.last.0 != number {
            self.last = (number, self.page(number)?);
        }
        let in_page = cluster % CLUSTERS_PER_PAGE;
        let word = (in_page / CLUSTERS_PER_WORD) as usize;
        Ok((
            &mut self.pages[self.last.1][word],
            in_page % CLUSTERS_PER_WORD * 2,
        ))
    }

    fn page(&mut self, number: u64) -> Result<usize> {
        match self.index.entry(number) {
            Entry::Occupied(entry) => Ok(*entry.get()),
            Entry::Vacant(entry) => {
                if (self.pages.len() + 1) * PAGE_BYTES > MAX_CLAIM_BYTES {
                    return Err(Error::new(
                        ErrorKind::TooLarge,
                        format!(
                            "The image uses more clusters, or more scattered ones, than {} MiB \
                             keep a record of; convert it with larger clusters",
                            MAX_CLAIM_BYTES >> 20
                        ),
                    ));
                }
                self.pages.push(Box::new([0; PAGE_WORDS]));
                Ok(*entry.insert(self.pages.len() - 1))
            }
        }
    }

    fn overlap(&self, cluster: u64, what: String) -> Error {
        let offset = cluster << self.cluster_bits;
        Error::new(
            ErrorKind::Overlap,
            if cluster == 0 {
                format!("{what} is in the header's cluster")
            } else {
                format!(
                    "{what} is in the cluster at {offset:#x}, which another part of the \
                     image uses"
                )
            },
        )
    }
}
