//! Orders to a fleet of hosts: what they say, who signed them, whether a host follows them, when its turn is, and
//! what it reports.
//!
//! Everything here is pure: bytes, times and observations are handed in. What moves the bytes is in `lvp-bus` and in
//! the daemon's module `fleet`.
//!
//! - [`order`] is what an order says, [`envelope`] how it is signed and verified.
//! - [`intake`] decides whether a host follows an order that has arrived, in whatever sequence and however often.
//! - [`wave`] decides when its turn is, without anybody who coordinates.
//! - [`report`] is what a host says about an order and about itself; [`standing`] is what these reports amount to.
//! - [`names`] has the names, and how they become parts of subjects and keys.

pub mod envelope;
pub mod intake;
pub mod names;
pub mod order;
pub mod report;
pub mod standing;
pub mod wave;

pub use envelope::{Envelope, EnvelopeError, IssuerKey, Trusted, VerifiedOrder};
pub use names::{GroupName, HostName, OrderId, Target};
pub use order::{Action, Image, Order, OrderError, OrderKind, Volume, Wave};
pub use report::{HostReport, Report, ReportState};
