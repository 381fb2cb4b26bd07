//! A proxy that breaks HTTP answers on demand.
//!
//! It is in front of a real server and relays requests unchanged (signatures stay valid, because
//! the `Host` header is the proxy's own). Each request uses the first rule that matches it and is
//! not used up; without one it is relayed unchanged. Faults are made on the wire: cut, stalled or
//! shortened bodies, headers that lie, other bytes, no answer at all.
//!
//! Requests have no bodies here, and each goes upstream on a connection of its own.

mod hold;
mod relay;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::port::Port;

/// What happens to an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The connection is reset before any byte of the answer.
    Reset,
    /// The connection is closed after this many bytes of the body.
    CutAt(u64),
    /// Silence after this many bytes of the body, until the client disconnects.
    StallAt(u64),
    /// The answer is this one instead; `retry_after` becomes the header.
    Status {
        /// HTTP status.
        status: u16,
        /// `Retry-After`, in the form that the test wants.
        retry_after: Option<String>,
        /// S3's error code, in its error document.
        code: Option<String>,
    },
    /// The answer is a redirect (302) to this URL.
    Redirect(String),
    /// At most this many bytes of the body per second.
    Slow(u64),
    /// A well-formed answer with this many bytes of the body, all other headers as they were.
    ShortBody(u64),
    /// `Content-Length` announces this many bytes more than are sent.
    LongLength(u64),
    /// A header of the answer has another value, or is added.
    Header(&'static str, String),
    /// A header of the answer is missing.
    NoHeader(&'static str),
    /// The byte at this offset of the body is changed.
    WrongByte(u64),
    /// The body is a part of these bytes instead, which are as many as the object has.
    OtherBytes(Bytes),
    /// The body is sent in chunks of this length without `Content-Length`, followed by this many more
    /// bytes than there should be.
    Chunked {
        /// Bytes in a chunk.
        length: u64,
        /// Bytes too many.
        extra: u64,
    },
    /// The server never sees the `Range` header.
    IgnoreRange,
}

/// A request, as rules and tests see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `HEAD`, ...
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    /// The first byte of the `Range` header.
    pub range_start: Option<u64>,
    /// All header lines, names in lower case.
    pub headers: Vec<(String, String)>,
}

/// Which requests a fault is for, and how often.
pub struct Rule {
    matches: Box<dyn Fn(&Request) -> bool + Send + Sync>,
    skip: u32,
    times: u32,
    faults: Vec<Fault>,
    used: Arc<AtomicBool>,
}

/// A running proxy; stops, and closes its connections, when it is dropped.
pub struct FaultProxy {
    port: Port,
    upstream: SocketAddr,
    state: Arc<State>,
    accepting: Mutex<Option<AbortOnDropHandle<()>>>,
}

#[derive(Default)]
struct State {
    rules: Mutex<Vec<Rule>>,
    requests: Mutex<Vec<Request>>,
    hold: hold::Hold,
    injected: AtomicUsize,
    connections: AtomicUsize,
    /// Requests that are being answered, and how many may be; 0 is no limit.
    active: AtomicUsize,
    most_active: AtomicUsize,
}

impl Request {
    /// How many bytes the `Range` header asks for.
    pub fn range_bytes(&self) -> Option<u64> {
        let range = self.header("range")?.strip_prefix("bytes=")?;
        let (first, last) = range.split_once('-')?;
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        Some(last.checked_sub(first)?.saturating_add(1))
    }

    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(found, _)| found == name)?;
        Some(value)
    }
}

impl Rule {
    /// A fault for every request.
    pub fn new(fault: Fault) -> Self {
        Self {
            matches: Box::new(|_| true),
            skip: 0,
            times: u32::MAX,
            faults: vec![fault],
            used: Arc::default(),
        }
    }

    /// Another fault of the same answer.
    pub fn also(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }

    /// Sets this once it is used.
    pub fn noting(self, used: Arc<AtomicBool>) -> Self {
        Self { used, ..self }
    }

    /// Only for requests that satisfy this too.
    pub fn when(self, condition: impl Fn(&Request) -> bool + Send + Sync + 'static) -> Self {
        let before = self.matches;
        Self {
            matches: Box::new(move |request| before(request) && condition(request)),
            ..self
        }
    }

    /// Only for this method.
    pub fn method(self, method: &'static str) -> Self {
        self.when(move |request| request.method == method)
    }

    /// Only for ranges that begin here.
    pub fn range_from(self, start: u64) -> Self {
        self.when(move |request| request.range_start == Some(start))
    }

    /// Not for the first matching requests.
    pub fn skip(self, skip: u32) -> Self {
        Self { skip, ..self }
    }

    /// Only for this many matching requests.
    pub fn times(self, times: u32) -> Self {
        Self { times, ..self }
    }
}

impl FaultProxy {
    /// Starts a proxy in front of a server.
    pub async fn start(upstream: SocketAddr) -> io::Result<Self> {
        let proxy = Self {
            port: Port::reserve()?,
            upstream,
            state: Arc::default(),
            accepting: Mutex::default(),
        };
        proxy.come_up().await?;
        Ok(proxy)
    }

    /// The proxy's URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.port.address())
    }

    /// Adds a rule, after the existing ones.
    pub fn inject(&self, rule: Rule) {
        lock(&self.state.rules).push(rule);
    }

    /// Removes all rules, and forgets the requests and counts so far.
    pub fn clear(&self) {
        lock(&self.state.rules).clear();
        lock(&self.state.requests).clear();
        self.state.injected.store(0, Ordering::SeqCst);
    }

    /// Answers 503 to requests beyond so many at once.
    pub fn serve_at_most(&self, requests: usize) {
        self.state.most_active.store(requests, Ordering::SeqCst);
    }

    /// From now on, requests that satisfy this are not answered until they are let go.
    pub fn hold(&self, condition: impl Fn(&Request) -> bool + Send + Sync + 'static) {
        self.state.hold.begin(Box::new(condition));
    }

    /// The requests that are held now, in their order.
    pub fn held(&self) -> Vec<Request> {
        self.state.hold.requests()
    }

    /// Answers those that are held now. Later ones are held again.
    pub fn let_go(&self) {
        self.state.hold.let_go();
    }

    /// Answers those that are held, and all later ones.
    pub fn hold_nothing(&self) {
        self.state.hold.end();
    }

    /// How many answers had a fault.
    pub fn injected(&self) -> usize {
        self.state.injected.load(Ordering::SeqCst)
    }

    /// The requests that arrived, in their order.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.state.requests).clone()
    }

    /// Client connections that are open now.
    pub fn open_connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Refuses connections, and closes the existing ones, as a server that is down does.
    pub async fn go_down(&self) {
        let accepting = lock(&self.accepting).take();
        if let Some(accepting) = accepting {
            accepting.abort();
            // The only possible result is that it was aborted. Nothing listens after this.
            accepting.await.ok();
        }
    }

    /// Listens again on the same port.
    pub async fn come_up(&self) -> io::Result<()> {
        self.accept(TcpListener::bind(self.port.address()).await?);
        Ok(())
    }

    fn accept(&self, listener: TcpListener) {
        let (state, upstream) = (Arc::clone(&self.state), self.upstream);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                while connections.try_join_next().is_some() {}
                let Ok((client, _)) = listener.accept().await else {
                    // Out of descriptors: wait for some to be closed.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                connections.spawn(relay::connection(client, upstream, Arc::clone(&state)));
            }
        });
        *lock(&self.accepting) = Some(AbortOnDropHandle::new(accepting));
    }
}

impl State {
    /// Records a request and finds the faults for it.
    fn arrived(&self, request: Request) -> Vec<Fault> {
        let faults = lock(&self.rules).iter_mut().find_map(|rule| {
            if !(rule.matches)(&request) {
                return None;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                return None;
            }
            rule.times = rule.times.checked_sub(1)?;
            rule.used.store(true, Ordering::SeqCst);
            Some(rule.faults.clone())
        });
        if faults.is_some() {
            self.injected.fetch_add(1, Ordering::SeqCst);
        }
        lock(&self.requests).push(request);
        faults.unwrap_or_default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
