//! Connections: accepting, TLS, deadlines, and an orderly end.
//!
//! One task per connection, a bounded number of them. Every state of a connection in which the
//! daemon waits for the client has a deadline: the handshake, the header of a request (which is
//! also how long a kept-alive connection may be silent), and any standstill in between ([`idle`]).

mod idle;
pub mod tls;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::access::Failures;
use idle::Idle;
use tls::{Identity, Tls};

/// Connections at once; further ones wait in the kernel. Far below the usual limit of 1024 open
/// files, which the cache, the database and the devices share.
pub(crate) const MAX_CONNECTIONS: usize = 512;

/// A TLS handshake takes a few round trips.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// From the end of one request, or the start of the connection, to the end of the next header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection on which no byte moves for so long is closed. Event streams send a comment every
/// 15 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// Largest header of a request: ours need a few hundred bytes.
const HEADER_MAX_BYTES: usize = 32 << 10; // 32 KiB

/// Requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 64;

/// How often a silent HTTP/2 peer is asked whether it is there, and how long it may take to answer.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long to wait after accepting failed, as it does when the process is out of files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long answers may take to leave once the daemon stops. Event streams are cut off then.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// The other end of a connection, found in every request's extensions.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Whom its verified certificate names.
    pub identity: Option<Arc<Identity>>,
}

/// Asks the accept loop whether it still turns.
#[derive(Debug, Clone)]
pub struct Pulse(mpsc::Sender<oneshot::Sender<()>>);

/// The accept loop's end of a [`Pulse`].
#[derive(Debug)]
pub struct Heart(mpsc::Receiver<oneshot::Sender<()>>);

/// A pulse and what beats.
pub fn pulse() -> (Pulse, Heart) {
    let (asks, questions) = mpsc::channel(1);
    (Pulse(asks), Heart(questions))
}

impl Pulse {
    /// Waits for the accept loop's next turn; false when there is none any more.
    pub async fn beats(&self) -> bool {
        let (answer, answered) = oneshot::channel();
        self.0.send(answer).await.is_ok() && answered.await.is_ok()
    }
}

/// Serves until told to stop; returns once the connections are closed.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    failures: Arc<Failures>,
    router: Router,
    mut heart: Heart,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    let next = async |slots: &Arc<Semaphore>| {
        // The semaphore is never closed.
        let slot = Arc::clone(slots).acquire_owned().await.ok();
        (slot, listener.accept().await)
    };
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = next(&slots) => accepted,
            Some(_) = connections.join_next() => continue,
            Some(question) = heart.0.recv() => {
                // Who asked may have given up; then nobody is told.
                question.send(()).ok();
                continue;
            }
        };
        let (slot, (stream, address)) = match accepted {
            (slot, Ok(accepted)) => (slot, accepted),
            (_, Err(error)) => {
                tracing::warn!(component = "http", %error, "Cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = Connection {
            address,
            router: router.clone(),
            stop: stop.clone(),
        };
        let tls = tls.clone();
        let failures = Arc::clone(&failures);
        connections.spawn(async move {
            connection.run(stream, tls, &failures).await;
            drop(slot);
        });
    }
    let closed = async { while connections.join_next().await.is_some() {} };
    tokio::time::timeout(CLOSE_GRACE, closed).await.ok();
}

struct Connection {
    address: SocketAddr,
    router: Router,
    stop: CancellationToken,
}

impl Connection {
    async fn run(self, stream: TcpStream, tls: Option<Arc<Tls>>, failures: &Failures) {
        // Progress events are small and each is waited for.
        stream.set_nodelay(true).ok();
        let Some(tls) = tls else {
            return self.speak(stream, None).await;
        };
        let handshake = tls.acceptor().accept(stream);
        let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await;
        match shaken {
            Ok(Ok(stream)) => {
                let identity = tls::identity(stream.get_ref().1).map(Arc::new);
                self.speak(stream, identity).await;
            }
            Ok(Err(error)) => {
                if tls::is_about_certificate(&error) {
                    failures.count_certificate();
                }
                tracing::info!(
                    component = "access",
                    address = %self.address,
                    %error,
                    "TLS handshake failed"
                );
            }
            Err(_) => tracing::debug!(
                component = "access",
                address = %self.address,
                "TLS handshake took too long"
            ),
        }
    }

    async fn speak<S>(self, stream: S, identity: Option<Arc<Identity>>)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let peer = Peer {
            address: self.address,
            identity,
        };
        let router = self.router;
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            let answer = router.clone().oneshot(request.map(Body::new));
            async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
        });
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            // A client that sends its request and closes has still sent it.
            .half_close(true)
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(HEADER_MAX_BYTES);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_INTERVAL)
            .max_header_list_size(u32::try_from(HEADER_MAX_BYTES).unwrap_or(u32::MAX));
        let stream = TokioIo::new(Idle::new(stream, IDLE_TIMEOUT));
        let connection = builder.serve_connection(stream, service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(
                component = "http",
                address = %self.address,
                error,
                "Connection broke off"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pulse_beats_as_long_as_the_accept_loop_turns_and_no_longer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (pulse, heart) = pulse();
        let stop = CancellationToken::new();
        // It does not turn before it has begun.
        let early = tokio::time::timeout(Duration::from_millis(50), pulse.beats()).await;
        assert!(early.is_err(), "nothing turns");
        let server = serve(
            listener,
            None,
            Arc::default(),
            Router::new(),
            heart,
            stop.clone(),
        );
        let server = tokio::spawn(server);
        assert!(pulse.beats().await);
        stop.cancel();
        server.await.expect("it ends");
        assert!(!pulse.beats().await, "nothing turns any more");
    }
}
