//! A peer that speaks HTTP/2 frame by frame, and does what no library would do with the answers: it reads none of them,
//! and otherwise behaves correctly. RFC 9113 for the frames, RFC 7541 for the headers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lvp_testkit::daemon::Daemon;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::task::AbortOnDropHandle;

const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const PING: u8 = 6;
const ACK: u8 = 1;

/// A connection; closed when dropped.
pub(crate) struct Peer {
    closed: Arc<AtomicBool>,
    _task: AbortOnDropHandle<()>,
}

impl Peer {
    /// Connects, requests each of `paths` once, and gives the answers' bodies no window at all. Answers pings, and sends
    /// its own.
    pub(crate) async fn connect(daemon: &Daemon, paths: &[&str], token: Option<&str>) -> Self {
        let mut stream = TcpStream::connect(address(daemon))
            .await
            .expect("it listens");
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        // SETTINGS_INITIAL_WINDOW_SIZE is 0.
        hello.extend(frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]));
        for (stream, path) in (1u32..).step_by(2).zip(paths) {
            // END_STREAM and END_HEADERS.
            hello.extend(frame(HEADERS, 5, stream, &request(path, token)));
        }
        stream.write_all(&hello).await.expect("it is sent");
        let closed = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(stay(stream, Arc::clone(&closed)));
        Self {
            closed,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Whether the daemon has closed the connection.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }
}

/// A plain connection from another of this host's addresses, with what is sent on it.
pub(crate) async fn from(host: u8, daemon: &Daemon, text: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket
        .bind(SocketAddr::from(([127, 0, 78, host], 0)))
        .expect("all of 127/8 is this host");
    let mut stream = socket.connect(address(daemon)).await.expect("it listens");
    stream.write_all(text.as_bytes()).await.expect("it is sent");
    stream
}

fn address(daemon: &Daemon) -> SocketAddr {
    let address = daemon.url().trim_start_matches("http://");
    address.parse().expect("it is an address")
}

async fn stay(mut stream: TcpStream, closed: Arc<AtomicBool>) {
    let (mut read, mut write) = stream.split();
    let mut ping = tokio::time::interval(Duration::from_secs(1));
    let mut bytes = Vec::new();
    loop {
        let sent = tokio::select! {
            _ = ping.tick() => frame(PING, 0, 0, &[7; 8]),
            read = read.read_buf(&mut bytes) => match read {
                Ok(1..) => replies(&mut bytes),
                _ => break,
            },
        };
        if write.write_all(&sent).await.is_err() {
            break;
        }
    }
    closed.store(true, Ordering::SeqCst);
}

/// The replies that the received frames require; the frames are removed from `bytes`.
fn replies(bytes: &mut Vec<u8>) -> Vec<u8> {
    let mut replies = Vec::new();
    while let Some([a, b, c, kind, flags]) = bytes.first_chunk().copied() {
        let end = 9 + usize::try_from(u32::from_be_bytes([0, a, b, c])).expect("it is small");
        if bytes.len() < end {
            break;
        }
        let frame_bytes: Vec<u8> = bytes.drain(..end).collect();
        match (kind, flags & ACK) {
            (SETTINGS, 0) => replies.extend(frame(SETTINGS, ACK, 0, &[])),
            (PING, 0) => replies.extend(frame(PING, ACK, 0, &frame_bytes[9..])),
            _ => {}
        }
    }
    replies
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .expect("it is small")
        .to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn request(path: &str, token: Option<&str>) -> Vec<u8> {
    // GET and http, of the static table.
    let mut block = vec![0x82, 0x86];
    let mut literal = |name: &str, value: &str| {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("it is short"));
            block.extend(text.as_bytes());
        }
    };
    literal(":authority", "x");
    literal(":path", path);
    if let Some(token) = token {
        literal("x-api-token", token);
    }
    block
}
