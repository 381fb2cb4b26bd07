//! Checks every request's credential before it reaches a handler.

use std::net::SocketAddr;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use lvp_api::{ErrorCode, routes};

use super::App;
use crate::access::audit::AuditLine;
use crate::access::{Needs, Reason, Role, token};
use crate::net::{ApiError, Peer};

/// Passes a request on to its handler, or refuses it.
pub(super) async fn guard(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let access = &app.access;
    let route = request.extensions().get::<MatchedPath>().cloned();
    let needs = access.needs(request.method(), route.as_ref().map(MatchedPath::as_str));
    let is_readiness = route.as_ref().map(MatchedPath::as_str) == Some(routes::READYZ);
    if needs == Needs::Nothing && !is_readiness {
        return next.run(request).await;
    }
    let peer = request.extensions().get::<Peer>().cloned();
    // Requests have no peer only if the router is served by something other than `net`.
    let peer = peer.unwrap_or(Peer {
        address: SocketAddr::from(([0, 0, 0, 0], 0)),
        identity: None,
    });
    if needs == Needs::Nothing {
        // Everybody may see that something is wrong; the details are for callers who may read.
        let is_anonymous = token(request.headers()).is_none() && peer.identity.is_none();
        if !(is_anonymous && access.asks_for_credentials())
            && let Ok((principal, _)) = access.identify(request.headers(), &peer)
        {
            request.extensions_mut().insert(principal);
        }
        return next.run(request).await;
    }
    let found = access.identify(request.headers(), &peer);
    let mut line = (needs == Needs::Provision).then(|| {
        let principal = found.as_ref().ok().map(|(principal, _)| principal);
        AuditLine::new(principal, peer.address, request.method(), request.uri())
    });
    let response = match found {
        Err(error) => {
            if error.code() == ErrorCode::TooManyRequests {
                access.failures().slow_down().await;
            }
            refuse(error)
        }
        Ok((_, Role::Read)) if needs == Needs::Provision => {
            access.failures().count(Reason::Role);
            refuse(ApiError::new(
                ErrorCode::Forbidden,
                "This token may only read: use one with the role provision for changes",
            ))
        }
        Ok((principal, _)) => {
            request.extensions_mut().insert(principal);
            if let Some(line) = &line {
                request.extensions_mut().insert(line.subject());
            }
            next.run(request).await
        }
    };
    if let Some(line) = &mut line {
        line.answered(response.status());
    }
    response
}

fn refuse(error: ApiError) -> Response {
    let mut response = error.into_response();
    if response.status() == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Bearer realm=\"libvirt-volume-provisioner\"");
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}
