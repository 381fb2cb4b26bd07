//! How large the ranges of an object are, and how many are read at once, by what was measured of its server.
//!
//! ```text
//! cost of a request (time to its first byte)
//!   small: many connections help where each is limited      -> all at once where one was slow, and fewer if they
//!          bring too little; otherwise the width is doubled while that makes it faster
//!   large: fewer, larger ranges                              -> a range takes the memory of its place, and where one
//!          connection would be faster than all that fit in memory, ranges of any size, of which those that run
//!          ahead stop reading when their place is full
//! ```
//!
//! Pure: times and bytes in, sizes out. Memory is [`WINDOW_BYTES`] whatever is measured.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::estimate::{per_second, to_bytes, to_f64};

/// Memory for all ranges of one reader.
pub(super) const WINDOW_BYTES: u64 = 16 << 20; // 16 MiB

/// The smallest range, and the size to begin with.
pub(super) const MIN_RANGE_BYTES: u64 = 1 << 20; // 1 MiB
pub(super) const FIRST_RANGE_BYTES: u64 = 4 << 20; // 4 MiB

/// The largest range. A connection whose range runs ahead stands still meanwhile, which servers permit for a while
/// only: see also [`MAX_STANDSTILL`].
const MAX_RANGE_BYTES: u64 = 1 << 30; // 1 GiB

/// How long a connection may have to stand still at the rate of the reader: below the shortest usual time limit for
/// sending (60 s: `send_timeout` of nginx), by a safe margin.
pub(super) const MAX_STANDSTILL: Duration = Duration::from_secs(15);

/// What caches divide objects into (`slice` in deploy/mirror/nginx.conf).
const SLICE_BYTES: u64 = 4 << 20; // 4 MiB

/// Ranges to begin with.
const FIRST_WIDTH: usize = 4;

/// What a range must take for each second that its request costs, so that the cost counts little.
const COST_SHARE: f64 = 4.0;

/// More ranges have to make it faster by this factor to stay.
const WORTH_WIDENING: f64 = 1.15;

/// Below this rate (bytes per second) of one connection, all are tried at once: it is the network that is slow.
const SLOW_CONNECTION: f64 = 100e6;

/// The part of what so many connections would bring, were each as fast as one alone, above which they are kept.
const WORTH_KEEPING: f64 = 0.6;

/// The shortest time that is compared with another.
const MIN_EPOCH: Duration = Duration::from_millis(200);

/// The part of an epoch in which the reader waited for the network, above which more ranges can help.
const STARVED: f64 = 0.5;

/// Measurements of one object's server, shared by all who read it.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<Measured>);

#[derive(Debug, Default, Clone, Copy)]
struct Measured {
    /// From sending a request to the first byte of its answer.
    first_byte: Option<Duration>,
    /// Bytes per second of one connection.
    rate: Option<f64>,
}

impl Measured {
    /// Bytes per second of so many connections that share the window, if they do not slow each other down.
    fn expected(&self, width: u64) -> Option<f64> {
        let place = to_f64(WINDOW_BYTES / width);
        let took = self.first_byte?.as_secs_f64() + place / self.rate?;
        Some(to_f64(width) * place / took)
    }
}

impl Pace {
    /// A request's answer has begun.
    pub(super) fn answered(&self, took: Duration) {
        let mut measured = self.lock();
        // Half of the old value: servers get slower and faster under load.
        measured.first_byte = Some(match measured.first_byte {
            Some(before) => (before + took) / 2,
            None => took,
        });
    }

    /// A whole range was received at the rate of the network.
    pub(super) fn received(&self, bytes: u64, took: Duration) {
        let rate = bytes_per_second(bytes, took);
        let mut measured = self.lock();
        measured.rate = Some(match measured.rate {
            Some(before) => f64::midpoint(before, rate),
            None => rate,
        });
    }

    /// From sending a request to the first byte of its answer.
    pub(super) fn cost(&self) -> Duration {
        self.get().first_byte.unwrap_or_default()
    }

    fn get(&self) -> Measured {
        *self.lock()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Measured> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a range of about this size ends: where a slice ends, so that the ranges of different readers meet the same
/// slices of a cache in between.
pub(super) fn range_end(start: u64, range_bytes: u64) -> u64 {
    let end = start.saturating_add(range_bytes);
    let slice = match range_bytes {
        SLICE_BYTES.. => SLICE_BYTES,
        _ => MIN_RANGE_BYTES,
    };
    let aligned = end - end % slice;
    if aligned > start { aligned } else { end }
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Bytes of the next range.
    pub(super) range_bytes: u64,
    /// Ranges at once.
    pub(super) width: usize,
    /// Bytes that a range may hold before it is read.
    pub(super) ahead_bytes: u64,
}

/// Decides for one reader.
#[derive(Debug)]
pub(super) struct Controller {
    max_width: usize,
    width: usize,
    /// No wider, after that did not help.
    is_settled: bool,
    /// Whether a first measurement of one connection has been looked at; and, until what all of them bring is known,
    /// what was measured.
    is_informed: bool,
    alone: Option<Measured>,
    /// Whether the first range has ended, of which a part came before the others began.
    has_begun: bool,
    /// The width before the last change, and the rate with it.
    before: Option<(usize, f64)>,
    epoch: Epoch,
    /// Bytes per second that the reader takes.
    delivered: Option<f64>,
}

#[derive(Debug)]
struct Epoch {
    began: Instant,
    bytes: u64,
    ranges: usize,
    waited: Duration,
}

impl Controller {
    pub(super) fn new(max_width: usize, now: Instant) -> Self {
        Self {
            max_width: max_width.max(1),
            width: FIRST_WIDTH.clamp(1, max_width.max(1)),
            is_settled: false,
            is_informed: false,
            alone: None,
            has_begun: false,
            before: None,
            epoch: Epoch::new(now),
            delivered: None,
        }
    }

    /// The reader has waited for the network.
    pub(super) fn waited(&mut self, time: Duration) {
        self.epoch.waited += time;
    }

    /// A range has been read to its end.
    pub(super) fn ended(&mut self, bytes: u64, now: Instant) {
        let epoch = &mut self.epoch;
        epoch.bytes += bytes;
        epoch.ranges += 1;
        let took = now.saturating_duration_since(epoch.began);
        if !std::mem::replace(&mut self.has_begun, true) {
            self.delivered = (took >= MIN_EPOCH).then(|| bytes_per_second(bytes, took));
            self.epoch = Epoch::new(now);
            return;
        }
        if took < MIN_EPOCH || epoch.ranges < self.width {
            return;
        }
        let rate = bytes_per_second(epoch.bytes, took);
        let is_starved = epoch.waited.as_secs_f64() > STARVED * took.as_secs_f64();
        self.delivered = Some(rate);
        self.epoch = Epoch::new(now);
        if let Some(alone) = self.alone.take() {
            self.width = self.needed(rate, alone);
            self.is_settled = true;
            return;
        }
        match self.before.take() {
            Some((width, before)) if rate < before * WORTH_WIDENING => {
                self.width = width;
                self.is_settled = true;
            }
            _ if is_starved && !self.is_settled && self.width < self.max_width => {
                self.before = Some((self.width, rate));
                self.width = (2 * self.width).min(self.max_width);
            }
            _ => {}
        }
    }

    /// The smallest width that would bring this rate, if connections do not slow each other down. All, if all bring
    /// about what they would then.
    fn needed(&self, rate: f64, alone: Measured) -> usize {
        let would = |width: usize| alone.expected(width as u64).unwrap_or(0.0);
        if rate >= WORTH_KEEPING * would(self.width) {
            return self.width;
        }
        let widths = std::iter::successors(Some(FIRST_WIDTH), |width| Some(2 * width));
        widths
            .take_while(|width| *width < self.width)
            .find(|width| would(*width) >= WORTH_WIDENING * rate)
            .unwrap_or(self.width)
    }

    /// The shape of the next range.
    pub(super) fn next(&mut self, pace: &Pace) -> Shape {
        let measured = pace.get();
        if let (Some(rate), false) = (measured.rate, self.is_informed) {
            self.is_informed = true;
            if rate < SLOW_CONNECTION && self.width < self.max_width && !self.is_settled {
                self.width = self.max_width;
                self.before = None;
                self.alone = Some(measured);
            }
        }
        let width = self.width as u64;
        let place_bytes = WINDOW_BYTES / width;
        // A large range cannot be taken back, so there is none before the rate is known.
        let (Some(cost), Some(rate)) = (measured.first_byte, measured.rate) else {
            return self.shape(FIRST_RANGE_BYTES.min(place_bytes), place_bytes);
        };
        let cost = cost.as_secs_f64();
        let wanted = to_bytes(COST_SHARE * cost * rate);
        let all_places = measured.expected(width).unwrap_or(0.0);
        if width > 1 && (wanted <= place_bytes || rate < all_places) {
            let least = FIRST_RANGE_BYTES.min(place_bytes);
            return self.shape(wanted.clamp(least, place_bytes), place_bytes);
        }
        // Where the reader's rate is not known, the network's is: no connection lasts for ever.
        let most = self.delivered.unwrap_or(rate) * MAX_STANDSTILL.as_secs_f64();
        let most = to_bytes(most).clamp(place_bytes, MAX_RANGE_BYTES);
        // Two are enough to have the next one begin without a pause.
        let width = self.width.min(2);
        Shape {
            // A single one waits for the answer to each request.
            range_bytes: if width == 1 { most } else { wanted.min(most) },
            width,
            ahead_bytes: WINDOW_BYTES / width as u64,
        }
    }

    fn shape(&self, range_bytes: u64, place_bytes: u64) -> Shape {
        Shape {
            range_bytes: range_bytes.max(MIN_RANGE_BYTES),
            width: self.width,
            ahead_bytes: place_bytes,
        }
    }
}

impl Epoch {
    fn new(now: Instant) -> Self {
        Self {
            began: now,
            bytes: 0,
            ranges: 0,
            waited: Duration::ZERO,
        }
    }
}

fn bytes_per_second(bytes: u64, took: Duration) -> f64 {
    per_second(bytes, took, Duration::from_micros(100))
}

#[cfg(test)]
mod tests;
