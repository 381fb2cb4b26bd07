//! The log of the device-mapper target `log-writes`: every write to a device in the order in which
//! they became durable, so that the device's state at any instant can be reconstructed.
//!
//! The format is in the kernel's `Documentation/admin-guide/device-mapper/log-writes.rst` and
//! `drivers/md/dm-log-writes.c`: a superblock, then entries of a sector each, which their data
//! follow. A write is logged at the next flush that came after its end, then that flush is; what
//! lies between two flushes may have reached the medium in any order, or not.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, ensure};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;

const FLUSH: u64 = 1 << 0;
const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;

/// A log.
#[derive(Debug)]
pub struct Log {
    file: File,
    sector_bytes: u64,
    /// What was logged, in order.
    pub entries: Vec<Entry>,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The first sector that was written.
    pub sector: u64,
    /// How many.
    pub sectors: u64,
    /// What a test wrote into the log here.
    pub mark: Option<String>,
    flags: u64,
    data_offset: u64,
}

impl Entry {
    /// Whether everything before it is durable.
    pub fn is_flush(&self) -> bool {
        self.flags & FLUSH != 0
    }
}

impl Log {
    /// Reads what there is from a log's device.
    pub fn read(file: File) -> Result<Self> {
        let mut block = [0; 512];
        let number = |block: &[u8], at: usize| {
            let bytes = block.get(at..at + 8).and_then(|b| b.try_into().ok());
            bytes.map(u64::from_le_bytes).context("a short block")
        };
        file.read_exact_at(&mut block, 0)?;
        let (magic, version) = (number(&block, 0)?, number(&block, 8)?);
        ensure!(
            (magic, version) == (MAGIC, VERSION),
            "no log: {magic:#x}, version {version}"
        );
        let count = number(&block, 16)?;
        let sector_bytes = number(&block, 24)? & u64::from(u32::MAX);
        let mut entries = Vec::new();
        let mut offset = sector_bytes;
        for _ in 0..count {
            file.read_exact_at(&mut block, offset)?;
            offset += sector_bytes;
            let mut entry = Entry {
                sector: number(&block, 0)?,
                sectors: number(&block, 8)?,
                flags: number(&block, 16)?,
                mark: None,
                data_offset: offset,
            };
            if entry.flags & MARK != 0 {
                let len = usize::try_from(number(&block, 24)?)?;
                let text = block.get(32..32 + len).context("a long mark")?;
                let text = String::from_utf8_lossy(text);
                entry.mark = Some(text.trim_end_matches('\0').to_owned());
            } else if entry.flags & DISCARD == 0 {
                offset += entry.sectors * sector_bytes;
            }
            entries.push(entry);
        }
        Ok(Self {
            file,
            sector_bytes,
            entries,
        })
    }

    /// Repeats what an entry did. A discard changes nothing: it guarantees nothing.
    pub fn replay(&self, entry: &Entry, to: &File) -> Result<()> {
        if entry.mark.is_some() || entry.flags & DISCARD != 0 || entry.sectors == 0 {
            return Ok(());
        }
        let mut bytes = vec![0; usize::try_from(entry.sectors * self.sector_bytes)?];
        self.file.read_exact_at(&mut bytes, entry.data_offset)?;
        to.write_all_at(&bytes, entry.sector * self.sector_bytes)?;
        Ok(())
    }
}
