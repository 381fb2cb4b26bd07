use std::fs::File;

use bytes::Bytes;

use super::*;

#[test]
fn aligned_memory_is_zeroed_aligned_and_writable() {
    let check = |mut buf: AlignedBuf, len, alignment| {
        assert_eq!((buf.len(), buf.as_ptr().align_offset(alignment)), (len, 0));
        assert!(buf.iter().all(|byte| *byte == 0));
        buf[len - 1] = 7;
        assert_eq!(buf[len - 1], 7);
    };
    let odd = 3 * PAGE_BYTES + 5;
    check(AlignedBuf::new(odd).unwrap(), odd, PAGE_BYTES);
    let small = AlignedBuf::with_huge_pages(odd, usize::MAX).unwrap();
    check(small, odd, PAGE_BYTES);
    let large = 2 * HUGE_PAGE_BYTES + odd;
    let buf = AlignedBuf::with_huge_pages(large, HUGE_PAGE_BYTES).unwrap();
    check(buf, large, HUGE_PAGE_BYTES);
}

#[test]
fn a_freshly_written_file_is_cached_and_a_range_lock_excludes_a_second_opener() {
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(path.path(), vec![1_u8; 100_000]).unwrap();
    let open = || File::options().read(true).write(true).open(path.path());
    let (first, second) = (open().unwrap(), open().unwrap());
    assert!(is_cached(&first, &(4097..99_999)).unwrap());
    assert!(try_lock_range(&first, &(100..300)).unwrap());
    assert!(!try_lock_range(&second, &(200..201)).unwrap());
    drop(first);
    assert!(try_lock_range(&second, &(200..201)).unwrap());
}

#[test]
fn asynchronous_writes_reach_their_offsets_and_return_their_results() {
    let file = tempfile::tempfile().unwrap();
    let mut writes = AsyncWrites::new(4).unwrap();
    assert!(writes.next_done(true).unwrap().is_none());
    let shared = Memory::Shared(Bytes::from_static(b"abcdef"));
    // More than there is room for at once.
    let parts = (0..64_u64).map(|place| (0..3, place * 3));
    let many = writes
        .submit(&file, shared, parts.collect::<Vec<_>>().into_iter())
        .unwrap();
    let own = Memory::Own(AlignedBuf::new(4096).unwrap());
    let one = writes
        .submit(&file, own, [(0..6, 192)].into_iter())
        .unwrap();
    assert_ne!(many, one);
    let mut keys = Vec::new();
    while let Some(done) = writes.next_done(true).unwrap() {
        let each = if matches!(done.memory, Memory::Own(_)) {
            6
        } else {
            3
        };
        assert!(
            done.results
                .iter()
                .all(|written| *written.as_ref().unwrap() == each)
        );
        keys.push((done.key, done.results.len()));
    }
    keys.sort_unstable();
    assert_eq!(keys, [(many, 64), (one, 1)]);
    let mut found = vec![0; 200];
    let len = std::os::unix::fs::FileExt::read_at(&file, &mut found, 0).unwrap();
    assert_eq!(found[..len], [b"abc".repeat(64), vec![0; 6]].concat());

    let read_only = File::open("/dev/null").unwrap();
    let shared = Memory::Shared(Bytes::from_static(b"abc"));
    writes
        .submit(&read_only, shared, [(0..3, 0)].into_iter())
        .unwrap();
    let results = writes.next_done(true).unwrap().unwrap().results;
    assert_eq!(
        results[0].as_ref().unwrap_err().raw_os_error(),
        Some(libc::EBADF)
    );
}

#[test]
fn holes_of_a_sparse_file_are_found_and_made() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(4 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[1; 65536], 1 << 20).unwrap();
    assert_eq!(seek_data(&file, 0).unwrap(), Some(1 << 20));
    assert_eq!(seek_hole(&file, 1 << 20).unwrap(), Some((1 << 20) + 65536));
    assert_eq!(seek_data(&file, 2 << 20).unwrap(), None);
    punch_hole(&file, &(0..2 << 20)).unwrap();
    assert_eq!(seek_data(&file, 0).unwrap(), None);
}
