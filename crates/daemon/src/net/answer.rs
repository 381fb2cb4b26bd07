//! Answers on their way to the peer: in small pieces, each of which is accounted for until the peer has
//! taken it.
//!
//! A piece is a `Bytes` that owns its share of the account. Its holder, hyper's queue or h2's, returns that share by
//! dropping the piece when it is written or when the connection is gone, so nothing needs to be reported. An answer of
//! known length has one account with one deadline; a stream, whose end is unknown, has one for each piece.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::load::{InFlight, Lease, Place};

/// Largest piece: a frame of HTTP/2 as it is by default.
const PIECE_BYTES: usize = 16 << 10; // 16 KiB

/// The body of an answer.
pub(super) struct Answer {
    body: Body,
    /// The part of the body that was cut off and not yet handed out.
    rest: Bytes,
    place: Arc<Place>,
    account: Arc<Account>,
}

/// What is returned when the body and all its pieces are dropped.
struct Account {
    /// None for a refusal.
    _request: Option<InFlight>,
    /// None for a stream.
    lease: Option<Lease>,
}

/// The owner of a piece's bytes.
struct Piece {
    bytes: Bytes,
    _lease: Option<Lease>,
    _account: Arc<Account>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Answer {
    /// An answer of known length with the room `lease`, or otherwise a stream.
    pub(super) fn new(body: Body, request: InFlight, lease: Option<Lease>) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            place: Arc::clone(request.place()),
            account: Arc::new(Account {
                _request: Some(request),
                lease,
            }),
        }
    }

    /// An answer to a request that was refused.
    pub(super) fn refusal(body: Body, place: &Arc<Place>) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            place: Arc::clone(place),
            account: Arc::new(Account {
                _request: None,
                lease: Some(place.lease(0, Instant::now())),
            }),
        }
    }

    fn piece(&mut self) -> Bytes {
        let bytes = self.rest.split_to(PIECE_BYTES.min(self.rest.len()));
        let lease = match &self.account.lease {
            Some(_) => None,
            None => Some(self.place.lease(bytes.len(), Instant::now())),
        };
        Bytes::from_owner(Piece {
            bytes,
            _lease: lease,
            _account: Arc::clone(&self.account),
        })
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            let Some(frame) = ready!(Pin::new(&mut this.body).poll_frame(context)?) else {
                return Poll::Ready(None);
            };
            match frame.into_data() {
                Ok(data) => this.rest = data,
                Err(other) => return Poll::Ready(Some(Ok(other))),
            }
        }
        Poll::Ready(Some(Ok(Frame::data(this.piece()))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
        let body = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower().saturating_add(rest));
        if let Some(upper) = body.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}
