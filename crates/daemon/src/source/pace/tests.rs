//! What a server gets whose times and rates are these.

use super::*;

const MIB: u64 = 1 << 20;

fn pace(first_byte_ms: u64, rate: f64) -> Pace {
    let pace = Pace::default();
    pace.answered(Duration::from_millis(first_byte_ms));
    pace.received(to_bytes(rate), Duration::from_secs(1));
    pace
}

/// The widths and ranges that a network leads to whose throughput is this function of the width.
fn settle(pace: &Pace, rate: impl Fn(usize) -> f64, starved: bool) -> Controller {
    let mut now = Instant::now();
    let mut controller = Controller::new(16, now);
    for _ in 0..200 {
        let shape = controller.next(pace);
        assert!(shape.ahead_bytes * shape.width as u64 <= WINDOW_BYTES);
        assert!(shape.range_bytes >= MIN_RANGE_BYTES && shape.range_bytes <= MAX_RANGE_BYTES);
        let took = Duration::from_secs_f64(to_f64(shape.range_bytes) / rate(shape.width));
        now += took;
        if starved {
            controller.waited(took);
        }
        controller.ended(shape.range_bytes, now);
    }
    controller
}

#[test]
fn a_near_server_gets_four_ranges_of_4_mib_as_long_as_the_volume_is_the_slower_part() {
    let near = pace(1, 1e9);
    let shape = settle(&near, |_| 1e9, false).next(&near);
    assert_eq!((shape.range_bytes, shape.width), (4 * MIB, 4));
}

#[test]
fn connections_that_are_limited_become_more_until_that_no_longer_helps() {
    let limited = pace(1, 30e6);
    let width = |most: f64| {
        let rate = |width: usize| (30e6 * to_f64(width as u64)).min(most);
        settle(&limited, rate, true).width
    };
    assert_eq!(width(f64::MAX), 16);
    assert_eq!(width(200e6), 8);
    assert_eq!(width(100e6), 4);
    // All at once, as soon as the first has been measured.
    let shape = Controller::new(16, Instant::now()).next(&limited);
    assert_eq!((shape.range_bytes, shape.width), (MIB, 16));
    // Fast connections are tried by and by.
    let fast = pace(1, 200e6);
    assert_eq!(
        settle(&fast, |width| 200e6 * to_f64(width as u64), true).width,
        16
    );
    assert_eq!(settle(&fast, |_| 200e6, true).width, 4);
}

#[test]
fn a_server_whose_requests_are_dear_gets_few_large_ones() {
    // Hashes 512 MiB for each request.
    let dear = pace(800, 1e9);
    let shape = Controller::new(16, Instant::now()).next(&dear);
    assert_eq!((shape.range_bytes, shape.width), (MAX_RANGE_BYTES, 2));
    // Not yet, when only the cost is known.
    let begun = Pace::default();
    begun.answered(Duration::from_millis(800));
    let shape = Controller::new(16, Instant::now()).next(&begun);
    assert_eq!((shape.range_bytes, shape.width), (4 * MIB, 4));
}

#[test]
fn a_far_server_gets_ranges_of_the_whole_window() {
    let far = pace(200, 30e6);
    let shape = Controller::new(4, Instant::now()).next(&far);
    assert_eq!((shape.range_bytes, shape.width), (4 * MIB, 4));
}

#[test]
fn ranges_end_before_a_connection_stands_still_for_long() {
    let dear = pace(5_000, 1e9);
    // The volume takes 10 MB/s.
    let mut controller = settle(&dear, |_| 10e6, false);
    let shape = controller.next(&dear);
    assert!(shape.range_bytes <= 150_000_000, "{shape:?}");
}

#[test]
fn one_connection_is_one_whatever_is_measured() {
    for cost in [0, 1, 200, 5_000] {
        // And what takes no longer than connections last everywhere.
        for (rate, bytes) in [
            (1e9, MAX_RANGE_BYTES),
            (50e6, 750_000_000),
            (1e5, WINDOW_BYTES),
        ] {
            let pace = pace(cost, rate);
            let shape = Controller::new(1, Instant::now()).next(&pace);
            assert_eq!((shape.width, shape.range_bytes), (1, bytes));
        }
    }
}
