//! An HTTP server that accepts posts: a receiver of log lines or of webhooks.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::port::Port;

/// How the server treats a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Records it and answers 204.
    Take,
    /// Answers with this status and records nothing.
    Answer(u16),
    /// Reads it and never answers.
    Silent,
}

/// A request that was recorded.
#[derive(Debug, Clone)]
pub struct Post {
    /// Path and query.
    pub target: String,
    /// Headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

/// A running server, stopped when dropped.
#[derive(Debug)]
pub struct Inbox {
    port: Port,
    state: Arc<Mutex<State>>,
    accepting: Option<AbortOnDropHandle<()>>,
}

#[derive(Debug)]
struct State {
    manner: Manner,
    taken: Vec<Post>,
    requests: usize,
}

impl Inbox {
    /// Starts a server that accepts everything.
    pub async fn start() -> io::Result<Self> {
        let mut inbox = Self {
            port: Port::reserve()?,
            state: Arc::new(Mutex::new(State {
                manner: Manner::Take,
                taken: Vec::new(),
                requests: 0,
            })),
            accepting: None,
        };
        inbox.come_up().await?;
        Ok(inbox)
    }

    /// `HOST:PORT`.
    pub fn authority(&self) -> String {
        self.port.address().to_string()
    }

    /// Changes how requests are treated from now on.
    pub fn be(&self, manner: Manner) {
        lock(&self.state).manner = manner;
    }

    /// The requests recorded so far.
    pub fn taken(&self) -> Vec<Post> {
        lock(&self.state).taken.clone()
    }

    /// How many requests arrived, recorded or not.
    pub fn requests(&self) -> usize {
        lock(&self.state).requests
    }

    /// Ends all connections and refuses new ones.
    pub async fn go_down(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            // It was aborted: an error is what it ends with, and then nobody listens.
            accepting.await.ok();
        }
    }

    /// Listens again where it did before.
    pub async fn come_up(&mut self) -> io::Result<()> {
        let listener = TcpListener::bind(self.port.address()).await?;
        self.accept(listener);
        Ok(())
    }

    fn accept(&mut self, listener: TcpListener) {
        let state = Arc::clone(&self.state);
        let task = tokio::spawn(async move {
            // Its connections end with it.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&state);
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(Arc::clone(&state), request));
                    let connection = auto::Builder::new(TokioExecutor::new());
                    // A client that disconnects is not a failure of the test's server.
                    connection
                        .serve_connection(TokioIo::new(stream), service)
                        .await
                        .ok();
                });
            }
        });
        self.accepting = Some(AbortOnDropHandle::new(task));
    }
}

async fn answer(
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let manner = {
        let mut state = lock(&state);
        state.requests += 1;
        state.manner
    };
    // An incomplete request is not recorded.
    let body = body.collect().await.ok();
    let status = match (manner, body) {
        (Manner::Silent, _) => pending().await,
        (Manner::Answer(status), _) => status,
        (Manner::Take, None) => 400,
        (Manner::Take, Some(body)) => {
            let text =
                |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
            let headers = head.headers.iter();
            lock(&state).taken.push(Post {
                target: head.uri.to_string(),
                headers: headers
                    .map(|(name, value)| (name.to_string(), text(value)))
                    .collect(),
                body: body.to_bytes().to_vec(),
            });
            204
        }
    };
    let mut response = Response::new(Empty::new());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::IM_A_TEAPOT);
    Ok(response)
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
