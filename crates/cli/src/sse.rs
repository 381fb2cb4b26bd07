//! Server-sent events: the subset that the daemon sends (WHATWG HTML, section 9.2.6).
//!
//! Fields other than `data` are not needed: an event's data is the job's whole status, and the
//! status itself says whether the job has ended.

use std::time::Duration;

use lvp_api::JobStatus;
use reqwest::Response;

/// A stream without a byte for so long is dead. The daemon sends a comment every 15 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(45);

/// A status is below 8 KiB. A server that sends more than this without an end of line is no
/// daemon of ours, and must not fill the memory.
const MAX_EVENT_BYTES: usize = 1 << 20; // 1 MiB

/// Why a stream gives no further status.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// The server closed it.
    Closed,
    /// It broke, went silent, or sent something else than events.
    Broken,
}

/// The events of one job.
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
        loop {
            if let Some(data) = self.parser.next_event() {
                return serde_json::from_str(&data).map_err(|_| StreamEnd::Broken);
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

/// Cuts bytes into events, however they were cut into chunks.
#[derive(Debug, Default)]
struct Parser {
    buffer: Vec<u8>,
    data: String,
}

impl Parser {
    fn push(&mut self, bytes: &[u8]) -> Result<(), StreamEnd> {
        if self.buffer.len() + self.data.len() + bytes.len() > MAX_EVENT_BYTES {
            return Err(StreamEnd::Broken);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// The data of the next complete event. Events without data (comments, keep-alives) are
    /// skipped.
    fn next_event(&mut self) -> Option<String> {
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                if !self.data.is_empty() {
                    return Some(std::mem::take(&mut self.data));
                }
            } else if let Some(value) = line.strip_prefix("data:") {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value.strip_prefix(' ').unwrap_or(value));
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
            assert_eq!(events, ["{\"a\":\n1}", "{}"], "chunks of {size}");
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
