//! One client connection of the proxy: plain HTTP/1.1 on raw sockets.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::{Fault, Request, State};

/// A request or answer without its body: the first line, and the headers in their order.
struct Head {
    first_line: String,
    headers: Vec<(String, String)>,
}

/// What happens to a body after the head was sent.
struct Plan {
    /// Bytes to send.
    send: u64,
    then: Then,
    wrong_byte: Option<u64>,
    bytes_per_sec: Option<u64>,
    /// What is sent in place of the body.
    instead: Option<Bytes>,
    /// Length of chunks, and bytes too many.
    chunked: Option<(u64, u64)>,
}

#[derive(PartialEq, Eq)]
enum Then {
    NextRequest,
    Reset,
    Close,
    Stall,
}

/// Counts a connection while it lives, however it ends.
struct Open(Arc<State>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Counts a request while it is answered.
struct Active<'a>(&'a State);

impl<'a> Active<'a> {
    /// None when there are as many as there may be.
    fn begin(state: &'a State) -> Option<Self> {
        let most = state.most_active.load(Ordering::SeqCst);
        let active = Self(state);
        let before = state.active.fetch_add(1, Ordering::SeqCst);
        (most == 0 || before < most).then_some(active)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(super) async fn connection(client: TcpStream, upstream: SocketAddr, state: Arc<State>) {
    state.connections.fetch_add(1, Ordering::SeqCst);
    let open = Open(state);
    let mut client = BufReader::new(client);
    // Every error here is a connection that one side closed, which is normal in tests.
    while let Ok(Some(head)) = Head::read(&mut client).await {
        match exchange(&mut client, upstream, head, &open.0).await {
            Ok(Then::NextRequest) => (),
            Ok(Then::Reset) => {
                // Closing without lingering sends RST.
                client.get_ref().set_zero_linger().ok();
                return;
            }
            Ok(Then::Close | Then::Stall) | Err(_) => return,
        }
    }
}

async fn exchange(
    client: &mut BufReader<TcpStream>,
    upstream: SocketAddr,
    mut head: Head,
    state: &State,
) -> io::Result<Then> {
    let request = head.request();
    let is_head = request.method == "HEAD";
    let start = request.range_start.unwrap_or(0);
    let faults = state.arrived(request.clone());
    state.hold.pass(&request).await;
    let Some(_active) = Active::begin(state) else {
        let answer = canned(503, None, Some("SlowDown"), is_head);
        client.get_mut().write_all(answer.as_bytes()).await?;
        return Ok(Then::NextRequest);
    };
    for fault in &faults {
        match fault {
            Fault::Reset => return Ok(Then::Reset),
            Fault::Status {
                status,
                retry_after,
                code,
            } => {
                let answer = canned(*status, retry_after.as_deref(), code.as_deref(), is_head);
                client.get_mut().write_all(answer.as_bytes()).await?;
                return Ok(Then::NextRequest);
            }
            Fault::Redirect(location) => {
                let answer = format!(
                    "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: {location}\r\n\r\n"
                );
                client.get_mut().write_all(answer.as_bytes()).await?;
                return Ok(Then::NextRequest);
            }
            Fault::IgnoreRange => head.remove("range"),
            _ => (),
        }
    }
    let mut server = BufReader::new(TcpStream::connect(upstream).await?);
    head.set("connection", "close");
    server.get_mut().write_all(head.text().as_bytes()).await?;
    let mut answer = Head::read(&mut server)
        .await?
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    answer.remove("connection");
    let length = answer.get("content-length").and_then(|n| n.parse().ok());
    let body = if is_head { Some(0) } else { length };
    let mut plan = plan(faults, &mut answer, body);
    plan.instead = plan.instead.map(|bytes| {
        bytes.slice(
            usize::try_from(start)
                .unwrap_or(usize::MAX)
                .min(bytes.len())..,
        )
    });
    if is_head {
        plan.chunked = None;
    }
    client.get_mut().write_all(answer.text().as_bytes()).await?;
    relay_body(&mut server, client.get_mut(), &plan).await?;
    match plan.then {
        Then::Stall => {
            // Until the client gives up: its end of file, or its reset.
            let mut byte = [0];
            while client.read(&mut byte).await? > 0 {}
            Ok(Then::Close)
        }
        // Without a length only the end of the connection tells the end of the body.
        Then::NextRequest if body.is_none() => Ok(Then::Close),
        then => Ok(then),
    }
}

/// Changes the answer's head as the faults want it, and says what to do with the body.
fn plan(faults: Vec<Fault>, answer: &mut Head, body: Option<u64>) -> Plan {
    let length = body.unwrap_or(u64::MAX);
    let mut plan = Plan {
        send: length,
        then: Then::NextRequest,
        wrong_byte: None,
        bytes_per_sec: None,
        instead: None,
        chunked: None,
    };
    for fault in faults {
        match fault {
            Fault::CutAt(at) => {
                plan.send = length.min(at);
                plan.then = Then::Close;
            }
            Fault::StallAt(at) => {
                plan.send = length.min(at);
                plan.then = Then::Stall;
            }
            Fault::ShortBody(at) => {
                plan.send = length.min(at);
                answer.set("content-length", &plan.send.to_string());
            }
            Fault::LongLength(more) => {
                answer.set("content-length", &length.saturating_add(more).to_string());
                plan.then = Then::Close;
            }
            Fault::Header(name, value) => answer.set(name, &value),
            Fault::NoHeader(name) => answer.remove(name),
            Fault::WrongByte(at) => plan.wrong_byte = Some(at),
            Fault::Slow(bytes_per_sec) => plan.bytes_per_sec = Some(bytes_per_sec),
            Fault::OtherBytes(bytes) => plan.instead = Some(bytes),
            Fault::Chunked { length, extra } if body.is_some() => {
                answer.remove("content-length");
                answer.set("transfer-encoding", "chunked");
                plan.chunked = Some((length.max(1), extra));
            }
            Fault::Reset
            | Fault::Status { .. }
            | Fault::Redirect(_)
            | Fault::IgnoreRange
            | Fault::Chunked { .. } => (),
        }
    }
    plan
}

async fn relay_body(
    server: &mut BufReader<TcpStream>,
    client: &mut TcpStream,
    plan: &Plan,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut sent = 0;
    while sent < plan.send {
        // A slow answer comes in twenty pieces a second.
        let piece = plan
            .bytes_per_sec
            .map_or(u64::MAX, |rate| (rate / 20).max(1));
        let most = (plan.send - sent).min(piece).min(buffer.len() as u64);
        // At most the buffer's length, so it fits.
        let count = server.read(&mut buffer[..most as usize]).await?;
        if count == 0 {
            break;
        }
        let next = sent + count as u64;
        if let Some(bytes) = &plan.instead {
            // As long as the object, so there are as many.
            buffer[..count].copy_from_slice(&bytes[sent as usize..][..count]);
        }
        if let Some(at) = plan.wrong_byte.filter(|at| (sent..next).contains(at)) {
            buffer[(at - sent) as usize] ^= 0xff;
        }
        // Before it is sent: the request is over with the last of them.
        if plan.bytes_per_sec.is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        match plan.chunked {
            Some((length, _)) => write_chunks(client, &buffer[..count], length).await?,
            None => client.write_all(&buffer[..count]).await?,
        }
        sent = next;
    }
    if let Some((length, extra)) = plan.chunked {
        let extra = vec![b'x'; usize::try_from(extra).unwrap_or(0)];
        write_chunks(client, &extra, length).await?;
        client.write_all(b"0\r\n\r\n").await?;
    }
    Ok(())
}

async fn write_chunks(client: &mut TcpStream, bytes: &[u8], length: u64) -> io::Result<()> {
    let mut text = Vec::with_capacity(bytes.len());
    for chunk in bytes.chunks(usize::try_from(length).unwrap_or(usize::MAX)) {
        text.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        text.extend_from_slice(chunk);
        text.extend_from_slice(b"\r\n");
    }
    client.write_all(&text).await
}

fn canned(status: u16, retry_after: Option<&str>, code: Option<&str>, is_head: bool) -> String {
    let body = code.map_or_else(String::new, |code| {
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>")
    });
    let retry_after =
        retry_after.map_or_else(String::new, |value| format!("Retry-After: {value}\r\n"));
    format!(
        "HTTP/1.1 {status} Injected\r\nContent-Length: {}\r\n{retry_after}\r\n{}",
        body.len(),
        if is_head { "" } else { &body }
    )
}

impl Head {
    /// Reads up to the empty line; `None` when the connection ended before the first byte.
    async fn read(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Self>> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return match lines.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let mut lines = lines.into_iter();
        let Some(first_line) = lines.next() else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let headers = lines
            .filter_map(|line| {
                let (name, value) = line.split_once(':')?;
                Some((name.to_ascii_lowercase(), value.trim().to_owned()))
            })
            .collect();
        Ok(Some(Self {
            first_line,
            headers,
        }))
    }

    fn text(&self) -> String {
        let headers: String = self
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        format!("{}\r\n{headers}\r\n", self.first_line)
    }

    fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(found, _)| found == name)?;
        Some(value)
    }

    fn remove(&mut self, name: &str) {
        self.headers.retain(|(found, _)| found != name);
    }

    fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    fn request(&self) -> Request {
        let mut words = self.first_line.split(' ').map(str::to_owned);
        let range_start = self.get("range").and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .split('-')
                .next()?
                .parse()
                .ok()
        });
        Request {
            method: words.next().unwrap_or_default(),
            target: words.next().unwrap_or_default(),
            range_start,
            headers: self.headers.clone(),
        }
    }
}
