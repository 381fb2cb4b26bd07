use proptest::prelude::*;

use super::*;

/// 1 Gbit/s.
const LINK: u64 = 125_000_000;
const FLOOR: u64 = 16 << 20;
const STEP: Duration = Duration::from_millis(500);

/// From jumbo frames to small ones in a tunnel.
const OVERHEADS: [f64; 5] = [1.005, 1.02, 1.046, 1.07, 1.1];

/// A link on which everything arrives that fits on it.
struct Run {
    /// What a byte of an image takes on the link.
    overhead: f64,
    headroom: Headroom,
    now: Duration,
    received: Received,
}

impl Run {
    fn new() -> Self {
        Self::with_overhead(OVERHEAD)
    }

    fn with_overhead(overhead: f64) -> Self {
        let mut run = Self {
            overhead,
            headroom: Headroom::new(LINK, FLOOR),
            now: Duration::ZERO,
            received: Received::default(),
        };
        run.step(0.0, 0.0);
        run
    }

    /// Others receive this much of the link, and jobs this much of images, which is on the wire with its headers.
    fn step(&mut self, others: f64, own: f64) -> Option<f64> {
        let bytes = |part: f64| to_bytes(part * to_f64(LINK) * STEP.as_secs_f64());
        self.received.all_bytes += bytes(others + self.overhead * own);
        self.received.own_bytes += bytes(own);
        self.now += STEP;
        self.headroom.step(self.now, self.received);
        self.rate()
    }

    fn rate(&self) -> Option<f64> {
        self.headroom.rate().map(|rate| to_f64(rate) / to_f64(LINK))
    }

    /// Jobs take what they may, of a server that has more than the link; of what does not fit, others lose so much that
    /// they keep this part of the link, unless they want less. Returns what others got.
    fn compete(&mut self, wanted: f64, kept: f64) -> f64 {
        let own = (self.overhead * self.rate().unwrap_or(2.0)).min(1.0);
        let others = match wanted + own > 1.0 {
            true => wanted.min(kept.max(1.0 - own)),
            false => wanted,
        };
        self.step(others, own.min(1.0 - others) / self.overhead);
        others
    }
}

#[test]
fn jobs_that_are_alone_are_not_limited_even_if_their_buffers_fill_first() {
    let mut run = Run::new();
    // 16 MiB in a second that are not read yet.
    for (others, own) in [
        (0.07, 0.7),
        (0.07, 0.76),
        (0.0, 0.84),
        (0.0, 0.84),
        (0.01, 0.83),
    ] {
        assert_eq!(run.step(others, own), None);
    }
}

#[test]
fn others_keep_what_they_receive_and_a_tenth_of_the_link_is_free() {
    let mut run = Run::new();
    for _ in 0..6 {
        run.step(0.4, 0.3);
    }
    let rate = run.rate().expect("it is limited");
    assert!((OVERHEAD * rate - 0.5).abs() < 0.01, "{rate}");
    // Less is remembered for five seconds.
    for _ in 0..8 {
        run.step(0.1, 0.3);
        assert!(run.rate().expect("it is limited") < 0.51);
    }
    for _ in 0..12 {
        run.step(0.1, 0.3);
    }
    let rate = run.rate().expect("it is limited");
    assert!((OVERHEAD * rate - 0.8).abs() < 0.01, "{rate}");
}

#[test]
fn a_full_link_takes_from_jobs_what_others_may_want() {
    let mut run = Run::new();
    for _ in 0..10 {
        run.step(0.2, 0.5);
    }
    let before = run.rate().expect("it is limited");
    // Over the whole of what is measured.
    run.step(0.3, 0.7 / OVERHEAD);
    run.step(0.3, 0.7 / OVERHEAD);
    let cut = run.rate().expect("it is limited");
    assert!(
        cut < 0.7 * 0.7 / OVERHEAD + 0.01 && cut < before,
        "{before} {cut}"
    );
    // Not raised for two seconds.
    for _ in 0..3 {
        run.step(0.3, cut);
        assert!(run.rate().expect("it is limited") <= cut + 1e-6);
    }
    run.step(0.3, cut);
    run.step(0.3, cut);
    let raised = run.rate().expect("it is limited");
    assert!(raised > cut && raised <= 0.601 / OVERHEAD, "{cut} {raised}");
}

#[test]
fn a_full_link_is_probed_now_and_then_and_nobody_is_found_if_nobody_is_there() {
    for overhead in OVERHEADS {
        let mut run = Run::with_overhead(overhead);
        let mut probed = Vec::new();
        for number in 0..200 {
            run.compete(0.0, 0.0);
            assert_eq!(run.rate().is_some(), run.headroom.is_probing());
            if let Some(rate) = run.rate() {
                assert!((OVERHEAD * rate - PROBED).abs() < 0.01, "{rate}");
                probed.push(number);
            }
        }
        // Of a hundred seconds four began with a probe, which takes three and a half.
        let begins = probed
            .iter()
            .filter(|number| !probed.contains(&(**number - 1)));
        assert_eq!((begins.count(), probed.len()), (4, 28), "{probed:?}");
    }
}

#[test]
fn what_is_still_in_the_buffers_when_a_probe_begins_is_nobodys() {
    let mut run = Run::new();
    let is_probed = (0..10).any(|_| {
        run.compete(0.0, 0.0);
        run.headroom.is_probing()
    });
    assert!(is_probed);
    // The link stays full for a second.
    for others in [0.2, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0] {
        assert!(run.headroom.is_probing());
        run.compete(others, 0.0);
    }
    assert_eq!(run.rate(), None);
}

#[test]
fn beside_others_who_do_not_change_the_rate_does_not_swing() {
    for overhead in OVERHEADS {
        let mut run = Run::with_overhead(overhead);
        for _ in 0..40 {
            run.compete(0.4, 0.1);
        }
        let settled = run.rate().expect("it is limited");
        assert!((overhead * settled - 0.5).abs() < 0.01, "{settled}");
        for _ in 0..60 {
            run.compete(0.4, 0.1);
            let rate = run.rate().expect("it is limited");
            assert!((rate - settled).abs() < 0.01, "{rate} after {settled}");
        }
    }
}

#[test]
fn counters_that_begin_anew_are_no_full_link() {
    let mut run = Run::new();
    for _ in 0..6 {
        run.step(0.3, 0.3);
    }
    let before = run.rate();
    assert!(before.is_some());
    run.received.all_bytes = 0;
    for _ in 0..4 {
        run.step(0.3, 0.3);
        assert_eq!(run.rate(), before);
    }
}

proptest! {
    #[test]
    fn a_rate_is_at_least_the_floor_and_leaves_a_tenth(
        steps in prop::collection::vec((0.0..1.0_f64, 0.0..1.0_f64), 1..120)
    ) {
        let mut run = Run::new();
        let floor = to_f64(FLOOR) / to_f64(LINK);
        for (others, own) in steps {
            run.step(others, own);
            if let Some(rate) = run.rate() {
                prop_assert!(rate >= floor - 1e-6 && rate <= FILLED + 1e-6, "{rate}");
            }
        }
    }

    #[test]
    fn who_is_alone_has_no_limit_within_seven_seconds_whatever_was_before(
        steps in prop::collection::vec((0.0..1.0_f64, 0.0..1.0_f64), 1..60)
    ) {
        let mut run = Run::new();
        for (others, own) in steps {
            run.step(others, own);
        }
        for _ in 0..15 {
            run.compete(0.0, 0.0);
        }
        prop_assert!(run.rate().is_none() || run.headroom.is_probing());
    }

    /// Others that jobs have squeezed to a small part of the link get what they want, and it stays so.
    #[test]
    fn others_get_what_they_want_within_ten_seconds_and_keep_it(
        wanted in 0.12..0.75_f64, kept in 0.03..0.3_f64, overhead in 1.005..1.1_f64
    ) {
        let mut run = Run::with_overhead(overhead);
        for _ in 0..20 {
            run.compete(wanted, kept);
        }
        for _ in 0..100 {
            let got = run.compete(wanted, kept);
            prop_assert!(got >= 0.95 * wanted, "{got} of {wanted}");
        }
        // And jobs get most of the rest.
        let rate = run.rate().expect("it is limited");
        prop_assert!(overhead * rate >= 0.9 * (FILLED - wanted), "{rate} beside {wanted}");
    }
}
