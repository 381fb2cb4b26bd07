use proptest::prelude::*;

use super::*;

fn meter(source: u64, guest: u64) -> Meter {
    let meter = Meter::default();
    meter.expect_source(source);
    meter.expect_disk(guest, 0);
    meter
}

#[test]
fn a_cache_hit_spans_the_whole_range_by_converting_alone() {
    let meter = meter(0, 1000);
    meter.enter(Stage::Converting);
    assert_eq!(meter.progress().overall_percent, 0.0);
    meter.copy().guest_bytes.store(500, Ordering::Relaxed);
    let progress = meter.progress();
    assert_eq!((progress.overall_percent, progress.percent), (50.0, 50.0));
    assert_eq!(
        (progress.bytes_processed, progress.bytes_total),
        (500, 1000)
    );
}

#[test]
fn holes_of_the_image_are_progress_only_where_they_are_zeroed() {
    let meter = meter(0, 1000);
    meter.enter(Stage::Converting);
    meter.expect_disk(1000, 800);
    meter.copy().guest_bytes.store(900, Ordering::Relaxed);
    meter.count_holes(true);
    let progress = meter.progress();
    assert_eq!(progress.overall_percent, 50.0);
    assert_eq!((progress.bytes_processed, progress.bytes_total), (100, 200));
    meter.count_holes(false);
    assert_eq!(meter.progress().overall_percent, 90.0);
}

#[test]
fn only_a_completed_job_shows_a_hundred_percent() {
    let meter = meter(1000, 1000);
    meter.received(1000);
    meter.copy().guest_bytes.store(1000, Ordering::Relaxed);
    assert_eq!(meter.progress().percent, ALMOST);
    assert_eq!(meter.final_progress(false).percent, ALMOST);
    assert_eq!(meter.final_progress(true).percent, 100.0);
}

#[test]
fn stages_weigh_what_they_are_expected_to_take() {
    // 100 MB at 100 MB/s is one second, 600 MB at 200 MB/s are three: a quarter and three.
    let meter = meter(100_000_000, 600_000_000);
    meter.received(100_000_000);
    assert_eq!(meter.progress().percent, 25.0);
}

#[test]
fn a_disk_whose_size_is_known_is_not_guessed() {
    let meter = Meter::default();
    meter.guess_disk(700);
    assert_eq!(meter.work_bytes(), 700);
    meter.expect_disk(1000, 0);
    meter.guess_disk(700);
    assert_eq!(meter.work_bytes(), 1000);
}

#[test]
fn what_another_job_fetches_shows_and_is_not_counted_as_read() {
    let (leader, meter) = (meter(1000, 0), Meter::default());
    leader.received(400);
    meter.follow(&leader);
    let moved = meter.moved();
    assert_eq!((moved.source_bytes, moved.fetched_bytes), (400, 0));
    assert_eq!(meter.progress().overall_percent, 40.0);
}

proptest! {
    #[test]
    fn the_percentage_never_goes_back(
        steps in prop::collection::vec((0_u64..200, 0_u64..200, 0_u64..3), 1..40),
    ) {
        let meter = meter(1000, 2000);
        let mut last = 0.0;
        for (source, guest, change) in steps {
            meter.received(source);
            meter.copy().guest_bytes.fetch_add(guest, Ordering::Relaxed);
            if change == 1 {
                meter.guest_total.fetch_add(500, Ordering::Relaxed);
            }
            let percent = meter.progress().percent;
            prop_assert!(percent >= last && percent <= ALMOST);
            last = percent;
        }
    }
}
