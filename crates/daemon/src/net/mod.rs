//! Connections: accept loop, TLS, deadlines, and an orderly end.
//!
//! There is one task per connection, a limited number of connections, and limits on what they cost
//! ([`load`]). Every state in which the daemon waits for the client has a deadline: the handshake, the
//! header of a request (which is also how long a kept-alive connection may be idle), an answer that
//! the client does not read, and any time without movement ([`idle`]). Nothing that costs the client
//! nothing, such as a ping, extends a deadline.

mod answer;
mod error;
mod idle;
mod load;
pub mod tls;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use axum::response::IntoResponse as _;
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use lvp_api::{ErrorCode, routes};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

pub use error::ApiError;
pub use load::{Full, Load};
pub(crate) use load::{MAX_CONNECTIONS, Refusal, Whose, network};

use answer::Answer;
use idle::Idle;
use load::{Place, Purpose};
use tls::{Identity, Tls};

/// A TLS handshake takes a few round trips.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// From the end of one request, or the start of the connection, to the end of the next header.
const HEADER_TIMEOUT: Duration = load::QUIET_MAX;

/// A connection on which no byte moves for this long is closed. Event streams send a comment every
/// 15 s.
const IDLE: idle::Limits = idle::Limits {
    silence: Duration::from_secs(300),
    untaken: Duration::from_secs(30),
};

/// Largest header of a request: real ones need a few hundred bytes.
const HEADER_MAX_BYTES: usize = 32 << 10; // 32 KiB

/// Concurrent requests on one HTTP/2 connection.
const MAX_STREAMS: u32 = 32;

/// How much of one answer HTTP/2 buffers if the network is slower than the answer is produced.
const SEND_BUFFER_BYTES: usize = 64 << 10; // 64 KiB

/// How much an HTTP/2 peer may send before it is read, in one request and on the whole connection: enough
/// for 256 MB/s at a round trip of a millisecond.
const STREAM_WINDOW_BYTES: u32 = 128 << 10; // 128 KiB
const CONNECTION_WINDOW_BYTES: u32 = 256 << 10; // 256 KiB

/// An answer this short is always sent: an HTTP/2 stream by itself costs as much.
const SHORT_ANSWER_BYTES: usize = 4 << 10; // 4 KiB

/// How often connections are checked for being overdue.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How often a silent HTTP/2 peer is pinged, and how long it may take to answer.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long to wait after accepting failed, for instance because the process has no free
/// descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long answers may take to be sent once the daemon stops. Event streams are cut off after
/// that.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// The peer of a connection, found in every request's extensions.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// The name in its verified certificate.
    pub identity: Option<Arc<Identity>>,
}

/// Asks the accept loop whether it is still running.
#[derive(Debug, Clone)]
pub struct Pulse(mpsc::Sender<oneshot::Sender<()>>);

/// The accept loop's side of a [`Pulse`].
#[derive(Debug)]
pub struct Heart(mpsc::Receiver<oneshot::Sender<()>>);

/// A pulse and its other side.
pub fn pulse() -> (Pulse, Heart) {
    let (asks, questions) = mpsc::channel(1);
    (Pulse(asks), Heart(questions))
}

impl Pulse {
    /// Waits for the accept loop's next turn. False if the loop has ended.
    pub async fn beats(&self) -> bool {
        let (answer, answered) = oneshot::channel();
        self.0.send(answer).await.is_ok() && answered.await.is_ok()
    }
}

/// Serves until it is stopped. Returns once the connections are closed.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    load: Arc<Load>,
    router: Router,
    mut heart: Heart,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
            _ = sweep.tick() => {
                load.sweep(Instant::now());
                continue;
            }
            Some(_) = connections.join_next() => continue,
            Some(question) = heart.0.recv() => {
                // The caller may have given up meanwhile.
                question.send(()).ok();
                continue;
            }
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(component = "http", %error, "Cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = Connection {
            address,
            place: Arc::new(load.admit(address.ip(), Instant::now())),
            router: router.clone(),
            stop: stop.clone(),
        };
        let tls = tls.clone();
        let ended = connection.place.ends.now.clone();
        connections.spawn(async move {
            let served = connection.run(stream, tls);
            if ended.run_until_cancelled(served).await.is_none() {
                tracing::debug!(component = "http", %address, "Connection ended by the daemon");
            }
        });
    }
    let closed = async { while connections.join_next().await.is_some() {} };
    tokio::time::timeout(CLOSE_GRACE, closed).await.ok();
}

struct Connection {
    address: SocketAddr,
    place: Arc<Place>,
    router: Router,
    stop: CancellationToken,
}

impl Connection {
    async fn run(self, stream: TcpStream, tls: Option<Arc<Tls>>) {
        // Progress events are small, and a client waits for each.
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
                    tls.count_refused();
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
        let (router, place) = (self.router, &self.place);
        let service = service_fn(|mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            let answered = answer(Arc::clone(place), router.clone(), request.map(Body::new));
            async move { Ok::<_, Infallible>(answered.await) }
        });
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            // A client that sends its request and closes its side still gets an answer.
            .half_close(true)
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(HEADER_MAX_BYTES);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_INTERVAL)
            .max_header_list_size(u32::try_from(HEADER_MAX_BYTES).unwrap_or(u32::MAX));
        let stream = TokioIo::new(Idle::new(stream, IDLE));
        let connection = builder.serve_connection(stream, service);
        let mut connection = std::pin::pin!(connection);
        let leave = async {
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = place.ends.leave.cancelled() => {}
            }
        };
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = leave => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(
                component = "http",
                address = %self.address,
                error,
                "Connection was cut off"
            );
        }
    }
}

/// Answers a request within the limits of its caller.
async fn answer(place: Arc<Place>, router: Router, request: Request<Body>) -> Response<Answer> {
    let purpose = match request.uri().path() {
        routes::HEALTH | routes::HEALTHZ | routes::LIVEZ | routes::READYZ | routes::METRICS => {
            Purpose::Probe
        }
        _ => Purpose::Work,
    };
    if place.is_visit {
        // The connection has had its one request; its place is free for the next.
        place.ends.leave.cancel();
        if purpose == Purpose::Work {
            let (full, whose) = (Full::Connections, Whose::All);
            return refuse(&place, Refusal { full, whose });
        }
    }
    let in_flight = match place.begin(purpose) {
        Ok(in_flight) => in_flight,
        Err(refusal) => return refuse(&place, refusal),
    };
    // If something was changed, the client must be told.
    let must_answer = !request.method().is_safe();
    let answered = router.oneshot(request).await;
    let (parts, body) = answered.unwrap_or_else(|never| match never {}).into_parts();
    let Some(length) = body.size_hint().exact() else {
        return Response::from_parts(parts, Answer::new(body, in_flight, None));
    };
    let (length, now) = (
        usize::try_from(length).unwrap_or(usize::MAX),
        Instant::now(),
    );
    let lease = if must_answer || length <= SHORT_ANSWER_BYTES {
        place.lease(length, now)
    } else {
        match in_flight.answer(length, now) {
            Ok(lease) => lease,
            Err(refusal) => return refuse(&place, refusal),
        }
    };
    Response::from_parts(parts, Answer::new(body, in_flight, Some(lease)))
}

fn refuse(place: &Arc<Place>, refusal: Refusal) -> Response<Answer> {
    place.count_refused(refusal.full);
    let response = ApiError::from(refusal).into_response();
    response.map(|body| Answer::refusal(body, place))
}

impl From<Refusal> for ApiError {
    fn from(Refusal { full, whose }: Refusal) -> Self {
        let what = match full {
            Full::Connections => "connections",
            Full::Requests => "unanswered requests",
            Full::Answers => "answers that were not read",
            Full::Streams => "event streams",
        };
        match whose {
            Whose::Callers => Self::busy(
                ErrorCode::TooManyRequests,
                format!("You have too many {what}: close some, or wait for them, and try again"),
            ),
            Whose::All => Self::busy(
                ErrorCode::Unavailable,
                format!("The daemon has too many {what}: try again in a few seconds"),
            ),
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
        // It does not beat before the loop has begun.
        let early = tokio::time::timeout(Duration::from_millis(50), pulse.beats()).await;
        assert!(early.is_err(), "nothing turns");
        let server = serve(
            listener,
            None,
            Arc::new(Load::new(128)),
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
