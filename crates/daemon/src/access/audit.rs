//! The audit log: one line for every request that could change something.
//!
//! Each line says who asked (`principal`), from where (`address`), for what (`method`, `path`, and
//! the subject that the handler names), and with what result (`status`). It is written when the
//! answer is ready, or when the client disconnects before that.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use axum::http::{Extensions, Method, StatusCode, Uri};

use super::Principal;

/// Target of the audit lines. Sampling never drops lines with this target.
pub const TARGET: &str = module_path!();

/// Longest part of a path that is written. This daemon's own paths are shorter.
const PATH_MAX_CHARACTERS: usize = 200;

/// Longest subject that is written: enough for the longest object key. A request may send up to 1 MiB.
const SUBJECT_MAX_CHARACTERS: usize = 1400;

/// What a request is about. The request's handler fills it in.
#[derive(Debug, Clone, Default)]
pub struct Subject(Arc<About>);

#[derive(Debug, Default)]
struct About {
    what: OnceLock<String>,
    job: OnceLock<String>,
}

impl Subject {
    /// The request's subject. Where requests are not audited, a subject that is thrown away.
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_default()
    }

    /// Records what the request is about. The text must not hold a secret, such as a URL's query.
    pub fn is(&self, what: impl Into<String>) {
        // Only the first subject is kept.
        let mut what = what.into();
        if let Some((end, _)) = what.char_indices().nth(SUBJECT_MAX_CHARACTERS) {
            what.truncate(end);
            what.push('\u{2026}');
        }
        self.0.what.set(what).ok();
    }

    /// Records which job the request created.
    pub fn made_job(&self, job: lvp_api::JobId) {
        self.0.job.set(job.to_string()).ok();
    }
}

/// Logs that the image of a job was found to be signed by a trusted key.
pub fn image_signed(job: lvp_api::JobId, image: &str, signer: &lvp_api::Signer) {
    tracing::info!(
        target: TARGET,
        component = "audit",
        job_id = %job,
        image,
        signature = %signer.format,
        fingerprint = signer.fingerprint,
        signer = signer.name,
        "Verified the image's signature"
    );
}

/// Logs what became of an order to the fleet, and who signed it.
pub fn order_received(order: &OrderLine<'_>) {
    tracing::info!(
        target: TARGET,
        component = "audit",
        order = order.id,
        revision = order.revision,
        kind = order.kind,
        signer = order.signer,
        key_id = order.key_id,
        subject = order.subject,
        result = order.result,
        reason = order.reason,
        "Order received"
    );
}

/// What [`order_received`] logs.
#[derive(Debug, Default)]
pub struct OrderLine<'a> {
    /// The order, if it is genuine.
    pub id: Option<&'a str>,
    /// Its revision.
    pub revision: Option<u64>,
    /// Its kind.
    pub kind: Option<&'a str>,
    /// The name of the key that signed it.
    pub signer: Option<&'a str>,
    /// That key's id.
    pub key_id: Option<&'a str>,
    /// The subject on which it came.
    pub subject: &'a str,
    /// What became of it.
    pub result: &'a str,
    /// Why.
    pub reason: Option<&'a str>,
}

/// An audit line that is being built. It is written when this is dropped.
#[derive(Debug)]
pub(crate) struct AuditLine {
    principal: String,
    address: SocketAddr,
    method: Method,
    path: String,
    subject: Subject,
    status: Option<StatusCode>,
}

impl AuditLine {
    pub(crate) fn new(
        principal: Option<&Principal>,
        address: SocketAddr,
        method: &Method,
        uri: &Uri,
    ) -> Self {
        Self {
            principal: principal.map_or_else(|| "unknown".to_owned(), ToString::to_string),
            address,
            method: method.clone(),
            path: uri.path().chars().take(PATH_MAX_CHARACTERS).collect(),
            subject: Subject::default(),
            status: None,
        }
    }

    pub(crate) fn subject(&self) -> Subject {
        self.subject.clone()
    }

    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
    }
}

impl Drop for AuditLine {
    fn drop(&mut self) {
        let result = match self.status {
            Some(status) if status.is_success() => "done",
            Some(status) if status.is_server_error() => "failed",
            Some(_) => "refused",
            None => "client went away",
        };
        tracing::info!(
            target: TARGET,
            component = "audit",
            principal = self.principal,
            address = %self.address,
            method = %self.method,
            path = self.path,
            subject = self.subject.0.what.get(),
            job_id = self.subject.0.job.get(),
            status = self.status.map(|status| status.as_u16()),
            result,
            "Request"
        );
    }
}
