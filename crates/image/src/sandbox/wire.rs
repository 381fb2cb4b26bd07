//! The messages between the two processes: fixed lengths, little-endian words of 32 bits.
//!
//! A request is [`REQUEST_BYTES`] long, followed by its tasks if it is [`Op::Clusters`]. A reply is
//! [`REPLY_BYTES`] long, followed by a text if it is [`Status::Refused`]. Both sides are the same
//! program, so there are no versions.

use std::ops::Range;

/// Lanes of a process, each with a thread: as many as a copy has workers at most.
pub(crate) const LANES: usize = 5;

/// Buffers of a lane: those of a worker, and one for compressed input.
pub(crate) const BUFFERS: usize = 4;

/// Distance of two buffers: whole huge pages. Memory that is not touched is not taken.
pub(crate) const STRIDE: usize = 6 << 20; // 6 MiB

/// Size of a buffer: room for a span, for the longest compressed cluster (the descriptor of a 2 MiB
/// cluster can claim 4 MiB), and for the blocks in which both begin and end.
pub(crate) const BUFFER_BYTES: usize = (4 << 20) + (128 << 10);

/// A lane's part of the memory.
pub(crate) const LANE_BYTES: usize = BUFFERS * STRIDE;

pub(crate) const REQUEST_BYTES: usize = 4 * WORDS;
pub(crate) const REPLY_BYTES: usize = 4 * WORDS;
pub(crate) const TASK_BYTES: usize = 4 * TASK_WORDS;

const WORDS: usize = 8;
const TASK_WORDS: usize = 6;

/// Clusters of one request.
pub(crate) const MAX_TASKS: usize = 1024;

/// Longest text of a refusal.
pub(crate) const MAX_TEXT: usize = 240;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    /// Decode clusters, each by itself.
    Clusters,
    /// A stream begins.
    Start,
    /// Decode the stream's next bytes.
    Push,
    /// The stream has ended: decode what remains.
    Finish,
    /// The memory that was asked for may be taken.
    Grant,
}

const OPS: [Op; 5] = [Op::Clusters, Op::Start, Op::Push, Op::Finish, Op::Grant];

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// The process is ready.
    Ready,
    /// It is done.
    Done,
    /// The image is refused.
    Refused,
    /// The stream needs memory for its window, out of a budget that processes share.
    Window,
}

const STATUSES: [Status; 4] = [Status::Ready, Status::Done, Status::Refused, Status::Window];

/// A range of the lane's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Place {
    pub(crate) start: usize,
    pub(crate) len: usize,
}

impl Place {
    /// The range, if it is within the lane's memory.
    pub(crate) fn range(self) -> Option<Range<usize>> {
        let end = self.start.checked_add(self.len)?;
        (end <= LANE_BYTES).then_some(self.start..end)
    }
}

/// A request. What its fields mean depends on the operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    /// Counts the lane's requests.
    pub(crate) serial: u32,
    pub(crate) op: Op,
    /// The number of tasks, or the codec of a stream.
    pub(crate) number: usize,
    pub(crate) input: Place,
    pub(crate) output: Place,
}

impl Request {
    pub(crate) fn encode(&self) -> [u8; REQUEST_BYTES] {
        let op = OPS.iter().position(|op| *op == self.op).unwrap_or(0);
        encode([
            self.serial,
            word(op),
            word(self.number),
            word(self.input.start),
            word(self.input.len),
            word(self.output.start),
            word(self.output.len),
            0,
        ])
    }

    pub(crate) fn decode(bytes: &[u8; REQUEST_BYTES]) -> Option<Self> {
        let words: [u32; WORDS] = decode(bytes);
        let [serial, op, number, start, len, out_start, out_len, _] = words;
        Some(Self {
            serial,
            op: *OPS.get(index(op))?,
            number: index(number),
            input: Place {
                start: index(start),
                len: index(len),
            },
            output: Place {
                start: index(out_start),
                len: index(out_len),
            },
        })
    }
}

/// One cluster of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WireTask {
    /// A number for the encoding.
    pub(crate) encoding: u32,
    pub(crate) input: Place,
    pub(crate) output: Place,
    /// How many of its bytes are on the disk.
    pub(crate) needed: usize,
}

impl WireTask {
    pub(crate) fn encode(&self) -> [u8; TASK_BYTES] {
        encode([
            self.encoding,
            word(self.input.start),
            word(self.input.len),
            word(self.output.start),
            word(self.output.len),
            word(self.needed),
        ])
    }

    pub(crate) fn decode(bytes: &[u8; TASK_BYTES]) -> Self {
        let words: [u32; TASK_WORDS] = decode(bytes);
        let [encoding, start, len, out_start, out_len, needed] = words;
        Self {
            encoding,
            input: Place {
                start: index(start),
                len: index(len),
            },
            output: Place {
                start: index(out_start),
                len: index(out_len),
            },
            needed: index(needed),
        }
    }
}

/// A reply. What its numbers mean depends on the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reply {
    /// That of the request.
    pub(crate) serial: u32,
    pub(crate) status: Status,
    /// Input bytes that were consumed; the cluster or the kind of error of a refusal.
    pub(crate) consumed: usize,
    /// Bytes that were produced; the length of a refusal's text.
    pub(crate) produced: usize,
    /// Ignored bytes after the stream so far; the memory that is asked for; the parts of a new
    /// process.
    pub(crate) value: u64,
}

impl Reply {
    pub(crate) fn encode(&self) -> [u8; REPLY_BYTES] {
        let status = STATUSES.iter().position(|status| *status == self.status);
        let [a, b, c, d, e, f, g, h] = self.value.to_le_bytes();
        encode([
            self.serial,
            word(status.unwrap_or(0)),
            word(self.consumed),
            word(self.produced),
            u32::from_le_bytes([a, b, c, d]),
            u32::from_le_bytes([e, f, g, h]),
            0,
            0,
        ])
    }

    pub(crate) fn decode(bytes: &[u8; REPLY_BYTES]) -> Option<Self> {
        let words: [u32; WORDS] = decode(bytes);
        let [serial, status, consumed, produced, low, high, ..] = words;
        Some(Self {
            serial,
            status: *STATUSES.get(index(status))?,
            consumed: index(consumed),
            produced: index(produced),
            value: u64::from(high) << 32 | u64::from(low),
        })
    }
}

/// Every number that is sent is a length or an offset within a lane, or a small count.
fn word(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn index(word: u32) -> usize {
    usize::try_from(word).unwrap_or(usize::MAX)
}

fn encode<const WORDS: usize, const BYTES: usize>(words: [u32; WORDS]) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn decode<const WORDS: usize, const BYTES: usize>(bytes: &[u8; BYTES]) -> [u32; WORDS] {
    let mut words = [0; WORDS];
    let (chunks, _) = bytes.as_chunks::<4>();
    for (word, chunk) in words.iter_mut().zip(chunks) {
        *word = u32::from_le_bytes(*chunk);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire_and_unknown_words_do_not() {
        let place = |start| Place { start, len: 77 };
        for op in OPS {
            let request = Request {
                serial: u32::MAX,
                op,
                number: 1024,
                input: place(3 * STRIDE),
                output: place(1),
            };
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        for status in STATUSES {
            let reply = Reply {
                serial: 7,
                status,
                consumed: 1,
                produced: LANE_BYTES,
                value: u64::MAX - 5,
            };
            assert_eq!(Reply::decode(&reply.encode()), Some(reply));
        }
        let task = WireTask {
            encoding: 2,
            input: place(9),
            output: place(10),
            needed: 65536,
        };
        assert_eq!(WireTask::decode(&task.encode()), task);
        assert_eq!(Request::decode(&[0xff; REQUEST_BYTES]), None);
        assert_eq!(Reply::decode(&[0xff; REPLY_BYTES]), None);
        let beyond = Place {
            start: LANE_BYTES,
            len: 1,
        };
        assert_eq!(beyond.range(), None);
        assert_eq!(
            place(LANE_BYTES - 77).range().map(|range| range.end),
            Some(LANE_BYTES)
        );
    }
}
