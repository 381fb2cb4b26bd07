//! What a plan promises, for every format: shared by the fuzz targets.

use lvp_image::ErrorKind;
use lvp_image::decode::Decoder;
use lvp_image::format::ImageType;
use lvp_image::plan::{Batch, Encoding, Extent, Planner};

/// Streams that are decoded for one input; more only cost time.
const MAX_DECODED: usize = 8;

/// Disks that are walked in the smallest batches; larger ones would take too many.
const MAX_WALKED: u64 = 1 << 30;

/// Opens an image and holds its plan to what plans promise, in one batch and in many.
pub fn plan(data: &[u8], declared: ImageType) {
    let mut planner = match Planner::open(data, declared) {
        Ok(planner) => planner,
        Err(error) => {
            assert!(
                error.kind().is_refusal() || error.kind() == ErrorKind::Packed,
                "{error}"
            );
            return;
        }
    };
    let info = planner.info().clone();
    let virtual_size = info.virtual_size.expect("all but streams have a size");
    if !planner.is_one_pass() {
        return;
    }
    let Some(batch) = planner.next_batch().unwrap() else {
        return;
    };
    assert!(planner.next_batch().unwrap().is_none());
    assert_eq!(batch.guest_range(), 0..virtual_size);
    check(&batch, data, info.alignment, virtual_size);
    let extents: Vec<Extent> = batch.extents().collect();
    assert_eq!(info.extents, extents.len() as u64);
    decode(&extents, data, info.cluster_size.unwrap_or(0));
    if virtual_size > MAX_WALKED {
        return;
    }
    // A budget of nothing makes the smallest batches.
    let mut planner = Planner::open_within(data, declared, 0).unwrap();
    let (mut end, mut guest_bytes) = (0, 0);
    while let Some(batch) = planner.next_batch().unwrap() {
        assert_eq!(batch.guest_range().start, end);
        end = batch.guest_range().end;
        check(&batch, data, info.alignment, virtual_size);
        guest_bytes += batch.extents().map(|extent| extent.guest_len).sum::<u64>();
    }
    assert_eq!(end, virtual_size);
    assert_eq!(guest_bytes, info.allocated_bytes);
}

fn check(batch: &Batch, data: &[u8], alignment: u64, virtual_size: u64) {
    let mut previous: Option<Extent> = None;
    let mut ranges: Vec<_> = batch.zero_ranges().collect();
    assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
    for extent in batch.extents() {
        assert!(extent.host_len > 0 && extent.host_range().end <= data.len() as u64);
        assert!(extent.guest_offset.is_multiple_of(alignment));
        let guest_end = extent.guest_range().end;
        assert!(guest_end == virtual_size || guest_end.is_multiple_of(alignment));
        if extent.encoding == Encoding::Plain {
            assert!(extent.host_len <= extent.guest_len);
        }
        if let Some(previous) = previous {
            let both = previous.encoding != Encoding::Plain && extent.encoding != Encoding::Plain;
            assert!(previous.host_offset <= extent.host_offset);
            assert!(both || previous.host_range().end <= extent.host_offset);
        }
        ranges.push(extent.guest_range());
        previous = Some(extent);
    }
    ranges.sort_unstable_by_key(|range| range.start);
    let mut next = batch.guest_range().start;
    for range in ranges {
        assert_eq!(range.start, next);
        assert!(range.end > range.start);
        next = range.end;
    }
    assert_eq!(next, batch.guest_range().end);
}

fn decode(extents: &[Extent], data: &[u8], cluster_size: u64) {
    let mut decoder = Decoder::new();
    let mut output = vec![0; cluster_size as usize];
    let compressed = extents
        .iter()
        .filter(|extent| extent.encoding != Encoding::Plain);
    for extent in compressed.take(MAX_DECODED) {
        let range = extent.host_range();
        let input = &data[range.start as usize..range.end as usize];
        if let Err(error) = decoder.decode(extent.encoding, input, &mut output) {
            assert_eq!(error.kind(), ErrorKind::BadCluster);
        }
    }
}
