//! Log sampling: all lines of a trace, or none.

use std::sync::atomic::{AtomicU64, Ordering};

use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::registry::LookupSpan;

use super::traces;
use crate::access::audit;
use crate::config::LogSampling;

/// Keeps the lines of a share of the traces, or one line in N. Warnings, errors and audit lines are always kept,
/// and with a share also the lines outside any trace, which are few.
///
/// A trace is chosen by its id, as in OpenTelemetry's samplers: with `tracing.sampling_rate` at the
/// same value, the same traces have lines and spans.
pub(super) struct Sampled {
    /// Ids below this are kept; None if all are.
    below: Option<u64>,
    /// One line in this many is kept; None if all are.
    one_in: Option<u64>,
    /// Lines counted so far.
    lines: AtomicU64,
}

impl Sampled {
    pub(super) fn new(sampling: LogSampling) -> Self {
        let (share, one_in) = match sampling {
            LogSampling::All => (None, None),
            LogSampling::Share(share) => (Some(share), None),
            LogSampling::OneIn(count) => (None, Some(count)),
        };
        Self {
            below: share.map(below),
            one_in,
            lines: AtomicU64::new(0),
        }
    }

    fn keeps(&self, trace_id: [u8; 16]) -> bool {
        let [.., a, b, c, d, e, f, g, h] = trace_id;
        let random = u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1;
        self.below.is_none_or(|below| random < below)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a share from 0 to 1 of 63 bits"
)]
fn below(share: f64) -> u64 {
    (share.clamp(0.0, 1.0) * (1_u64 << 63) as f64) as u64
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Filter<S> for Sampled {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn callsite_enabled(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::always()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::TRACE)
    }

    fn event_enabled(&self, event: &Event<'_>, context: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() <= Level::WARN || metadata.target() == audit::TARGET {
            return true;
        }
        if let Some(count) = self.one_in {
            return self
                .lines
                .fetch_add(1, Ordering::Relaxed)
                .is_multiple_of(count);
        }
        if self.below.is_none() {
            return true;
        }
        let span = context.event_span(event);
        let trace_id = span.and_then(|span| traces::trace_id(&span.id()));
        trace_id.is_none_or(|id| self.keeps(id.to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanKind, TraceId};
    use opentelemetry_sdk::trace::{Sampler, SamplingDecision, ShouldSample as _};
    use rand::random;

    use super::*;

    #[test]
    fn the_same_traces_are_kept_as_by_the_sampler_of_spans() {
        for rate in [0.0, 0.25, 0.9, 1.0] {
            let (lines, spans) = (
                Sampled::new(LogSampling::Share(rate)),
                Sampler::TraceIdRatioBased(rate),
            );
            let mut kept = 0;
            for _ in 0..2000 {
                let id: [u8; 16] = random();
                let trace_id = TraceId::from_bytes(id);
                let result = spans.should_sample(None, trace_id, "", &SpanKind::Server, &[], &[]);
                let with_spans = result.decision == SamplingDecision::RecordAndSample;
                assert_eq!(lines.keeps(id), with_spans, "{rate} {trace_id}");
                kept += u32::from(lines.keeps(id));
            }
            let share = f64::from(kept) / 2000.0;
            assert!((share - rate).abs() < 0.06, "{share} of {rate}");
        }
    }
}
