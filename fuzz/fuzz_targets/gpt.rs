//! Whatever a disk's GPT says, a move of its backup touches no partition, stays on the volume, and is complete: a second
//! one has nothing to do.
#![no_main]

use std::ops::Range;

use flate2::Crc;
use libfuzzer_sys::fuzz_target;
use lvp_image::gpt::{self, Outcome, REACH_BYTES};

/// Bytes of the input that say how large disk and volume are.
const SIZES: usize = 8;

fuzz_target!(|data: &[u8]| {
    let Some((sizes, content)) = data.split_first_chunk::<SIZES>() else {
        return;
    };
    let number = |at: usize| u64::from(u16::from_le_bytes([sizes[at], sizes[at + 1]]));
    let sector = if sizes[4] & 1 == 0 { 512 } else { 4096 };
    let disk_bytes = 2 * REACH_BYTES + number(0) * 512;
    let volume_bytes = disk_bytes + number(2) * 512;
    let mut disk = vec![0; disk_bytes as usize];
    let length = content.len().min(REACH_BYTES as usize);
    disk[..length].copy_from_slice(&content[..length]);
    if sizes[4] & 2 == 0 {
        seal(&mut disk, sector);
    }
    let read = |disk: &[u8], range: Range<u64>| {
        assert!(range.start <= range.end && range.end <= disk_bytes.max(disk.len() as u64));
        Ok(disk[range.start as usize..range.end as usize].to_vec())
    };
    let Ok(planned) = gpt::plan(|range| read(&disk, range), disk_bytes, volume_bytes) else {
        return;
    };
    let mut volume = disk.clone();
    volume.resize(volume_bytes as usize, 0);
    let used = partitions(&disk, sector);
    let mut ranges: Vec<_> = planned.changes.iter().map(gpt::Change::range).collect();
    for change in &planned.changes {
        let range = change.range();
        assert!(range.end <= volume_bytes, "{range:?} of {volume_bytes}");
        if sizes[4] & 2 == 0 {
            let hit = used
                .iter()
                .find(|used| used.start < range.end && range.start < used.end);
            assert!(hit.is_none(), "{range:?} is in the partition {hit:?}");
        }
        volume[range.start as usize..range.end as usize].copy_from_slice(&change.bytes);
    }
    ranges.sort_by_key(|range| range.start);
    assert!(
        ranges.windows(2).all(|pair| pair[0].end <= pair[1].start),
        "{ranges:?}"
    );
    let again = gpt::plan(|range| read(&volume, range), volume_bytes, volume_bytes);
    let again = again.expect("what was made is sound").outcome;
    match planned.outcome {
        Outcome::NoTable => {}
        _ => assert_eq!(again, Outcome::AtEnd),
    }
});

/// Makes the checksums of header and array right, as far as their places are on the disk.
fn seal(disk: &mut [u8], sector: usize) {
    let (start, size, entries) = (sector, field(disk, sector + 12, 4), array(disk, sector));
    let Some(entries) = entries else { return };
    let sum = crc(&disk[entries]);
    disk[start + 88..start + 92].copy_from_slice(&sum.to_le_bytes());
    if (92..=sector).contains(&size) {
        disk[start + 16..start + 20].fill(0);
        let sum = crc(&disk[start..start + size]);
        disk[start + 16..start + 20].copy_from_slice(&sum.to_le_bytes());
    }
}

fn array(disk: &[u8], sector: usize) -> Option<Range<usize>> {
    let start = field(disk, sector + 72, 8).checked_mul(sector)?;
    let bytes = field(disk, sector + 80, 4).checked_mul(field(disk, sector + 84, 4))?;
    let end = start.checked_add(bytes)?;
    (end <= REACH_BYTES as usize).then_some(start..end)
}

/// What the partitions cover, in bytes.
fn partitions(disk: &[u8], sector: usize) -> Vec<Range<u64>> {
    let (Some(array), size) = (array(disk, sector), field(disk, sector + 84, 4)) else {
        return Vec::new();
    };
    let entries = disk[array].chunks_exact(size.max(128));
    let used = entries.filter(|entry| entry[..16].iter().any(|byte| *byte != 0));
    used.map(|entry| {
        let (first, last) = (field(entry, 32, 8) as u64, field(entry, 40, 8) as u64);
        let sector = sector as u64;
        first.saturating_mul(sector)..last.saturating_add(1).saturating_mul(sector)
    })
    .collect()
}

fn field(bytes: &[u8], at: usize, length: usize) -> usize {
    let bytes = &bytes[at..at + length];
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | usize::from(*byte))
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}
