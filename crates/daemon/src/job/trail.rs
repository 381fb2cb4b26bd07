//! A job's time line: when the parts of its work ran, and how fast its bytes moved. Its size is bounded, however long
//! the job takes.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use lvp_api::{Lane, LaneTime, Rates};

use super::meter::Moved;

/// Most intervals of the rates. When there would be more, two become one of twice the length.
const MAX_INTERVALS: usize = 120;

/// The first length of an interval. The counters are read five times a second.
const FIRST_INTERVAL_SEC: f64 = 0.2;

/// Most entries of the time line: a job that waits and begins again more often keeps the first of them, and the last
/// one grows.
const MAX_TIMES: usize = 64;

/// The time line of one job.
#[derive(Debug)]
pub struct Trail(Mutex<State>);

#[derive(Debug)]
struct State {
    started: Instant,
    /// Seconds between the job's acceptance and `started`.
    offset_sec: f64,
    times: Vec<LaneTime>,
    rates: Option<Measured>,
}

#[derive(Debug)]
struct Measured {
    from_sec: f64,
    interval_sec: f64,
    /// When the open interval ends.
    due_sec: f64,
    last: Moved,
    downloaded: Vec<u64>,
    decoded: Vec<u64>,
    written: Vec<u64>,
}

impl Default for Trail {
    /// A job begins in the queue.
    fn default() -> Self {
        Self::continued(Vec::new(), 0.0)
    }
}

impl Trail {
    /// The trail of a job that was accepted `offset_sec` ago, and of which this is known.
    pub fn continued(times: Vec<LaneTime>, offset_sec: f64) -> Self {
        let mut times = times;
        // What was open when the daemon ended, ended with it, and nobody knows when: not after now.
        times.iter_mut().for_each(|time| {
            time.end_sec.get_or_insert(time.begin_sec);
        });
        let last = times.iter().filter_map(|time| time.end_sec);
        let offset_sec = last.fold(offset_sec.max(0.0), f64::max);
        let is_new = times.is_empty();
        let trail = Self(Mutex::new(State {
            started: Instant::now(),
            offset_sec,
            times,
            rates: None,
        }));
        match is_new {
            // It has been in the queue since it was accepted.
            true => trail.lock().times.push(LaneTime {
                stage: Lane::Queued,
                begin_sec: 0.0,
                end_sec: None,
            }),
            false => trail.begin(Lane::Queued),
        }
        trail
    }

    /// A part of the work begins, unless it runs already.
    pub fn begin(&self, lane: Lane) {
        let mut state = self.lock();
        let now = state.now();
        if state.open(lane).is_some() {
            return;
        }
        if state.times.len() < MAX_TIMES {
            state.times.push(LaneTime {
                stage: lane,
                begin_sec: now,
                end_sec: None,
            });
        } else if let Some(last) = state.times.iter_mut().rfind(|time| time.stage == lane) {
            last.end_sec = None;
        }
    }

    /// A part of the work begins, and what led to it has ended.
    pub fn go_on_to(&self, lane: Lane) {
        self.end(Lane::Initializing);
        self.begin(lane);
    }

    /// A part of the work has ended.
    pub fn end(&self, lane: Lane) {
        let mut state = self.lock();
        let now = state.now();
        if let Some(time) = state.open(lane) {
            time.end_sec = Some(now);
        }
    }

    /// All that runs has ended.
    pub fn end_all(&self) {
        Lane::ALL.into_iter().for_each(|lane| self.end(lane));
    }

    /// Notes what has been moved until now.
    pub fn sample(&self, moved: Moved) {
        let mut state = self.lock();
        let now = state.now();
        match &mut state.rates {
            Some(rates) => rates.sample(now, moved),
            none => *none = Some(Measured::new(now, moved)),
        }
    }

    /// When the parts of the work ran.
    pub fn times(&self) -> Vec<LaneTime> {
        self.lock().times.clone()
    }

    /// The same, as if everything that runs ended now: what is stored of a job that may not live to say more.
    pub fn times_until_now(&self) -> Vec<LaneTime> {
        let state = self.lock();
        let now = state.now();
        let until_now = |mut time: LaneTime| {
            time.end_sec.get_or_insert(now);
            time
        };
        state.times.iter().copied().map(until_now).collect()
    }

    /// How fast bytes moved.
    pub fn rates(&self) -> Option<Rates> {
        let state = self.lock();
        let rates = state.rates.as_ref()?;
        Some(Rates {
            from_sec: rates.from_sec,
            interval_sec: rates.interval_sec,
            downloaded: rates.downloaded.clone(),
            decoded: rates.decoded.clone(),
            written: rates.written.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic cannot leave plain data half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Seconds since the job's acceptance, in milliseconds' precision.
    fn now(&self) -> f64 {
        let now = self.offset_sec + self.started.elapsed().as_secs_f64();
        (now * 1000.0).round() / 1000.0
    }

    fn open(&mut self, lane: Lane) -> Option<&mut LaneTime> {
        let mut times = self.times.iter_mut();
        times.find(|time| time.stage == lane && time.end_sec.is_none())
    }
}

impl Measured {
    fn new(now: f64, moved: Moved) -> Self {
        Self {
            from_sec: now,
            interval_sec: FIRST_INTERVAL_SEC,
            due_sec: now + FIRST_INTERVAL_SEC,
            last: moved,
            downloaded: vec![0],
            decoded: vec![0],
            written: vec![0],
        }
    }

    fn sample(&mut self, now: f64, moved: Moved) {
        while now >= self.due_sec {
            if self.downloaded.len() == MAX_INTERVALS {
                self.merge();
            }
            // The open interval, if it is one of a pair that was not merged yet, has grown instead.
            if now >= self.due_sec {
                self.series().into_iter().for_each(|series| series.push(0));
                self.due_sec += self.interval_sec;
            }
        }
        let last = std::mem::replace(&mut self.last, moved);
        let grown = [
            moved.fetched_bytes.saturating_sub(last.fetched_bytes),
            moved.settled_bytes.saturating_sub(last.settled_bytes),
            moved.written_bytes.saturating_sub(last.written_bytes),
        ];
        for (series, bytes) in self.series().into_iter().zip(grown) {
            if let Some(open) = series.last_mut() {
                *open += bytes;
            }
        }
    }

    /// Two intervals become one.
    fn merge(&mut self) {
        for series in self.series() {
            *series = series.chunks(2).map(|pair| pair.iter().sum()).collect();
        }
        self.interval_sec *= 2.0;
        let count = u32::try_from(self.downloaded.len()).unwrap_or(u32::MAX);
        self.due_sec = self.from_sec + f64::from(count) * self.interval_sec;
    }

    fn series(&mut self) -> [&mut Vec<u64>; 3] {
        [&mut self.downloaded, &mut self.decoded, &mut self.written]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(bytes: u64) -> Moved {
        Moved {
            fetched_bytes: bytes,
            settled_bytes: 2 * bytes,
            written_bytes: 3 * bytes,
            ..Moved::default()
        }
    }

    #[test]
    fn a_long_job_keeps_as_many_intervals_as_a_short_one_and_loses_no_byte() {
        let mut rates = Measured::new(0.0, moved(0));
        let mut bytes = 0;
        // A day, with an hour without a sample.
        for second in (0..40_000).chain(43_600..86_400) {
            bytes += 7;
            rates.sample(f64::from(second), moved(bytes));
            assert!(rates.downloaded.len() <= MAX_INTERVALS);
        }
        let sum = |series: &[u64]| series.iter().sum::<u64>();
        assert_eq!(sum(&rates.downloaded), bytes);
        assert_eq!(sum(&rates.decoded), 2 * bytes);
        assert_eq!(sum(&rates.written), 3 * bytes);
        assert!(rates.downloaded.len() > MAX_INTERVALS / 2 - 1);
        let count = u32::try_from(rates.written.len()).expect("few");
        let span = f64::from(count) * rates.interval_sec;
        assert!((86_399.0..=2.0 * 86_400.0).contains(&span), "{span}");
    }

    #[test]
    fn a_job_that_begins_again_for_ever_keeps_a_bounded_time_line() {
        let trail = Trail::default();
        for _ in 0..1000 {
            trail.begin(Lane::Downloading);
            trail.begin(Lane::Downloading);
            trail.end_all();
        }
        let times = trail.times();
        assert_eq!(times.len(), MAX_TIMES);
        assert!(times.iter().all(|time| time.end_sec.is_some()), "{times:?}");
        let again = Trail::continued(times, 0.0).times();
        assert_eq!(again.len(), MAX_TIMES);
    }

    #[test]
    fn what_ran_when_the_daemon_ended_does_not_run_for_ever() {
        let before = vec![LaneTime {
            stage: Lane::Downloading,
            begin_sec: 7.0,
            end_sec: None,
        }];
        // The clock went back meanwhile.
        let trail = Trail::continued(before, 3.0);
        let times = trail.times();
        assert_eq!(times[0].end_sec, Some(7.0));
        assert_eq!(times[1].stage, Lane::Queued);
        assert!(times[1].begin_sec >= 7.0);
    }
}
