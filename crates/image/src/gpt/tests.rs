use std::io::Write as _;

use super::*;

const MIB: u64 = 1 << 20;

/// A disk with a table by the specification: one partition, from the first usable block to the last.
fn disk(sector: u64, bytes: u64) -> Vec<u8> {
    let at = |offset: u64| usize::try_from(offset).unwrap();
    let mut disk = vec![0; at(bytes)];
    let last = bytes / sector - 1;
    let array_sectors = MIN_ARRAY_BYTES / sector;
    let (first_usable, last_usable) = (2 + array_sectors, last - array_sectors - 1);
    let mut array = vec![0; at(MIN_ARRAY_BYTES)];
    array[..32].fill(7);
    array[32..40].copy_from_slice(&first_usable.to_le_bytes());
    array[40..48].copy_from_slice(&last_usable.to_le_bytes());
    let mut sum = flate2::Crc::new();
    sum.update(&array);
    for (me, other, table) in [(1, last, 2), (last, 1, last - array_sectors)] {
        let mut header = vec![0; 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..16].copy_from_slice(&[0, 0, 1, 0, 92, 0, 0, 0]);
        for (offset, value) in [
            (24, me),
            (32, other),
            (40, first_usable),
            (48, last_usable),
            (56, 0x1234),
            (72, table),
        ] {
            header[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
        }
        header[80..84].copy_from_slice(&128_u32.to_le_bytes());
        header[84..88].copy_from_slice(&128_u32.to_le_bytes());
        header[88..92].copy_from_slice(&sum.sum().to_le_bytes());
        let mut own = flate2::Crc::new();
        own.update(&header);
        header[16..20].copy_from_slice(&own.sum().to_le_bytes());
        disk[at(me * sector)..][..92].copy_from_slice(&header);
        disk[at(table * sector)..][..array.len()].copy_from_slice(&array);
    }
    disk[446 + 4] = 0xee;
    disk[446 + 8] = 1;
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

fn plan_for(disk: &[u8], volume_bytes: u64) -> Result<Move> {
    let read = |range: Range<u64>| {
        let reach = REACH_BYTES;
        let size = disk.len() as u64;
        assert!(
            range.end <= reach || range.start >= size.saturating_sub(reach),
            "{range:?}"
        );
        let at = |offset: u64| usize::try_from(offset).unwrap();
        Ok(disk[at(range.start)..at(range.end)].to_vec())
    };
    plan(read, disk.len() as u64, volume_bytes)
}

fn applied(disk: &[u8], volume_bytes: u64) -> Vec<u8> {
    let mut volume = disk.to_vec();
    volume.resize(usize::try_from(volume_bytes).unwrap(), 0);
    for change in plan_for(disk, volume_bytes).unwrap().changes {
        let at = usize::try_from(change.offset).unwrap();
        volume[at..at + change.bytes.len()].copy_from_slice(&change.bytes);
    }
    volume
}

#[test]
fn the_backup_moves_and_a_second_move_finds_nothing_to_do() {
    for sector in SECTOR_SIZES {
        // Disjoint from the old backup, overlapping it by all but one block, not whole blocks.
        for more in [4 * MIB, sector, 3 * MIB + 512] {
            let image = disk(sector, 5 * MIB);
            let volume_bytes = 5 * MIB + more;
            let volume = applied(&image, volume_bytes);
            let found = plan_for(&volume, volume_bytes).unwrap();
            assert_eq!(found, Move::none(Outcome::AtEnd), "{sector} {more}");
            // What a larger volume then gets is the same as when it had been moved there at once.
            assert_eq!(applied(&volume, 20 * MIB), applied(&image, 20 * MIB));
            let moved = plan_for(&image, volume_bytes).unwrap();
            let Outcome::Moved { had_backup, to, .. } = moved.outcome else {
                panic!("{moved:?}");
            };
            assert!(had_backup);
            assert_eq!(to, volume_bytes / sector * sector - sector);
            let backup = moved.backup().unwrap();
            assert_eq!(backup.end, to + sector);
            for (index, change) in moved.changes.iter().enumerate() {
                for other in &moved.changes[index + 1..] {
                    let (a, b) = (change.range(), other.range());
                    assert!(a.end <= b.start || b.end <= a.start, "{a:?} {b:?}");
                }
            }
        }
    }
}

#[test]
fn what_is_damaged_is_refused_and_what_is_no_gpt_is_left() {
    let sound = disk(512, 4 * MIB);
    let with = |offset: usize, byte: u8| {
        let mut disk = sound.clone();
        disk[offset] ^= byte;
        plan_for(&disk, 8 * MIB)
    };
    for (offset, what) in [
        (512, "signature"),
        (512 + 16, "checksum"),
        (512 + 60, "GUID"),
        (1024 + 33, "a partition"),
        (1024 + 16383, "the array's end"),
    ] {
        let error = with(offset, 0x10).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadPartitionTable, "{what}");
        assert!(error.to_string().contains("sgdisk"), "{error}");
    }
    for offset in [510, 446 + 4] {
        assert_eq!(with(offset, 0xff).unwrap().outcome, Outcome::NoTable);
    }
    for size in [0, 100, 512, 1023] {
        let tiny = vec![0; size];
        assert_eq!(plan_for(&tiny, MIB).unwrap().outcome, Outcome::NoTable);
    }
    // The backup's damage is repaired, and told.
    let moved = with(sound.len() - 500, 1).unwrap();
    assert!(moved.outcome.to_string().contains("no sound backup"));
}

#[test]
fn a_volume_without_room_behind_the_partitions_is_refused() {
    // The image was cut off behind its partition.
    let mut image = disk(512, 4 * MIB);
    image.truncate(image.len() - 33 * 512);
    let size = image.len() as u64;
    for more in [0, 512, 32 * 512] {
        let error = plan_for(&image, size + more).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadPartitionTable);
        assert!(error.to_string().contains("no room"), "{error}");
    }
    let volume = applied(&image, size + 34 * 512);
    let found = plan_for(&volume, size + 34 * 512).unwrap();
    assert_eq!(found.outcome, Outcome::AtEnd);
}

#[test]
fn a_hybrid_mbr_stays() {
    let mut image = disk(512, 4 * MIB);
    image[446 + 16 + 4] = 0x83;
    let volume = applied(&image, 8 * MIB);
    assert_eq!(volume[..512], image[..512]);
    let moved = plan_for(&image, 8 * MIB).unwrap();
    assert!(moved.outcome.to_string().contains("hybrid"));
}

#[test]
fn a_disk_is_changed_in_place_as_in_memory() {
    let image = disk(4096, 6 * MIB);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&image).unwrap();
    file.set_len(9 * MIB).unwrap();
    let outcome = move_in_place(&file, 6 * MIB, 9 * MIB).unwrap();
    assert_eq!(outcome, plan_for(&image, 9 * MIB).unwrap().outcome);
    assert_eq!(
        read_file(&file, 0..9 * MIB).unwrap(),
        applied(&image, 9 * MIB)
    );
    assert_eq!(
        move_in_place(&file, 9 * MIB, 9 * MIB).unwrap(),
        Outcome::AtEnd
    );
}

#[test]
fn no_table_makes_it_panic_or_change_a_partition() {
    // Every field of the header at its extremes, with a right checksum.
    let sound = disk(512, 4 * MIB);
    for offset in (8..92).step_by(4) {
        for value in [0_u32, 1, 2, 33, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            let mut image = sound.clone();
            image[512 + offset..512 + offset + 4].copy_from_slice(&value.to_le_bytes());
            let size = usize::try_from(u32::from_le_bytes(
                image[512 + 12..512 + 16].try_into().unwrap(),
            ))
            .unwrap()
            .clamp(92, 512);
            image[512 + 16..512 + 20].fill(0);
            let mut sum = flate2::Crc::new();
            sum.update(&image[512..512 + size]);
            image[512 + 16..512 + 20].copy_from_slice(&sum.sum().to_le_bytes());
            for volume in [4 * MIB, 4 * MIB + 512, 64 * MIB] {
                let Ok(moved) = plan_for(&image, volume) else {
                    continue;
                };
                for change in moved.changes {
                    let range = change.range();
                    assert!(range.end <= volume, "{offset} {value:x}");
                    let partition = 34 * 512..4 * MIB - 33 * 512;
                    assert!(
                        range.end <= partition.start || range.start >= partition.end,
                        "{offset} {value:x} {range:?}"
                    );
                }
            }
        }
    }
}
