//! The writing end: everything that workers produce goes to the target through here.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::held::{self, HELD_BYTES, Held};
use super::limits::Limits;
use super::options::{Counters, Tail, TailPolicy, TimeSpent, Zeroed};
use super::stop::StopSignal;
use super::zero::{self, GRANULE_BYTES, MIN_GAP_BYTES, Run};
use crate::device::{Content, Target, ZeroMethod};
use crate::error::{Error, ErrorKind, Result};
use crate::gpt;

/// How much is zeroed at a time if zeroing costs bandwidth and that is limited: about the size of
/// one write, so that the rate is smooth.
const LIMITED_ZERO_STEP_BYTES: u64 = 2 << 20; // 2 MiB

/// A part of some bytes that is to be written to this offset of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WriteRange {
    pub(crate) range: Range<usize>,
    pub(crate) offset: u64,
}

/// A target with everything that decides how bytes are written to it.
#[derive(Debug)]
pub(crate) struct Output {
    target: Target,
    held: Held,
    counters: Arc<Counters>,
    limits: Limits,
    /// What stops the copy.
    pub(super) stop: Arc<StopSignal>,
    zeroed: [AtomicU64; ZeroMethod::ALL.len()],
}

impl Output {
    pub(crate) fn new(
        target: Target,
        counters: Arc<Counters>,
        limits: Limits,
        stop: Arc<StopSignal>,
    ) -> Self {
        Self {
            target,
            held: Held::default(),
            counters,
            limits,
            stop,
            zeroed: Default::default(),
        }
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    pub(crate) fn is_known_zero(&self) -> bool {
        self.target.content() == Content::KnownZero
    }

    /// Clears what would make the volume look like a disk, before the first byte is written. From
    /// now on, what the image has for these places is held back.
    pub(crate) fn clear_ends(&self, virtual_size: Option<u64>, tail: TailPolicy) -> Result<()> {
        self.hold(held::head(virtual_size))?;
        if let Some(size) = virtual_size {
            self.hold(held::foot(size))?;
        }
        if self.is_known_zero() {
            return Ok(());
        }
        if let Some(capacity) = self.target.capacity()
            && tail != TailPolicy::Keep
        {
            let disk_end = virtual_size.map_or(0, |size| self.up_to_unit(size));
            let start = capacity.saturating_sub(HELD_BYTES).max(disk_end);
            self.clear(start..capacity)?;
        }
        self.time().device(|| self.target.sync())
    }

    /// Where the time goes.
    pub(crate) fn time(&self) -> &TimeSpent {
        &self.counters.time
    }

    /// Holds back what will be written to `range`, and clears it.
    pub(crate) fn hold(&self, range: Range<u64>) -> Result<()> {
        if !self.is_known_zero() {
            // A disk whose size is not known yet may be smaller than the held-back region.
            let capacity = self.target.capacity().unwrap_or(u64::MAX);
            self.clear(range.start..self.up_to_unit(range.end).min(capacity))?;
        }
        self.held.add(range)
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(crate) fn count_source(&self, bytes: u64) {
        self.counters
            .source_bytes
            .fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts guest bytes that need no further work.
    pub(crate) fn count_done(&self, bytes: u64) {
        self.counters
            .guest_bytes
            .fetch_add(bytes, Ordering::Relaxed);
    }

    /// The part of the target after the disk that is to be cleared, and what the report says about
    /// it.
    pub(crate) fn tail(&self, virtual_size: u64, policy: TailPolicy) -> (Vec<Range<u64>>, Tail) {
        let Some(capacity) = self.target.capacity() else {
            return (Vec::new(), Tail::default());
        };
        let tail = self.up_to_unit(virtual_size)..capacity;
        let bytes = capacity - virtual_size;
        if tail.is_empty() || self.target.has_zero_tail() {
            let report = Tail {
                bytes,
                zero_bytes: bytes,
            };
            return (Vec::new(), report);
        }
        let len = tail.end - tail.start;
        let ranges = match policy {
            TailPolicy::Zero => vec![tail],
            TailPolicy::Edges if len <= 2 * HELD_BYTES => vec![tail],
            TailPolicy::Edges => {
                let first_end = tail.start + HELD_BYTES;
                let last = tail.end - HELD_BYTES;
                vec![tail.start..first_end, last..tail.end]
            }
            TailPolicy::Keep => Vec::new(),
        };
        let kept = len - ranges.iter().map(|r| r.end - r.start).sum::<u64>();
        let report = Tail {
            bytes,
            zero_bytes: bytes - kept,
        };
        (ranges, report)
    }

    /// Makes a range of the target read as zero.
    pub(crate) fn clear(&self, range: Range<u64>) -> Result<()> {
        let mut start = range.start;
        while start < range.end {
            let mut step = self.target.zero_step_bytes();
            if self.target.zeroing_moves_data() {
                if self.limits.is_limited() {
                    step = step.min(LIMITED_ZERO_STEP_BYTES);
                }
                if let Some(portion) = self.limits.portion_bytes() {
                    step = step.min(portion as u64);
                }
                let bytes = step.min(range.end - start);
                self.limits.wait_for_turn(bytes, self.time(), &self.stop)?;
                self.give_way(bytes)?;
            } else {
                self.stop.check()?;
            }
            let end = range.end.min(start.saturating_add(step));
            let method = self.time().device(|| self.target.zero_range(start..end))?;
            self.zeroed[method as usize].fetch_add(end - start, Ordering::Relaxed);
            self.counters
                .zeroed_bytes
                .fetch_add(end - start, Ordering::Relaxed);
            start = end;
        }
        Ok(())
    }

    /// Moves the disk's backup GPT to the target's end, in what is held back. Returns what was done, and where what
    /// is to be written ends.
    pub(crate) fn expand_gpt(&self, virtual_size: u64) -> Result<(gpt::Outcome, u64)> {
        let volume_bytes = self.target.capacity().unwrap_or(virtual_size);
        let read = |range| self.held.read(&range).ok_or_else(not_held);
        let plan = gpt::plan(read, virtual_size, volume_bytes)?;
        let Some(backup) = plan.backup() else {
            return Ok((plan.outcome, virtual_size));
        };
        match self.held.grow_over(&backup)? {
            Some(grown) => self.clear_behind(grown)?,
            None => {
                let start = backup.start - backup.start % GRANULE_BYTES as u64;
                self.clear_behind(start..backup.end)?;
                self.held.add(start..backup.end)?;
            }
        }
        for change in &plan.changes {
            let outside = |_, _: &[u8]| Err(not_held());
            self.held.keep(change.offset, &change.bytes, outside)?;
        }
        Ok((plan.outcome, backup.end.max(virtual_size)))
    }

    /// Clears whole blocks after the disk, which may keep older data.
    fn clear_behind(&self, range: Range<u64>) -> Result<()> {
        if self.target.has_zero_tail() {
            return Ok(());
        }
        let capacity = self.target.capacity().unwrap_or(u64::MAX);
        let end = self.up_to_unit(range.end).min(capacity);
        self.clear(self.up_to_unit(range.start).min(end)..end)
    }

    /// Writes what was held back and is before `disk_end`, the head last, and waits until everything is on stable
    /// storage.
    pub(crate) fn write_held(&self, disk_end: u64) -> Result<()> {
        self.held.for_each(|range, bytes| {
            // A disk that turned out to be small ends inside the region, perhaps not at the end of
            // a block: it is padded with zeros to one.
            let end = self.up_to_unit(range.end.min(disk_end));
            let len = end.saturating_sub(range.start);
            let len = usize::try_from(len).unwrap_or(bytes.len()).min(bytes.len());
            // The region was cleared when the copy began, so its zeros are already there.
            let bytes = &bytes[..len];
            let mut is_written = false;
            self.split_runs(range.start, bytes, GRANULE_BYTES, |_| Ok(()), &mut |part| {
                let data = &bytes[part.range];
                self.target.write_all_at(data, part.offset)?;
                self.count(data.len() as u64, 0);
                is_written = true;
                Ok(())
            })?;
            // The head, which comes last, is flushed below.
            if range.start > 0 && is_written {
                self.target.sync()?;
            }
            Ok(())
        })?;
        self.target.set_final_size(disk_end)?;
        self.target.sync_all()
    }

    /// Clears the held-back regions again after writing them has failed half-way.
    pub(crate) fn clear_held(&self) -> Result<()> {
        self.held.for_each(|range, _| {
            let capacity = self.target.capacity().unwrap_or(u64::MAX);
            let end = self.up_to_unit(range.end).min(capacity);
            self.target.zero_range(range.start..end).map(drop)
        })?;
        self.target.sync()
    }

    pub(crate) fn zeroed(&self) -> Vec<Zeroed> {
        ZeroMethod::ALL
            .iter()
            .copied()
            .zip(&self.zeroed)
            .map(|(method, bytes)| Zeroed {
                method,
                bytes: bytes.load(Ordering::Relaxed),
            })
            .filter(|zeroed| zeroed.bytes > 0)
            .collect()
    }

    fn up_to_unit(&self, offset: u64) -> u64 {
        offset.next_multiple_of(self.target.write_unit())
    }

    /// Processes guest bytes: keeps what is held back, zeroes what is zero, and calls `write` for the
    /// parts of `bytes` that remain to be written.
    pub(crate) fn split(
        &self,
        guest_offset: u64,
        bytes: &[u8],
        write: &mut dyn FnMut(WriteRange),
    ) -> Result<()> {
        self.held.keep(guest_offset, bytes, |offset, part| {
            // Its position in `bytes`.
            let start = usize::try_from(offset - guest_offset).unwrap_or(usize::MAX);
            let mut data = |WriteRange { range, offset }| {
                let range = range.start + start..range.end + start;
                write(WriteRange { range, offset });
                Ok(())
            };
            if self.is_known_zero() {
                self.split_runs(offset, part, GRANULE_BYTES, |_| Ok(()), &mut data)
            } else {
                // Short runs of zeros are written: a request to zero them costs as much.
                let clear = |zeros| self.clear(zeros);
                self.split_runs(offset, part, MIN_GAP_BYTES, clear, &mut data)
            }
        })
    }

    /// Processes a guest range that reads as zero.
    pub(crate) fn zero(&self, range: Range<u64>) -> Result<()> {
        if !self.is_known_zero() {
            // The held-back regions were cleared when the copy began.
            for part in self.held.outside(range.clone()) {
                self.clear(part)?;
            }
        }
        self.count_done(range.end - range.start);
        Ok(())
    }

    /// Counts bytes written to the target, and guest bytes that need no further work.
    pub(crate) fn count(&self, written: u64, done: u64) {
        self.counters
            .written_bytes
            .fetch_add(written, Ordering::Relaxed);
        self.count_done(done);
    }

    /// Writes guest bytes and waits until they are written.
    pub(crate) fn write(&self, guest_offset: u64, bytes: &[u8]) -> Result<()> {
        let mut parts = Vec::new();
        self.split(guest_offset, bytes, &mut |part| parts.push(part))?;
        let mut written = 0;
        for part in parts {
            let data = &bytes[part.range];
            self.write_now(data, part.offset)?;
            written += data.len() as u64;
        }
        self.count(written, bytes.len() as u64);
        Ok(())
    }

    /// Writes bytes as they are, in portions while others need the device.
    pub(crate) fn write_now(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let (mut rest, mut offset) = (bytes, offset);
        while !rest.is_empty() {
            let length = self
                .limits
                .portion_bytes()
                .unwrap_or(rest.len())
                .min(rest.len());
            let (now, later) = rest.split_at(length);
            self.give_way(length as u64)?;
            let write = || self.target.write_all_at(now, offset);
            self.time().device(write)?;
            offset += length as u64;
            rest = later;
        }
        Ok(())
    }

    /// Waits until others leave room for these bytes.
    pub(crate) fn give_way(&self, bytes: u64) -> Result<()> {
        self.limits.give_way(bytes, self.time(), &self.stop)
    }

    /// The same before bytes of the image are read, if they come from the same device.
    pub(crate) fn give_way_to_read(&self, bytes: u64) -> Result<()> {
        match self.limits.yields_reads {
            true => self.give_way(bytes),
            false => Ok(()),
        }
    }

    /// What holds the copy back.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Waits while the copy is held still.
    pub(crate) fn hold_still(&self) -> Result<()> {
        self.limits.brake.wait(&self.stop)
    }

    /// Splits `bytes`, which belong to that offset of the target, into data and runs of zeros. At
    /// the ends of `bytes`, zeros count as such from `min_edge` bytes on. Data waits for its turn at
    /// the rate limit.
    fn split_runs(
        &self,
        offset: u64,
        bytes: &[u8],
        min_edge: usize,
        zero: impl Fn(Range<u64>) -> Result<()>,
        data: &mut dyn FnMut(WriteRange) -> Result<()>,
    ) -> Result<()> {
        for run in zero::runs(bytes, min_edge) {
            match run {
                Run::Zero(part) => zero(offset + part.start as u64..offset + part.end as u64)?,
                Run::Data(range) => {
                    let bytes = range.len() as u64;
                    (self.limits).wait_for_turn(bytes, self.time(), &self.stop)?;
                    let offset = offset + range.start as u64;
                    data(WriteRange { range, offset })?;
                }
            }
        }
        Ok(())
    }
}

fn not_held() -> Error {
    let what = "A part of the disk's GPT is not held back, which is a bug in this program";
    Error::new(ErrorKind::Internal, what)
}
