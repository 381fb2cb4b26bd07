//! Counts the requests to a server and what it sent.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper::{Method, Response};

/// Requests and bytes by object, and open connections.
#[derive(Debug, Default)]
pub struct Traffic {
    objects: Arc<Mutex<BTreeMap<String, ObjectTraffic>>>,
    connections: Arc<AtomicUsize>,
}

/// The requests for one object.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct ObjectTraffic {
    /// `HEAD` requests.
    pub heads: u64,
    /// `GET` requests, ranges included.
    pub gets: u64,
    /// Bytes of bodies that were handed to the network, error answers included.
    pub sent_bytes: u64,
}

/// A connection, while it lives.
pub(crate) struct OpenConnection(Arc<AtomicUsize>);

/// The counter for one request's bytes.
pub(crate) struct Record {
    objects: Arc<Mutex<BTreeMap<String, ObjectTraffic>>>,
    path: String,
}

impl Traffic {
    /// What happened to `BUCKET/KEY` (as in the request's path: percent-encoded).
    pub fn object(&self, path: &str) -> ObjectTraffic {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.get(path).copied().unwrap_or_default()
    }

    /// What happened to every path.
    pub fn objects(&self) -> BTreeMap<String, ObjectTraffic> {
        self.objects
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Forgets what was counted so far.
    pub fn reset(&self) {
        self.objects
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Connections that are open now, idle ones included.
    pub fn open_connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn connection(&self) -> OpenConnection {
        self.connections.fetch_add(1, Ordering::SeqCst);
        OpenConnection(Arc::clone(&self.connections))
    }

    pub(crate) fn request(&self, method: &Method, path: &str) -> Record {
        let record = Record {
            objects: Arc::clone(&self.objects),
            path: path.trim_start_matches('/').to_owned(),
        };
        record.update(|object| match *method {
            Method::HEAD => object.heads += 1,
            Method::GET => object.gets += 1,
            _ => (),
        });
        record
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Record {
    /// Counts the answer's bytes as they leave.
    pub(crate) fn count(self, response: s3s::HttpResponse) -> Response<CountedBody> {
        response.map(|body| {
            body.map_frame(move |frame| {
                if let Some(data) = frame.data_ref() {
                    self.update(|object| object.sent_bytes += data.len() as u64);
                }
                frame
            })
            .boxed()
        })
    }

    fn update(&self, change: impl FnOnce(&mut ObjectTraffic)) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        match objects.get_mut(&self.path) {
            Some(object) => change(object),
            None => change(objects.entry(self.path.clone()).or_default()),
        }
    }
}

/// A body that is counted while it is sent.
pub(crate) type CountedBody = BoxBody<bytes::Bytes, s3s::StdError>;
