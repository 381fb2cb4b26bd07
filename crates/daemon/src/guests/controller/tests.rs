mod causes;

use proptest::prelude::*;

use super::*;

const MIB: f64 = 1_048_576.0;
const FLOOR: u64 = 16 << 20;
const STEP: Duration = Duration::from_millis(500);

/// A controller, the time, and what the last step led to.
struct Run {
    controller: Controller,
    now: Duration,
    rate: Option<u64>,
}

impl Run {
    /// After others were there alone with this wait for long enough to be learnt.
    fn beside(idle_ms: f64) -> Self {
        let mut run = Self::new();
        for _ in 0..20 {
            run.step(wait(idle_ms), 0.0);
        }
        assert_eq!(run.controller.idle_wait(), ms(idle_ms));
        run
    }

    fn new() -> Self {
        Self {
            controller: Controller::new(Disks::Flash, FLOOR),
            now: Duration::ZERO,
            rate: None,
        }
    }

    fn step(&mut self, wait: Option<Duration>, own_mib: f64) -> Option<u64> {
        self.step_with(Measured {
            wait,
            own_bytes_per_sec: own_mib * MIB,
            ..Measured::default()
        })
    }

    fn step_with(&mut self, measured: Measured) -> Option<u64> {
        self.now += STEP;
        self.rate = self.controller.step(self.now, &measured);
        self.rate
    }

    /// What is moved at the rate by jobs that could move so much.
    fn own(&self, most_mib: f64) -> f64 {
        self.rate
            .map_or(most_mib, |rate| most_mib.min(to_f64(rate) / MIB))
    }
}

fn ms(ms: f64) -> Duration {
    Duration::from_secs_f64(ms / 1000.0)
}

fn wait(wait_ms: f64) -> Option<Duration> {
    Some(ms(wait_ms))
}

#[test]
fn without_others_nothing_is_limited() {
    let mut run = Run::new();
    for own in [0.0, 0.0, 0.0, 500.0, 500.0, 900.0, 3.0] {
        assert_eq!(run.step(None, own), None);
    }
}

#[test]
fn a_job_beside_others_begins_at_the_floor_and_rises_while_it_is_calm() {
    let mut run = Run::beside(1.0);
    assert_eq!(run.rate, Some(FLOOR));
    let mut before = FLOOR;
    for _ in 0..6 {
        let own = run.own(1000.0);
        let rate = run.step(wait(1.2), own).expect("it is limited");
        assert!(
            rate > before && rate <= before * 3 / 2 + 1,
            "{before} {rate}"
        );
        before = rate;
    }
    // The first step that is not calm ends the fast rise, for two seconds and then by 5 %.
    let own = run.own(1000.0);
    let cut = run.step(wait(2.5), own).expect("it is limited");
    assert!((to_f64(cut) / to_f64(before) - CUT).abs() < 0.01);
    for _ in 0..3 {
        let own = run.own(1000.0);
        assert_eq!(run.step(wait(1.0), own), Some(cut), "it is held");
    }
    let own = run.own(1000.0);
    let raised = run.step(wait(1.0), own).expect("it is limited");
    assert!((to_f64(raised) / to_f64(cut) - RISE).abs() < 0.001);
}

#[test]
fn pressure_leads_to_the_floor_at_once_and_two_waits_far_above_do() {
    for pressed in [true, false] {
        let mut run = Run::beside(1.0);
        for _ in 0..8 {
            let own = run.own(1000.0);
            run.step(wait(1.0), own);
        }
        let before = run.rate.expect("it is limited");
        let own = run.own(1000.0);
        if pressed {
            run.step_with(Measured {
                pressure: Some(0.31),
                own_bytes_per_sec: own * MIB,
                ..Measured::default()
            });
        } else {
            let once = run.step(wait(50.0), own).expect("it is limited");
            assert!(once > FLOOR && once < before, "{once}");
            let own = run.own(1000.0);
            run.step(wait(50.0), own);
        }
        assert_eq!(run.rate, Some(FLOOR), "{pressed}");
    }
}

#[test]
fn full_speed_is_back_within_seconds_after_everybody_else_has_gone() {
    let mut run = Run::beside(1.0);
    for _ in 0..20 {
        let own = run.own(1000.0);
        run.step(wait(30.0), own);
    }
    assert_eq!(run.rate, Some(FLOOR));
    let left = run.now;
    while run.rate.is_some() {
        let own = run.own(1000.0);
        run.step(None, own);
        assert!(run.now - left < Duration::from_secs(12), "{:?}", run.rate);
    }
    assert!(run.now - left >= ALONE);
}

#[test]
fn a_rate_that_is_not_used_up_does_not_rise_and_is_lifted_in_peace() {
    let mut run = Run::beside(1.0);
    // The source has only 20 MiB/s.
    let mut highest = 0;
    for _ in 0..20 {
        let own = run.own(20.0);
        run.step(wait(1.0), own);
        highest = highest.max(run.rate.unwrap_or(0));
    }
    assert!(highest <= 80 << 20, "{highest}");
    for _ in 0..40 {
        run.step(wait(1.0), 20.0);
    }
    assert_eq!(run.rate, None);
    // A later cut is of what is moved.
    let cut = run.step(wait(3.0), 100.0).expect("it is limited");
    assert!((to_f64(cut) / MIB - 70.0).abs() < 0.1, "{cut}");
}

#[test]
fn what_is_usual_for_the_disks_counts_until_enough_was_measured() {
    for (disks, usual) in [(Disks::Flash, 5.0), (Disks::Rotating, 25.0)] {
        let mut controller = Controller::new(disks, FLOOR);
        assert_eq!(controller.idle_wait(), ms(usual));
        let busy = Measured {
            wait: wait(1.9 * usual),
            own_bytes_per_sec: 500.0 * MIB,
            ..Measured::default()
        };
        assert_eq!(controller.step(STEP, &busy), None);
        let more = Measured {
            wait: wait(2.1 * usual),
            ..busy
        };
        assert!(controller.step(2 * STEP, &more).is_some());
    }
}

#[test]
fn guests_whose_own_waits_vary_are_not_taken_for_held_up() {
    let mut run = Run::new();
    for step in 0..40 {
        // Every fifth is five times as long.
        run.step(wait(if step % 5 == 0 { 5.0 } else { 1.0 }), 0.0);
    }
    assert_eq!(run.controller.idle_wait(), ms(1.0));
    assert_eq!(run.controller.bearable_wait(), ms(5.0));
    let own = run.own(1000.0);
    assert!(run.step(wait(4.9), own) > Some(FLOOR));
    let before = run.rate;
    let own = run.own(1000.0);
    assert!(run.step(wait(5.1), own) < before);
}

/// A disk whose requests wait longer the more it has to do, as in a queue of one server.
fn disk(idle_ms: f64, others_mib: f64, own_mib: f64, most_mib: f64) -> Option<Duration> {
    let load = |mib: f64| (mib / most_mib).min(0.98);
    let queue = |mib: f64| 1.0 / (1.0 - load(mib));
    wait(idle_ms * queue(others_mib + own_mib) / queue(others_mib))
}

#[test]
fn the_rate_settles_where_the_others_wait_twice_as_long_and_does_not_swing() {
    for (others, most) in [(20.0, 500.0), (100.0, 500.0), (40.0, 200.0), (5.0, 2000.0)] {
        let mut run = Run::beside(1.0);
        let mut rates = Vec::new();
        let mut waits = Vec::new();
        for step in 0..360 {
            let own = run.own(most);
            let found = disk(1.0, others, own, most);
            run.step(found, own);
            if step >= 160 {
                rates.push(own);
                waits.push(found.map_or(0.0, |wait| wait.as_secs_f64() * 1e3));
            }
        }
        let count = to_f64(rates.len() as u64);
        let mean = rates.iter().sum::<f64>() / count;
        let variance = rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / count;
        // Twice the wait is reached at half of what the others leave free.
        let bearable = (most - others) / 2.0;
        assert!(variance.sqrt() / mean < 0.2, "{variance} {mean}");
        assert!(
            (0.65..1.05).contains(&(mean / bearable)),
            "{mean} of {bearable}"
        );
        let longest = waits.iter().copied().fold(0.0, f64::max);
        assert!(longest < 2.4, "{longest}");
    }
}

fn measured() -> impl Strategy<Value = Measured> {
    let wait = prop::option::weighted(0.8, 0_u64..200_000);
    let pressure = prop::option::weighted(0.3, 0.0..1.0_f64);
    let own = prop_oneof![Just(0.0), 0.0..3e9_f64];
    let measured = (wait, pressure, own, any::<bool>());
    measured.prop_map(
        |(wait, pressure, own_bytes_per_sec, are_jobs_running)| Measured {
            wait: wait.map(Duration::from_micros),
            pressure,
            own_bytes_per_sec,
            are_jobs_running,
        },
    )
}

proptest! {
    /// Whatever is measured, at whatever intervals.
    #[test]
    fn the_rate_never_falls_below_the_floor_and_rises_in_peace_alone(
        steps in prop::collection::vec((measured(), 1_u64..5_000), 1..300),
    ) {
        let mut controller = Controller::new(Disks::Flash, FLOOR);
        let mut now = Duration::ZERO;
        let mut others_at = None;
        for (measured, after_ms) in steps {
            now += Duration::from_millis(after_ms);
            others_at = measured.wait.map(|_| now).or(others_at);
            let before = controller.rate();
            let bearable = controller.bearable_wait();
            let usual_pressure = controller.idle.usual_pressure;
            let after = controller.step(now, &measured);
            prop_assert!(after.is_none_or(|rate| rate >= FLOOR));
            let is_active = measured.own_bytes_per_sec >= ACTIVE_BYTES_PER_SEC;
            let is_above = measured.wait.is_some_and(|wait| wait > bearable);
            let are_others_there = others_at.is_some_and(|at| now - at < ALONE);
            let highest = usual_pressure.max(PRESSURE);
            let is_pressed = measured.pressure.is_some_and(|part| part > highest)
                && are_others_there
                && measured.wait.is_none_or(|wait| wait > bearable);
            let height = |rate: Option<u64>| rate.unwrap_or(u64::MAX);
            if is_active && (is_above || is_pressed) {
                prop_assert!(after.is_some(), "others are in trouble and nothing is limited");
                prop_assert!(height(after) <= height(before).max(FLOOR), "it rose in trouble");
            }
            if is_active && is_pressed {
                prop_assert_eq!(after, Some(FLOOR));
            }
            if let (Some(before), Some(after), true) = (before, after, is_active) {
                prop_assert!(to_f64(after) <= to_f64(before) * RISE_ALONE + 1.0);
            }
        }
    }

    /// However it was driven before.
    #[test]
    fn who_is_alone_has_full_speed_again(steps in prop::collection::vec(measured(), 1..100)) {
        let mut run = Run::new();
        for measured in steps {
            run.step_with(measured);
        }
        for _ in 0..40 {
            let own = run.own(2000.0);
            run.step(None, own);
        }
        prop_assert_eq!(run.rate, None);
    }
}

/// What the kernel of a machine told while a job ran beside fio, and what was decided then: `bench/yielding.py` records it.
#[test]
fn a_recorded_run_is_decided_as_it_was_and_never_swings() {
    let rows = include_str!("trace.csv").lines().skip(1).map(|line| {
        let words: Vec<_> = line.split(',').collect();
        let number = |index: usize| words[index].parse::<f64>().ok();
        let passed = Duration::from_secs_f64(number(0).unwrap() / 1e6);
        let measured = Measured {
            wait: number(1).map(|micros| Duration::from_secs_f64(micros / 1e6)),
            pressure: number(2),
            own_bytes_per_sec: number(3).unwrap(),
            ..Measured::default()
        };
        (passed, measured, number(4))
    });
    let mut controller = Controller::new(Disks::Flash, FLOOR);
    let (mut now, mut others, mut steps, mut held) = (Duration::ZERO, 0, 0, Vec::new());
    for (passed, measured, decided) in rows {
        now += passed;
        let rate = controller.step(now, &measured).map(to_f64);
        steps += 1;
        // The clock of the recording began a little before its first row.
        let is_same = match (rate, decided) {
            (Some(rate), Some(decided)) => (rate / decided - 1.0).abs() < 0.01,
            (rate, decided) => rate.is_none() && decided.is_none(),
        };
        others += u32::from(!is_same);
        if measured.own_bytes_per_sec >= ACTIVE_BYTES_PER_SEC && measured.wait.is_some() {
            held.push((rate.expect("a job beside others is limited"), measured));
        }
    }
    assert!(
        steps > 50 && others * 20 <= steps,
        "{others} of {steps} differ"
    );
    assert!(held.len() > 10, "{}", held.len());
    // In the second half the rate has settled.
    let settled: Vec<f64> = held[held.len() / 2..]
        .iter()
        .map(|(rate, _)| *rate)
        .collect();
    let count = to_f64(settled.len() as u64);
    let mean = settled.iter().sum::<f64>() / count;
    let variance = settled
        .iter()
        .map(|rate| (rate - mean).powi(2))
        .sum::<f64>()
        / count;
    assert!(
        variance.sqrt() / mean < 0.6,
        "{} of {mean}",
        variance.sqrt()
    );
    // It was never raised while others waited too long.
    let bearable = controller.bearable_wait();
    for pair in held.windows(2) {
        let [(before, _), (after, measured)] = pair else {
            continue;
        };
        let is_above = measured.wait.is_some_and(|wait| wait > bearable);
        assert!(
            !is_above || after <= before,
            "{before} {after} {measured:?}"
        );
    }
}
