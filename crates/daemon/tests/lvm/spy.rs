//! Counts the commands that the back end runs, by their spans.

use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{DefaultGuard, set_default};
use tracing::{Event, Metadata, Subscriber};

/// Sees what is run on this thread while it lives.
pub(crate) struct Spy {
    seen: Arc<Mutex<Vec<String>>>,
    _guard: DefaultGuard,
}

impl Spy {
    pub(crate) fn new() -> Self {
        let seen = Arc::default();
        let guard = set_default(Listener(Arc::clone(&seen)));
        Self {
            seen,
            _guard: guard,
        }
    }

    /// The tools, in their order.
    pub(crate) fn commands(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

struct Listener(Arc<Mutex<Vec<String>>>);

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span()
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        if span.metadata().name() == "command" {
            let mut tool = Tool(String::new());
            span.record(&mut tool);
            self.0.lock().unwrap().push(tool.0);
        }
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

struct Tool(String);

impl Visit for Tool {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "tool" {
            value.clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}
