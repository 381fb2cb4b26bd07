//! Decodes clusters, in this process or in another one.
//!
//! In this process a cluster is decoded at once. Another process gets all that goes into one buffer in
//! one request, since a request costs as much as decoding a small cluster.

use std::sync::Arc;

use super::stop::StopSignal;
use super::view::{View, at_cluster, length, out_of_span};
use crate::decode::{Decoder, undecodable};
use crate::error::Result;
use crate::map::Extent;
use crate::sandbox::{BUFFER_BYTES, Decoders, Lane, Place, Task};
use crate::sys::AlignedBuf;

/// The decoder of one thread.
pub(crate) enum Clusters {
    Here {
        decoder: Decoder,
        scratch: Vec<u8>,
    },
    Apart {
        lane: Lane,
        tasks: Vec<(Task, Extent)>,
        /// How much of the lane's input is in use.
        filled: usize,
    },
}

impl Clusters {
    /// The decoder, and the only buffers that it can decode to if it is another process.
    pub(crate) fn new(
        decoders: &Decoders,
        stop: &Arc<StopSignal>,
    ) -> Result<(Self, Option<Vec<AlignedBuf>>)> {
        let stop = Arc::clone(stop);
        let Some(mut lane) = decoders.lane(Box::new(move || stop.is_set()))? else {
            return Ok((Self::here(), None));
        };
        let buffers = lane.take_buffers();
        let apart = Self::Apart {
            lane,
            tasks: Vec::new(),
            filled: 0,
        };
        Ok((apart, Some(buffers)))
    }

    pub(crate) fn here() -> Self {
        Self::Here {
            decoder: Decoder::new(),
            scratch: Vec::new(),
        }
    }

    /// Decodes a cluster to `buffer[start..start + len]`, of which the first `needed` bytes are on the
    /// disk: now, or when [`run`](Self::run) is called.
    pub(crate) fn decode(
        &mut self,
        piece: &Extent,
        view: &View<'_>,
        (buffer, start, len): (&mut AlignedBuf, usize, usize),
        needed: usize,
    ) -> Result<()> {
        self.make_room(length(piece.host_len)?)?;
        match self {
            Self::Here { decoder, scratch } => {
                let bytes = view.contiguous(piece.host_range(), scratch)?;
                let output = buffer.get_mut(start..start + len).ok_or_else(out_of_span)?;
                decoder
                    .decode_part(piece.encoding, bytes, output, needed)
                    .map_err(|error| at_cluster(&error, piece))
            }
            Self::Apart {
                lane,
                tasks,
                filled,
            } => {
                let host_len = length(piece.host_len)?;
                let (place, memory) = lane.input()?;
                let room = memory.get_mut(*filled..*filled + host_len);
                view.copy_to(piece.host_range(), room.ok_or_else(out_of_span)?)?;
                let from = place + *filled;
                *filled += host_len;
                let to = lane.place_of(buffer).ok_or_else(out_of_span)? + start;
                let task = Task {
                    encoding: piece.encoding,
                    input: Place {
                        start: from,
                        len: host_len,
                    },
                    output: Place { start: to, len },
                    needed,
                };
                tasks.push((task, *piece));
                Ok(())
            }
        }
    }

    /// Makes room for compressed bytes. Extents of some formats overlap, as the length of a stream is only in
    /// the stream: all of a span's can be longer than the span.
    fn make_room(&mut self, bytes: usize) -> Result<()> {
        if let Self::Apart { filled, .. } = self
            && *filled + bytes > BUFFER_BYTES
        {
            self.run()?;
            self.begin();
        }
        Ok(())
    }

    /// Waits until everything is decoded.
    pub(crate) fn run(&mut self) -> Result<()> {
        let Self::Apart { lane, tasks, .. } = self else {
            return Ok(());
        };
        if tasks.is_empty() {
            return Ok(());
        }
        let asked: Vec<Task> = tasks.iter().map(|(task, _)| *task).collect();
        if let Err(failed) = lane.clusters(&asked)? {
            let (task, piece) = tasks.get(failed).ok_or_else(out_of_span)?;
            let error = undecodable(task.input.len, task.output.len);
            return Err(at_cluster(&error, piece));
        }
        tasks.clear();
        Ok(())
    }

    /// A new span begins, and everything was [run](Self::run).
    pub(crate) fn begin(&mut self) {
        if let Self::Apart { filled, .. } = self {
            *filled = 0;
        }
    }
}
