//! Several scenarios in one test, if what they need is slow to start: each is run and reported
//! by name, whatever the result of the others.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::time::{Duration, Instant};

/// A scenario and its name.
pub type Scenario = (&'static str, Pin<Box<dyn Future<Output = ()>>>);

/// Names scenarios by their functions: `scenarios![module::function, ...]`.
#[macro_export]
macro_rules! scenarios {
    ($($module:ident :: $name:ident),* $(,)?) => {
        vec![$((stringify!($name), Box::pin($module::$name()) as _)),*]
    };
}

/// Runs them all, in this order; with `LVP_SCENARIO` those whose names have one of its parts,
/// which commas separate.
///
/// # Panics
///
/// When one of them did.
#[expect(clippy::print_stdout, reason = "the report of a test")]
pub fn run(scenarios: Vec<Scenario>) {
    let wanted = std::env::var("LVP_SCENARIO").unwrap_or_default();
    let scenarios: Vec<_> = scenarios
        .into_iter()
        .filter(|(name, _)| wanted.split(',').any(|part| name.contains(part)))
        .collect();
    let total = scenarios.len();
    assert!(total > 0, "no scenario has {wanted:?} in its name");
    let failed = scenarios
        .into_iter()
        .map(passes)
        .filter(|passed| !passed)
        .count();
    println!("scenarios: {} passed, {failed} failed", total - failed);
    assert_eq!(failed, 0, "scenarios failed");
}

#[expect(clippy::print_stdout, reason = "the report of a test")]
fn passes((name, scenario): Scenario) -> bool {
    let started = Instant::now();
    let runtime =
        tokio::runtime::Runtime::new().unwrap_or_else(|error| panic!("no runtime: {error}"));
    let result = catch_unwind(AssertUnwindSafe(|| runtime.block_on(scenario)));
    runtime.shutdown_timeout(Duration::from_secs(5));
    let verdict = if result.is_ok() { "ok" } else { "FAILED" };
    println!(
        "scenario {name} ... {verdict} ({:.1} s)",
        started.elapsed().as_secs_f64()
    );
    result.is_ok()
}
