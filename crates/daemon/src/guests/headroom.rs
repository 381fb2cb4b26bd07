//! How fast jobs may receive from the network, by what others receive over the same links.
//!
//! ```text
//!  others            what the links have received less what jobs have, in a second
//!  nobody else       for five seconds: no limit
//!  the links are     rises by a quarter with every step, up to nine tenths of the links less the most that others
//!  not full          received in the last five seconds, and less headers
//!  the links are     0.7 of what jobs received, and no rise for two seconds: others may want more than they get
//!  full
//!  ... and there    a probe, at once and then every 30 seconds: jobs are held to 0.8 of the links, with which others
//!  is no limit      grow that jobs have squeezed
//! ```
//!
//! How much of the links jobs take is known within a tenth only, as the size of headers is not known. Of a full link
//! without a limit that tenth may hide others, whence the probe. Its first second is not measured: senders go on until the
//! buffers of the connections are full.
//!
//! What is left can be computed here, where for disks it has to be tried: the speed of a link is known, and bytes add up.
//! While the links are not full, others get what they ask for; the tenth that is left free is what they can grow into
//! before the next step.
//!
//! Bytes of jobs are counted when they are taken from the sockets, and those of the links when they arrive. What is in the
//! buffers in between is no other's: it counts only if the two differ for two seconds.
//!
//! Pure: counters and the time in, a rate out.

use std::collections::VecDeque;
use std::time::Duration;

use crate::estimate::{to_bytes, to_f64};

/// The part of the links that jobs may fill beside others.
const FILLED: f64 = 0.9;

/// From this part on, the links are full.
const FULL: f64 = 0.93;

/// What others receive below this part of the links is nobody's.
const NOBODY: f64 = 0.02;

/// What a byte of an image takes on a link: headers of Ethernet, IP, TCP and TLS, and a margin.
const OVERHEAD: f64 = 1.1;

/// A cut, and a rise.
const CUT: f64 = 0.7;
const RISE: f64 = 1.25;

/// How long there is no rise after a cut.
const HOLD: Duration = Duration::from_secs(2);

/// The part of the links that jobs may fill in a probe, how often there is one, how long it takes, and how much of that is
/// not measured.
const PROBED: f64 = 0.8;
const PROBE_EVERY: Duration = Duration::from_secs(30);
const PROBE: Duration = Duration::from_millis(3500);
const SETTLE: Duration = Duration::from_secs(1);

/// Over how long is measured.
const WINDOW: Duration = Duration::from_secs(1);

/// For how long what others have received is remembered.
const REMEMBERED: Duration = Duration::from_secs(5);

/// What was received until now, since any moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Received {
    /// By the links.
    pub all_bytes: u64,
    /// By jobs.
    pub own_bytes: u64,
}

/// Decides about the rate of all jobs together.
#[derive(Debug)]
pub struct Headroom {
    link: f64,
    floor: f64,
    /// The counters of the last [`WINDOW`], and the last ones before it.
    counted: VecDeque<(Duration, Received)>,
    /// What others received, as it was measured in the last [`WINDOW`].
    measured: VecDeque<(Duration, f64)>,
    /// What others certainly received, in the last [`REMEMBERED`].
    others: VecDeque<(Duration, f64)>,
    /// In bytes of images.
    rate: Option<f64>,
    hold_until: Duration,
    /// When the last probe began.
    probed_at: Option<Duration>,
    is_probing: bool,
}

impl Headroom {
    /// For links of this speed; the rate is never below the floor.
    pub fn new(link_bytes_per_sec: u64, floor_bytes_per_sec: u64) -> Self {
        Self {
            link: to_f64(link_bytes_per_sec.max(1)),
            floor: to_f64(floor_bytes_per_sec.max(1)),
            counted: VecDeque::new(),
            measured: VecDeque::new(),
            others: VecDeque::new(),
            rate: None,
            hold_until: Duration::ZERO,
            probed_at: None,
            is_probing: false,
        }
    }

    /// Whether the rate is only that of a probe, and nobody else is known.
    pub fn is_probing(&self) -> bool {
        self.is_probing
    }

    /// The most that others received in the last five seconds, in bytes per second.
    pub fn others(&self) -> f64 {
        greatest(&self.others)
    }

    /// The rate now, in bytes of images per second; None if nothing is limited.
    pub fn rate(&self) -> Option<u64> {
        self.rate.map(|rate| to_bytes(rate).max(1))
    }

    /// Decides anew. `now` is the time since any fixed instant, and grows.
    pub fn step(&mut self, now: Duration, received: Received) -> Option<u64> {
        if self.is_probing && self.since_probe(now) <= SETTLE {
            self.counted.clear();
            self.measured.clear();
        }
        keep(&mut self.counted, now, received, WINDOW);
        let Some((all, own)) = self.rates(now) else {
            return self.rate();
        };
        keep(
            &mut self.measured,
            now,
            (all - OVERHEAD * own).max(0.0),
            WINDOW,
        );
        let certain = self.certain(now);
        keep(&mut self.others, now, certain, REMEMBERED);
        let others = self.others();
        let is_full = all >= FULL * self.link;
        if others < NOBODY * self.link {
            self.probe(now, is_full);
        } else if is_full {
            let used = self.rate.map_or(own, |rate| rate.min(own));
            self.rate = Some((used * CUT).max(self.floor));
            self.hold_until = now + HOLD;
            self.is_probing = false;
        } else {
            let left = (FILLED * self.link - others) / OVERHEAD;
            self.approach(now, left.max(self.floor));
            self.is_probing = false;
        }
        self.rate()
    }

    /// Nobody else is known: no limit, except that of a probe while the links are full.
    fn probe(&mut self, now: Duration, is_full: bool) {
        if self.is_probing {
            self.is_probing = self.since_probe(now) < PROBE;
        } else if is_full && self.rate.is_none() && self.since_probe(now) >= PROBE_EVERY {
            self.is_probing = true;
            self.probed_at = Some(now);
        }
        let probed = PROBED * self.link / OVERHEAD;
        self.rate = self.is_probing.then_some(probed.max(self.floor));
    }

    fn since_probe(&self, now: Duration) -> Duration {
        self.probed_at
            .map_or(Duration::MAX, |at| now.saturating_sub(at))
    }

    /// What others received all the time in the last [`WINDOW`] of measurements.
    fn certain(&self, now: Duration) -> f64 {
        let since = self.measured.front().map_or(now, |(at, _)| *at);
        let others = self.measured.iter().map(|(_, others)| *others);
        match now.saturating_sub(since) < WINDOW {
            true => 0.0,
            false => others.fold(f64::INFINITY, f64::min),
        }
    }

    fn approach(&mut self, now: Duration, left: f64) {
        self.rate = Some(match self.rate {
            None => left,
            Some(rate) if rate >= left => left,
            Some(rate) if now < self.hold_until => rate,
            Some(rate) => (rate * RISE).min(left),
        });
    }

    /// What the links have received in a second, and jobs of images. None if that was not measured for long enough.
    fn rates(&self, now: Duration) -> Option<(f64, f64)> {
        let (since, first) = self.counted.front()?;
        let (_, last) = self.counted.back()?;
        let passed = now.saturating_sub(*since);
        if passed < WINDOW {
            return None;
        }
        // Counters begin anew with an interface that was replaced: what arrived meanwhile is not known.
        let rate =
            |now: u64, before: u64| to_f64(now.saturating_sub(before)) / passed.as_secs_f64();
        let all = rate(last.all_bytes, first.all_bytes);
        Some((all, rate(last.own_bytes, first.own_bytes)))
    }
}

/// Adds the newest, and removes what is not needed to look back for this long.
fn keep<T>(kept: &mut VecDeque<(Duration, T)>, now: Duration, newest: T, back: Duration) {
    kept.push_back((now, newest));
    while kept
        .get(1)
        .is_some_and(|(at, _)| now.saturating_sub(*at) >= back)
    {
        kept.pop_front();
    }
}

fn greatest(of: &VecDeque<(Duration, f64)>) -> f64 {
    of.iter().map(|(_, value)| *value).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests;
