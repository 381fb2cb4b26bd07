//! How fast jobs may move bytes, by what was measured of the disks that others use too.
//!
//! ```text
//!                 L is bearable            L is above that        L is far above, or P > 30 %
//!  limited        + 5 %                    x 0.7, and no rise     the floor
//!                                          for two seconds
//!  not limited    as it is                 0.7 x what was moved   the floor
//!
//!  nobody else there for five seconds: twice the rate with every step, until it limits nothing
//! ```
//!
//! L is the mean wait of the others' requests, P the part of the time in which some task of the guests waited for I/O.
//! What L is without us is learnt while no job runs ([`Idle`]): part of what a job reads and writes is not counted.
//! Bearable is twice the median of that, or what nine of ten idle measurements are below, if that is more: where guests'
//! own waits vary, a high one alone accuses nobody.
//!
//! P says nothing about where the guests' tasks wait: it may be a disk of the network. So it counts only while there are
//! others on these disks, L is not known to be bearable, and P is above what nine of ten idle measurements are below.
//!
//! - A job that begins while others are there begins at the floor, and is raised by half with every calm step until
//!   the first one that is not: a start at full speed would be felt before it is measured.
//! - A rate that was not used up is not raised: it says nothing about what the disks can bear (RFC 7661 has the same
//!   rule for TCP). And the next cut is of what was really moved.
//! - One measurement far above is an accident, and cuts. Two in a row lead to the floor.
//!
//! Pure: measurements and the time in, a rate out.

use std::collections::VecDeque;
use std::time::Duration;

use crate::estimate::{to_bytes, to_f64};

/// A cut, and a rise.
const CUT: f64 = 0.7;
const RISE: f64 = 1.05;

/// A rise before the first cut, and one after everybody else has gone.
const FIRST_RISE: f64 = 1.5;
const RISE_ALONE: f64 = 2.0;

/// This multiple of the idle L is bearable.
const BEARABLE: f64 = 2.0;

/// So is what this part of the idle measurements is below.
const USUALLY: f64 = 0.9;

/// L above this multiple of what is bearable, twice in a row, leads to the floor.
const FAR_ABOVE: f64 = 3.0;

/// P above this leads to the floor, if it is above what is usual.
const PRESSURE: f64 = 0.3;

/// How long there is no rise after a cut.
const HOLD: Duration = Duration::from_secs(2);

/// After how long without anybody else the jobs get back their full speed.
const ALONE: Duration = Duration::from_secs(5);

/// Below this, jobs move nothing.
const ACTIVE_BYTES_PER_SEC: f64 = 65_536.0;

/// The part of a rate that has to be used for it to be raised.
const USED: f64 = 0.75;

/// A rate of which less than this is used limits nothing.
const UNUSED: f64 = 0.5;

/// How long a rate limits nothing, in peace, before it is lifted.
const LIFT_AFTER: Duration = Duration::from_secs(10);

/// How long jobs move nothing before what is measured is the idle state, and before the next job is a new beginning.
const QUIET: Duration = Duration::from_secs(1);

/// A rate above this is none: no disk is as fast.
const NO_LIMIT: f64 = 64.0 * 1024.0 * 1024.0 * 1024.0;

/// Measurements of the idle state that are kept: the last two minutes of it.
const IDLE_KEPT: usize = 240;

/// With fewer than this, what is usual for such disks is assumed.
const IDLE_LEAST: usize = 10;

/// The least idle wait: the kernel counts whole milliseconds, so that less is not measured well.
const IDLE_MIN: Duration = Duration::from_micros(200);

/// What was measured since the last step.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Measured {
    /// L; None if there were next to no requests of others.
    pub wait: Option<Duration>,
    /// P, from 0 to 1; None where the guests have no control group of their own.
    pub pressure: Option<f64>,
    /// What jobs have moved, as far as it is counted.
    pub own_bytes_per_sec: f64,
    /// Whether a job ran.
    pub are_jobs_running: bool,
}

/// The kind of the disks, which decides what is assumed before anything was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Disks {
    /// All of them are flash.
    #[default]
    Flash,
    /// At least one rotates.
    Rotating,
}

/// Decides about the rate of all jobs together.
#[derive(Debug)]
pub struct Controller {
    floor: f64,
    idle: Idle,
    /// None while nothing is limited.
    rate: Option<f64>,
    /// The rate at which the first rises end; none after the first cut.
    rises_fast_to: Option<f64>,
    hold_until: Duration,
    /// When others were last there.
    others_at: Option<Duration>,
    /// Since when jobs have moved nothing.
    quiet_since: Option<Duration>,
    /// Since when the rate has limited nothing.
    unused_since: Option<Duration>,
    was_far: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    None,
    Some,
    Much,
}

impl Controller {
    /// For disks of this kind; the rate is never below the floor.
    pub fn new(disks: Disks, floor_bytes_per_sec: u64) -> Self {
        Self {
            floor: to_f64(floor_bytes_per_sec.max(1)),
            idle: Idle::new(disks),
            rate: None,
            rises_fast_to: None,
            hold_until: Duration::ZERO,
            others_at: None,
            quiet_since: Some(Duration::ZERO),
            unused_since: None,
            was_far: false,
        }
    }

    /// The mean wait of others while jobs move nothing.
    pub fn idle_wait(&self) -> Duration {
        self.idle.median()
    }

    /// Jobs are held back while the others' mean wait is longer.
    pub fn bearable_wait(&self) -> Duration {
        self.idle.bearable()
    }

    /// The rate now, in bytes per second; None if nothing is limited.
    pub fn rate(&self) -> Option<u64> {
        self.rate.map(|rate| to_bytes(rate).max(1))
    }

    /// Jobs are held back at once while P is higher, and L not known to be bearable.
    fn bearable_pressure(&self) -> f64 {
        self.idle.usual_pressure.max(PRESSURE)
    }

    /// Decides anew. `now` is the time since any fixed instant, and grows.
    pub fn step(&mut self, now: Duration, measured: &Measured) -> Option<u64> {
        if measured.wait.is_some() {
            self.others_at = Some(now);
        }
        let others = self.others_at;
        let is_alone = others.is_none_or(|at| now.saturating_sub(at) >= ALONE);
        if measured.own_bytes_per_sec < ACTIVE_BYTES_PER_SEC {
            self.rest(now, measured, is_alone);
        } else {
            self.work(now, measured, is_alone);
        }
        self.rate()
    }

    /// Jobs move nothing: if none runs, what is measured is the others' own doing.
    fn rest(&mut self, now: Duration, measured: &Measured, is_alone: bool) {
        if measured.are_jobs_running {
            self.quiet_since = None;
            return;
        }
        let since = *self.quiet_since.get_or_insert(now);
        if now.saturating_sub(since) < QUIET {
            return;
        }
        if let Some(wait) = measured.wait {
            self.idle.learn(wait);
        }
        if let Some(pressure) = measured.pressure {
            self.idle.learn_pressure(pressure);
        }
        // The next job begins slowly if others are there, and at full speed otherwise.
        self.was_far = false;
        self.unused_since = None;
        self.hold_until = now;
        self.rises_fast_to = Some(NO_LIMIT);
        self.rate = (!is_alone).then_some(self.floor);
    }

    fn work(&mut self, now: Duration, measured: &Measured, is_alone: bool) {
        self.quiet_since = None;
        let own = measured.own_bytes_per_sec;
        match self.trouble(measured, is_alone) {
            Trouble::None => self.calm(now, own, is_alone),
            Trouble::Some => {
                let used = self.rate.map_or(own, |rate| rate.min(own));
                self.cut(now, (used * CUT).max(self.floor));
            }
            Trouble::Much => {
                let before = self.rate.map_or(own, |rate| rate.min(own));
                self.cut(now, self.floor);
                // Half of what was too much is likely to be bearable.
                self.rises_fast_to = Some(before / 2.0).filter(|to| *to > self.floor);
            }
        }
    }

    fn trouble(&mut self, measured: &Measured, is_alone: bool) -> Trouble {
        let bearable = self.idle.bearable();
        let wait = measured.wait.unwrap_or_default();
        let is_far = wait > bearable.mul_f64(FAR_ABOVE);
        let was_far = std::mem::replace(&mut self.was_far, is_far);
        // Where nothing ends, no wait is measured.
        let may_be_ours = !is_alone && measured.wait.is_none_or(|wait| wait > bearable);
        let highest = self.bearable_pressure();
        let is_pressed = may_be_ours && measured.pressure.is_some_and(|part| part > highest);
        match () {
            () if is_pressed || is_far && was_far => Trouble::Much,
            () if wait > bearable => Trouble::Some,
            () => Trouble::None,
        }
    }

    fn cut(&mut self, now: Duration, to: f64) {
        self.rate = Some(to);
        self.rises_fast_to = None;
        self.unused_since = None;
        self.hold_until = now + HOLD;
    }

    fn calm(&mut self, now: Duration, own: f64, is_alone: bool) {
        let Some(rate) = self.rate else {
            return;
        };
        if now < self.hold_until && !is_alone {
            return;
        }
        if own < UNUSED * rate {
            let since = *self.unused_since.get_or_insert(now);
            if is_alone || now.saturating_sub(since) >= LIFT_AFTER {
                self.lift();
            }
            return;
        }
        self.unused_since = None;
        let by = match self.rises_fast_to {
            _ if is_alone => RISE_ALONE,
            Some(to) if rate < to => FIRST_RISE,
            _ if own >= USED * rate => RISE,
            _ => return,
        };
        match rate * by {
            raised if raised > NO_LIMIT => self.lift(),
            raised => self.rate = Some(raised),
        }
    }

    fn lift(&mut self) {
        self.rate = None;
        self.unused_since = None;
    }
}

/// What L and P are while no job runs, by the last measurements.
#[derive(Debug)]
struct Idle {
    waits: VecDeque<Duration>,
    median: Duration,
    bearable: Duration,
    pressures: VecDeque<f64>,
    /// What nine of ten are below.
    usual_pressure: f64,
}

impl Idle {
    fn new(disks: Disks) -> Self {
        let usual = Duration::from_millis(match disks {
            Disks::Flash => 5,
            Disks::Rotating => 25,
        });
        Self {
            waits: VecDeque::new(),
            median: usual,
            bearable: usual.mul_f64(BEARABLE),
            pressures: VecDeque::new(),
            usual_pressure: 0.0,
        }
    }

    fn learn_pressure(&mut self, pressure: f64) {
        keep(&mut self.pressures, pressure);
        if self.pressures.len() >= IDLE_LEAST {
            let mut sorted: Vec<_> = self.pressures.iter().copied().collect();
            sorted.sort_unstable_by(f64::total_cmp);
            self.usual_pressure = sorted[to_index(USUALLY, sorted.len())];
        }
    }

    fn learn(&mut self, wait: Duration) {
        keep(&mut self.waits, wait);
        if self.waits.len() >= IDLE_LEAST {
            let mut sorted: Vec<_> = self.waits.iter().copied().collect();
            sorted.sort_unstable();
            self.median = sorted[sorted.len() / 2].max(IDLE_MIN);
            let usually = to_index(USUALLY, sorted.len());
            self.bearable = self.median.mul_f64(BEARABLE).max(sorted[usually]);
        }
    }

    fn median(&self) -> Duration {
        self.median
    }

    fn bearable(&self) -> Duration {
        self.bearable
    }
}

/// Adds the newest measurement, in the place of the oldest if there are enough.
fn keep<T>(kept: &mut VecDeque<T>, newest: T) {
    if kept.len() == IDLE_KEPT {
        kept.pop_front();
    }
    kept.push_back(newest);
}

/// The place of a part of a sorted list.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "of a list of a few hundred"
)]
fn to_index(part: f64, length: usize) -> usize {
    ((length as f64 * part) as usize).min(length.saturating_sub(1))
}

#[cfg(test)]
mod tests;
