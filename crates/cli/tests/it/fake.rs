//! A scripted daemon in the test's process, and the real `lvpctl` as a process of its own.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::runtime::Runtime;

/// No call of these tests takes long; a hanging one must not hang the suite.
const DEADLINE: Duration = Duration::from_secs(60);

/// The job of these tests.
pub(crate) const JOB: &str = "6c8a5b4e-0d6f-4a53-9d5b-0f4e1f6b7a01";

/// One request as the daemon saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A daemon that answers by its script and records the requests.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Its own runtime: dropping it cuts every connection, as a killed daemon does.
    runtime: Option<Runtime>,
}

impl Fake {
    pub(crate) async fn start(routes: Router) -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address"), routes).await
    }

    /// Starts at an address that an earlier one has left.
    pub(crate) async fn start_at(address: SocketAddr, routes: Router) -> Self {
        let listener = bind(address).await;
        let address = listener.local_addr().expect("it is bound");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let routes = routes.layer(middleware::from_fn(move |request, next| {
            record(Arc::clone(&log), request, next)
        }));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            axum::serve(listener, routes).await.expect("it serves");
        });
        Self {
            address,
            seen,
            runtime: Some(runtime),
        }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("nobody panicked").clone()
    }

    /// `METHOD /path?query` of the requests so far.
    pub(crate) fn calls(&self) -> Vec<String> {
        let call = |seen: &Seen| format!("{} {}", seen.method, seen.uri);
        self.seen().iter().map(call).collect()
    }

    /// Waits until a request satisfies the condition.
    pub(crate) async fn wait_for(&self, wanted: &str) {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while !self.calls().iter().any(|call| call == wanted) {
            assert!(
                tokio::time::Instant::now() < deadline,
                "no {wanted} came: {:?}",
                self.calls()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// `lvpctl` with this daemon as its endpoint.
    pub(crate) fn lvpctl(&self, args: &[&str]) -> Lvpctl {
        lvpctl(args).env("LVP_ENDPOINT", &self.endpoint())
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting for it would block the test's own runtime.
            runtime.shutdown_background();
        }
    }
}

/// Binds, perhaps to an address whose previous owner is just closing it.
async fn bind(address: SocketAddr) -> TcpListener {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        match TcpListener::bind(address) {
            Ok(listener) => {
                listener.set_nonblocking(true).expect("a socket");
                return listener;
            }
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{address}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn record(log: Arc<Mutex<Vec<Seen>>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX)
        .await
        .expect("the body arrives");
    log.lock().expect("nobody panicked").push(Seen {
        method: parts.method.clone(),
        uri: parts.uri.clone(),
        headers: parts.headers.clone(),
        body: body.clone(),
    });
    next.run(Request::from_parts(parts, body.into())).await
}

/// The real program, not yet started.
pub(crate) struct Lvpctl(Command);

/// What the program did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// `lvpctl` in an empty environment.
#[expect(
    clippy::disallowed_methods,
    reason = "the program under test, with a deadline below"
)]
pub(crate) fn lvpctl(args: &[&str]) -> Lvpctl {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lvpctl"));
    command
        .args(args)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    Lvpctl(command)
}

impl Lvpctl {
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.0.env(name, value);
        self
    }

    pub(crate) fn stdout(mut self, stdout: Stdio) -> Self {
        self.0.stdout(stdout);
        self
    }

    pub(crate) fn spawn(mut self) -> Child {
        self.0.spawn().expect("lvpctl starts")
    }

    pub(crate) async fn run(self) -> Outcome {
        finish(self.spawn()).await
    }
}

/// Waits for the end of the program.
pub(crate) async fn finish(child: Child) -> Outcome {
    let output = tokio::time::timeout(DEADLINE, child.wait_with_output())
        .await
        .expect("lvpctl ends in time")
        .expect("its output can be read");
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("stdout is text"),
        stderr: String::from_utf8(output.stderr).expect("stderr is text"),
    }
}

/// A status object as the API gives it.
pub(crate) fn status(state: &str) -> Value {
    json!({
        "job_id": JOB,
        "kind": "provision",
        "status": state,
        "image_url": "s3://images/debian-12.qcow2",
        "volume_name": "vm-01",
        "attempts": 1,
        "created_at": "2026-01-02T03:04:05Z",
        "updated_at": "2026-01-02T03:04:06Z",
    })
}

/// The same, running and at this percentage.
pub(crate) fn running(stage: &str, percent: f64) -> Value {
    let mut value = status("running");
    value["progress"] = json!({
        "stage": stage,
        "percent": percent,
        "stage_percent": percent,
        "overall_percent": percent,
        "bytes_processed": 1 << 30,
        "bytes_total": 4_u64 << 30,
        "eta_sec": 5.0,
        "overall_eta_sec": 12.0,
    });
    value
}

/// The same, completed.
pub(crate) fn completed() -> Value {
    let mut value = running("finalizing", 100.0);
    value["status"] = json!("completed");
    value["cache_hit"] = json!(false);
    value["volume_path"] = json!("/dev/vg0/vm-01");
    value["notes"] = json!(["The tail of the volume was zeroed"]);
    value
}

/// An answer with the API's error body.
pub(crate) fn error(status: u16, phrase: &str, message: &str) -> Response {
    let body = json!({
        "error": phrase,
        "message": message,
        "code": status,
        "details": message,
    });
    let status = StatusCode::from_u16(status).expect("a status");
    (status, axum::Json(body)).into_response()
}

/// A stream of server-sent events that ends after the last status.
pub(crate) fn events(statuses: Vec<Value>) -> Response {
    let events = statuses.into_iter().map(|status| {
        let is_end = status["status"] != "running" && status["status"] != "pending";
        let name = if is_end { "end" } else { "progress" };
        Ok::<_, Infallible>(Event::default().event(name).data(status.to_string()))
    });
    Sse::new(futures::stream::iter(events)).into_response()
}

/// A stream that gives these statuses and then neither ends nor says anything.
pub(crate) fn endless_events(statuses: Vec<Value>) -> Response {
    let events = statuses
        .into_iter()
        .map(|status| Ok::<_, Infallible>(Event::default().data(status.to_string())));
    let events = futures::stream::iter(events).chain(futures::stream::pending());
    Sse::new(events).into_response()
}
