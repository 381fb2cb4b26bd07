//! Asks a URL at a steady rate until standard input ends, and prints what that took as JSON.
//!
//! `status_load URL PER_SECOND`. Requests are sent when they are due, whether or not earlier ones
//! were answered, and latency counts from then: a server that stalls is seen to stall. HTTP is
//! spoken here by hand: a client library takes more of the cores that are shared than the server
//! that is measured.

#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::io::Read as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

fn main() -> anyhow::Result<()> {
    // `cargo bench` adds an argument of its own.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let [url, per_second] = arguments.as_slice() else {
        println!("usage: status_load URL PER_SECOND (./dev bench has everything around it)");
        return Ok(());
    };
    let per_second: u32 = per_second.parse().context("PER_SECOND is no number")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(url, per_second))
}

async fn run(url: &str, per_second: u32) -> anyhow::Result<()> {
    let stopped = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&stopped);
    std::thread::spawn(move || {
        // Whatever ends the input ends the run.
        std::io::stdin().read_to_end(&mut Vec::new()).ok();
        stop.store(true, Ordering::Relaxed);
    });
    let url: reqwest::Url = url.parse().context("URL is none")?;
    let address = (
        url.host_str().context("URL has no host")?.to_owned(),
        url.port_or_known_default().context("URL has no port")?,
    );
    let request: Arc<str> =
        format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", url.path(), address.0).into();
    // Connections that wait for a request.
    let idle = Arc::new(Mutex::new(Vec::<Connection>::new()));
    let micros = Arc::new(Mutex::new(Vec::new()));
    let errors = Arc::new(AtomicU64::new(0));
    let interval = Duration::from_secs(1) / per_second;
    let started = Instant::now();
    let mut requests = tokio::task::JoinSet::new();
    let mut sent = 0;
    while !stopped.load(Ordering::Relaxed) {
        let due = started + interval * sent;
        tokio::time::sleep_until(due.into()).await;
        sent += 1;
        let (address, request) = (address.clone(), Arc::clone(&request));
        let (idle, micros, errors) = (Arc::clone(&idle), Arc::clone(&micros), Arc::clone(&errors));
        requests.spawn(async move {
            let answer = async {
                let waiting = idle.lock().map_or(None, |mut idle| idle.pop());
                let mut connection = match waiting {
                    Some(connection) => connection,
                    None => Connection::open(&address).await?,
                };
                connection.ask(&request).await?;
                anyhow::Ok(connection)
            };
            match answer.await {
                Ok(connection) => {
                    let took = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
                    if let (Ok(mut micros), Ok(mut idle)) = (micros.lock(), idle.lock()) {
                        micros.push(took);
                        idle.push(connection);
                    }
                }
                Err(_) => {
                    errors.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        while requests.try_join_next().is_some() {}
    }
    let seconds = started.elapsed().as_secs_f64();
    while requests.join_next().await.is_some() {}
    let mut micros = micros
        .lock()
        .map_err(|_| anyhow::anyhow!("a request panicked"))?;
    micros.sort_unstable();
    let at = |permille: usize| {
        let index = (micros.len() * permille / 1000).min(micros.len().saturating_sub(1));
        micros.get(index).map_or(0.0, |m| *m as f64 / 1000.0)
    };
    println!(
        "{}",
        serde_json::json!({
            "requests": sent,
            "errors": errors.load(Ordering::Relaxed),
            "rate": f64::from(sent) / seconds,
            "p50_ms": at(500),
            "p99_ms": at(990),
            "max_ms": at(1000),
        })
    );
    Ok(())
}

/// A connection that is kept, and what was read of it.
struct Connection {
    stream: BufReader<TcpStream>,
    body: Vec<u8>,
}

impl Connection {
    async fn open(address: &(String, u16)) -> anyhow::Result<Self> {
        let stream = TcpStream::connect((address.0.as_str(), address.1)).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::new(stream),
            body: Vec::new(),
        })
    }

    /// Sends the request and reads the whole answer, which must be a 200 with a length.
    async fn ask(&mut self, request: &str) -> anyhow::Result<()> {
        self.stream.get_mut().write_all(request.as_bytes()).await?;
        let mut line = String::new();
        self.stream.read_line(&mut line).await?;
        anyhow::ensure!(line.starts_with("HTTP/1.1 200 "), "answered {line}");
        let mut length = None;
        while line != "\r\n" {
            line.clear();
            anyhow::ensure!(self.stream.read_line(&mut line).await? > 0, "cut");
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = Some(value.trim().parse()?);
            }
        }
        self.body.resize(length.context("no length")?, 0);
        self.stream.read_exact(&mut self.body).await?;
        Ok(())
    }
}
