//! Which traces are kept.
//!
//! The status of a job that takes an hour is requested thousands of times. Such requests are sampled at a rate of their
//! own, so that they do not crowd out the traces of jobs.

use lvp_api::routes;
use opentelemetry::trace::{Link, SpanKind, TraceId};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{Sampler, SamplingResult, ShouldSample};

use crate::config::{TraceSampler, Tracing};

/// Routes that clients poll.
const POLLED: [&str; 4] = [
    routes::JOB,
    routes::STATUS,
    routes::EVENTS,
    routes::ALL_EVENTS,
];

/// Samples requests that only read separately from all others.
#[derive(Debug, Clone)]
pub(super) struct Apart {
    all: Sampler,
    polling: Sampler,
}

impl Apart {
    pub(super) fn new(config: &Tracing) -> Self {
        let ratio = Sampler::TraceIdRatioBased;
        let parent = |root: Sampler| Sampler::ParentBased(Box::new(root));
        let sampler = |share: f64| match config.sampler {
            TraceSampler::AlwaysOn => Sampler::AlwaysOn,
            TraceSampler::AlwaysOff => Sampler::AlwaysOff,
            TraceSampler::Ratio => ratio(share),
            TraceSampler::ParentOn => parent(Sampler::AlwaysOn),
            TraceSampler::ParentOff => parent(Sampler::AlwaysOff),
            TraceSampler::ParentRatio => parent(ratio(share)),
        };
        let share = config.polling_sampling_rate;
        Self {
            all: sampler(config.sampling_rate),
            polling: match config.sampler {
                TraceSampler::AlwaysOff | TraceSampler::ParentOff => sampler(0.0),
                TraceSampler::AlwaysOn => ratio(share),
                TraceSampler::ParentOn => parent(ratio(share)),
                TraceSampler::Ratio | TraceSampler::ParentRatio => {
                    sampler(share * config.sampling_rate)
                }
            },
        }
    }
}

/// Whether a span with this name is a request that only reads.
fn is_polling(name: &str) -> bool {
    let route = name
        .strip_prefix("GET ")
        .or_else(|| name.strip_prefix("HEAD "));
    route.is_some_and(|route| POLLED.contains(&route))
}

impl ShouldSample for Apart {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let sampler = match is_polling(name) {
            true => &self.polling,
            false => &self.all,
        };
        sampler.should_sample(parent, trace_id, name, kind, attributes, links)
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::trace::SamplingDecision;
    use rand::random;

    use super::*;
    use crate::config::{Config, Settings};

    fn kept(variables: &[(&str, &str)], name: &str) -> usize {
        let settings = Settings::load("/no/config.yaml".as_ref(), false, |wanted| {
            let found = variables.iter().find(|(variable, _)| *variable == wanted);
            let found = found.map(|(_, value)| (*value).to_owned());
            found.or_else(|| (wanted == "MINIO_ENDPOINT").then(|| "http://s3".to_owned()))
        });
        let config = Config::from_settings(&settings.unwrap()).unwrap();
        let sampler = Apart::new(&config.tracing);
        let keeps = |_: &usize| {
            let id = TraceId::from_bytes(random());
            let result = sampler.should_sample(None, id, name, &SpanKind::Server, &[], &[]);
            result.decision == SamplingDecision::RecordAndSample
        };
        (0..2000).filter(keeps).count()
    }

    #[test]
    fn requests_that_only_read_are_sampled_apart_from_jobs() {
        let polled = "GET /api/v1/jobs/{id}";
        assert_eq!(kept(&[], "POST /api/v1/jobs"), 2000);
        assert_eq!(kept(&[], "GET /api/v1/jobs"), 2000);
        assert!(kept(&[], polled) < 100);
        assert_eq!(kept(&[], "GET /readyz"), 2000);
        let all = ("TRACING_POLLING_SAMPLING_RATE", "1");
        assert_eq!(kept(&[all], polled), 2000);
    }

    #[test]
    fn samplers_are_those_of_the_specification() {
        let share = ("OTEL_TRACES_SAMPLER_ARG", "0.25");
        for (name, least, most) in [
            ("always_on", 2000, 2000),
            ("always_off", 0, 0),
            ("traceidratio", 400, 600),
            ("parentbased_always_on", 2000, 2000),
            ("parentbased_always_off", 0, 0),
            ("parentbased_traceidratio", 400, 600),
        ] {
            let found = kept(&[("OTEL_TRACES_SAMPLER", name), share], "POST /api/v1/jobs");
            assert!((least..=most).contains(&found), "{name}: {found}");
        }
    }
}
