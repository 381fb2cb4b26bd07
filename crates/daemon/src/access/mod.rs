//! Who gets in, and what they may do.
//!
//! | route | needs |
//! |---|---|
//! | health, metrics | nothing, unless closed by configuration; the reasons in `/readyz` need role `read` |
//! | `GET` of anything else | role `read` or `provision` |
//! | everything else | role `provision` |
//!
//! A caller is identified by its client certificate, which the TLS handshake has verified, or
//! otherwise by a token. A certificate has the role `provision`. If neither tokens nor a client CA
//! are configured, everybody who can connect may do everything, and only this host can connect.
//!
//! - Invariant: a request without a known credential reaches only the handlers of open routes. It
//!   does not even reach the handler that says that a path does not exist.
//! - Invariant: every request that could change something writes one line to the audit log,
//!   whatever its result ([`audit`]).

pub mod audit;
mod failures;
mod strength;
mod tokens;
mod watch;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use axum::http::{HeaderMap, HeaderValue, Method, header};
use lvp_api::{ErrorCode, routes};

pub use failures::{Failures, Reason};
pub use tokens::{Role, TokensError};
pub use watch::{reload, watch};

use crate::config;
use crate::error::chain;
use crate::net::tls::Tls;
use crate::net::{ApiError, Peer};
use tokens::Tokens;

/// The older header for tokens.
const API_TOKEN: &str = "x-api-token";

/// Sent by browsers with every request since 2023: whether a page of another site made it.
const FETCH_SITE: &str = "sec-fetch-site";

/// The rules and the credentials in force.
#[derive(Debug)]
pub struct Access {
    tokens_file: Option<PathBuf>,
    tokens: RwLock<Arc<Tokens>>,
    tls: Option<Arc<Tls>>,
    open_health: bool,
    open_metrics: bool,
    failures: Failures,
}

/// Who a request is from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Principal {
    /// A program on this host, where no credential is required.
    Local,
    /// The holder of the token of this name.
    Token(String),
    /// The holder of a certificate with this name.
    Certificate(String),
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Token(name) => write!(f, "token:{name}"),
            Self::Certificate(name) => write!(f, "cert:{name}"),
        }
    }
}

/// What a route asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    Nothing,
    Read,
    Provision,
}

impl Access {
    /// Reads the credentials that the configuration names.
    pub fn load(server: &config::Server) -> anyhow::Result<Self> {
        let tokens = match &server.api_tokens_file {
            Some(path) => Tokens::read(path)?,
            None => Tokens::default(),
        };
        let tls = server.tls.clone().map(Tls::load).transpose()?;
        Ok(Self {
            tokens_file: server.api_tokens_file.clone(),
            tokens: RwLock::new(Arc::new(tokens)),
            tls: tls.map(Arc::new),
            open_health: server.open_health,
            open_metrics: server.open_metrics,
            failures: Failures::default(),
        })
    }

    /// Whether callers have to present a credential.
    pub fn asks_for_credentials(&self) -> bool {
        self.tokens_file.is_some() || self.tls.as_ref().is_some_and(|tls| tls.has_client_ca())
    }

    /// Whether tokens would cross the network unencrypted.
    pub fn has_tokens_in_clear(&self) -> bool {
        self.tokens_file.is_some() && self.tls.is_none()
    }

    /// TLS, if it is configured.
    pub fn tls(&self) -> Option<&Arc<Tls>> {
        self.tls.as_ref()
    }

    /// Failed attempts.
    pub(crate) fn failures(&self) -> &Failures {
        &self.failures
    }

    /// How often callers were refused, by reason.
    pub fn refusals(&self) -> impl Iterator<Item = (Reason, u64)> {
        let certificates = self.tls.as_ref().map_or(0, |tls| tls.refused());
        self.failures
            .counts()
            .map(move |(reason, count)| match reason {
                Reason::Certificate => (reason, certificates),
                _ => (reason, count),
            })
    }

    /// Reads tokens and certificates again. If they cannot be used, that is logged and the old ones
    /// stay in force.
    pub fn reload(&self) {
        if let Some(path) = &self.tokens_file {
            match Tokens::read(path) {
                Ok(tokens) => {
                    let count = tokens.len();
                    *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tokens);
                    tracing::info!(component = "access", count, "Tokens read again");
                }
                Err(error) => {
                    let error = chain(&error);
                    tracing::error!(
                        component = "access",
                        error,
                        "The tokens file cannot be used: the tokens that were read before stay in force"
                    );
                }
            }
        }
        if let Some(tls) = &self.tls {
            match tls.reload() {
                Ok(()) => tracing::info!(component = "access", "Certificates read again"),
                Err(error) => {
                    let error = chain(&error);
                    tracing::error!(
                        component = "access",
                        error,
                        "The certificates cannot be used: those that were read before stay in force"
                    );
                }
            }
        }
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        let tls = self.tls.iter().flat_map(|tls| tls.paths());
        self.tokens_file.as_deref().into_iter().chain(tls)
    }

    /// What a route asks of its caller.
    pub(crate) fn needs(&self, method: &Method, route: Option<&str>) -> Needs {
        let is_read = method == Method::GET || method == Method::HEAD;
        match route {
            Some(routes::HEALTH | routes::HEALTHZ | routes::LIVEZ | routes::READYZ)
                if self.open_health && is_read =>
            {
                Needs::Nothing
            }
            // These files hold nothing about this host; the page gets what it shows by further
            // requests.
            Some(routes::PAGE | routes::PAGE_FILE) if is_read => Needs::Nothing,
            Some(routes::METRICS) if self.open_metrics && is_read => Needs::Nothing,
            _ if is_read => Needs::Read,
            _ => Needs::Provision,
        }
    }

    /// Who the caller is and what it may do, or why it is refused.
    pub(crate) fn identify(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
    ) -> Result<(Principal, Role), ApiError> {
        if !self.asks_for_credentials() {
            return local(headers);
        }
        if let Some(identity) = &peer.identity {
            let principal = Principal::Certificate(identity.name.clone());
            return Ok((principal, Role::Provision));
        }
        let Some(token) = token(headers) else {
            self.failures.count(Reason::Missing);
            return Err(unauthorized("The request has no credential"));
        };
        // The look-up takes the same time for every token. A correct one is accepted whatever its address sent
        // before.
        let tokens = Arc::clone(&self.tokens.read().unwrap_or_else(PoisonError::into_inner));
        match tokens.find(token) {
            Some((name, role)) => Ok((Principal::Token(name.to_owned()), role)),
            None if self.failures.count_guess(peer.address.ip()) => Err(ApiError::new(
                ErrorCode::TooManyRequests,
                "The token is not known, and this address has sent others that were not: use a token from the daemon's \
                 tokens file, which is accepted at once",
            )),
            None => Err(unauthorized("The token is not known")),
        }
    }
}

/// How many tokens a file has, if it can be used.
pub fn check_tokens(path: &Path) -> Result<usize, TokensError> {
    Tokens::read(path).map(|tokens| tokens.len())
}

/// Where no credential is required, a request from another site's page in a browser on this host is
/// still not the user's.
fn local(headers: &HeaderMap) -> Result<(Principal, Role), ApiError> {
    let site = headers.get(FETCH_SITE).map(HeaderValue::as_bytes);
    match site {
        None | Some(b"none" | b"same-origin") => Ok((Principal::Local, Role::Provision)),
        Some(_) => Err(ApiError::new(
            ErrorCode::Forbidden,
            "The request comes from another site's page: without tokens only this host's own \
             programs are served",
        )),
    }
}

fn unauthorized(what: &str) -> ApiError {
    ApiError::new(
        ErrorCode::Unauthorized,
        format!(
            "{what}: send a token (Authorization: Bearer TOKEN, or X-API-Token: TOKEN), or connect \
             with a client certificate"
        ),
    )
}

/// The token that a request carries, in either of the two headers.
pub(crate) fn token(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
    });
    let token = match bearer {
        Some(token) => token,
        None => headers.get(API_TOKEN)?.as_bytes(),
    };
    Some(token.trim_ascii()).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                let name = header::HeaderName::from_static(name);
                (name, HeaderValue::from_static(value))
            })
            .collect()
    }

    #[test]
    fn tokens_are_found_in_both_headers_and_in_no_other_scheme() {
        for (pairs, expected) in [
            (vec![("authorization", "Bearer abc")], Some("abc")),
            (vec![("authorization", "bearer  abc ")], Some("abc")),
            (vec![("x-api-token", "abc")], Some("abc")),
            (vec![("authorization", "Basic abc")], None),
            (vec![("authorization", "Bearer ")], None),
            (vec![("authorization", "")], None),
            (vec![("authorization", "Bearerabc")], None),
            (
                vec![("authorization", "Basic x"), ("x-api-token", "abc")],
                Some("abc"),
            ),
            (vec![], None),
        ] {
            let headers = headers(&pairs);
            assert_eq!(token(&headers), expected.map(str::as_bytes), "{pairs:?}");
        }
    }

    #[test]
    fn pages_of_other_sites_are_not_local() {
        for (site, allowed) in [
            ("none", true),
            ("same-origin", true),
            ("same-site", false),
            ("cross-site", false),
        ] {
            assert_eq!(
                local(&headers(&[("sec-fetch-site", site)])).is_ok(),
                allowed
            );
        }
        assert!(local(&headers(&[])).is_ok());
    }
}
