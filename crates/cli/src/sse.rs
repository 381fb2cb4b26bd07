//! Server-sent events: the subset that the daemon sends (WHATWG HTML, section 9.2.6).
//!
//! In the stream of one job, only `data` is needed: it is the job's whole status, which says whether the job
//! has ended. In the stream of all jobs, `event` says what the data is, and `id` where to continue.

use std::time::Duration;

use lvp_api::JobStatus;
use reqwest::Response;

/// A stream that is silent for this long is dead. The daemon sends a comment every 15 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(45);

/// A status is below 8 KiB. A server that sends more than this without an end of line is not the daemon, and
/// must not fill the memory.
const MAX_EVENT_BYTES: usize = 1 << 20; // 1 MiB

/// Why a stream has ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// The server closed it.
    Closed,
    /// It was cut off, went silent, or sent something other than events.
    Broken,
}

/// An event with data.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its name; empty when it has none.
    pub(crate) name: String,
    /// The last id so far.
    pub(crate) id: String,
    /// Its data.
    pub(crate) data: String,
}

/// The events of one job, or of all.
pub(crate) struct EventStream {
    response: Response,
    parser: Parser,
}

impl EventStream {
    /// Wraps a response whose content type has been checked.
    pub(crate) fn new(response: Response) -> Self {
        Self {
            response,
            parser: Parser::default(),
        }
    }

    /// The next status that the daemon reports.
    pub(crate) async fn next(&mut self) -> Result<JobStatus, StreamEnd> {
        let event = self.event().await?;
        serde_json::from_str(&event.data).map_err(|_| StreamEnd::Broken)
    }

    /// The next event, whatever it is.
    pub(crate) async fn event(&mut self) -> Result<Event, StreamEnd> {
        loop {
            if let Some(event) = self.parser.next_event() {
                return Ok(event);
            }
            let chunk = tokio::time::timeout(IDLE_TIMEOUT, self.response.chunk());
            match chunk.await {
                Ok(Ok(Some(bytes))) => self.parser.push(&bytes)?,
                Ok(Ok(None)) => return Err(StreamEnd::Closed),
                Ok(Err(_)) | Err(_) => return Err(StreamEnd::Broken),
            }
        }
    }
}

/// Splits bytes into events, however they were split into chunks.
#[derive(Debug, Default)]
struct Parser {
    buffer: Vec<u8>,
    event: Event,
}

impl Parser {
    fn push(&mut self, bytes: &[u8]) -> Result<(), StreamEnd> {
        if self.buffer.len() + self.event.data.len() + bytes.len() > MAX_EVENT_BYTES {
            return Err(StreamEnd::Broken);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// The next complete event. Events without data (comments, keep-alives) are skipped.
    fn next_event(&mut self) -> Option<Event> {
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            let event = &mut self.event;
            if line.is_empty() {
                let next = Event {
                    id: event.id.clone(),
                    ..Event::default()
                };
                let event = std::mem::replace(event, next);
                if !event.data.is_empty() {
                    return Some(event);
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "data" => {
                    if !event.data.is_empty() {
                        event.data.push('\n');
                    }
                    event.data.push_str(value);
                }
                "event" => value.clone_into(&mut event.name),
                "id" => value.clone_into(&mut event.id),
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": keep-alive\n\nevent: progress\ndata: {\"a\":\ndata: 1}\n\nid: 7\r\n\
                          event:end\r\ndata:{}\r\n\r\ndata: cut off";

    #[test]
    fn events_do_not_depend_on_how_the_bytes_are_cut() {
        for size in 1..=STREAM.len() {
            let mut parser = Parser::default();
            let mut events = Vec::new();
            for chunk in STREAM.as_bytes().chunks(size) {
                parser.push(chunk).expect("it is short");
                events.extend(std::iter::from_fn(|| parser.next_event()));
            }
            let event = |name: &str, id: &str, data: &str| Event {
                name: name.to_owned(),
                id: id.to_owned(),
                data: data.to_owned(),
            };
            assert_eq!(
                events,
                [
                    event("progress", "", "{\"a\":\n1}"),
                    event("end", "7", "{}")
                ],
                "chunks of {size}"
            );
        }
    }

    #[test]
    fn an_event_without_end_does_not_fill_the_memory() {
        let mut parser = Parser::default();
        let mut pushed = Ok(());
        for _ in 0..3 {
            pushed = pushed.and_then(|()| parser.push(&vec![b'x'; MAX_EVENT_BYTES / 2]));
        }
        assert_eq!(pushed, Err(StreamEnd::Broken));
    }
}
