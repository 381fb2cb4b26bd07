//! The fetching end of a pass.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::TransferError;
use crate::job::meter::Meter;
use crate::job::stop::Stop;
use crate::source::{ObjectMeta, RangeReader, Source};

/// Passes an object's bytes to the pump.
pub(super) struct Fetching {
    pub(super) source: Source,
    pub(super) object: ObjectMeta,
    /// Whether a download that was cut off can be continued.
    pub(super) can_be_joined: bool,
    pub(super) meter: Arc<Meter>,
    pub(super) stop: Stop,
}

impl Fetching {
    /// Runs until the object's end, or until the pump has ended.
    pub(super) async fn run(
        self,
        start: u64,
        pump: mpsc::Sender<Bytes>,
    ) -> Result<(), TransferError> {
        let (stop, pause) = (&self.stop, &self.meter.pause);
        let mut position = start;
        let mut reader = self.reader(position);
        loop {
            let chunk = tokio::select! {
                biased;
                reason = stop.stopped() => return Err(TransferError::Stopped(reason)),
                () = pause.begun(), if self.can_be_joined => {
                    // Connections that nobody reads from are cut off by the other side sooner or later.
                    drop(reader);
                    tokio::select! {
                        biased;
                        reason = stop.stopped() => return Err(TransferError::Stopped(reason)),
                        () = pause.over() => {}
                    }
                    reader = self.reader(position);
                    continue;
                }
                chunk = reader.next() => chunk,
            };
            let Some(chunk) = chunk.transpose()? else {
                return Ok(());
            };
            let length = chunk.len() as u64;
            tokio::select! {
                biased;
                reason = stop.stopped() => return Err(TransferError::Stopped(reason)),
                sent = pump.send(chunk) => {
                    if sent.is_err() {
                        // The pump has ended, and reports why.
                        return Ok(());
                    }
                }
            }
            position += length;
            self.meter.received(length);
        }
    }

    fn reader(&self, position: u64) -> RangeReader {
        let (source, object) = (&self.source, &self.object);
        match self.can_be_joined {
            true => source.read_ranges(object, position..object.size, source.range_options()),
            false => source.read_once(object),
        }
    }
}
