//! What is measured, and is not the doing of what the jobs write.

use super::*;

#[test]
fn tasks_that_wait_for_something_else_hold_nobody_back() {
    let step = |run: &mut Run, wait_ms: Option<f64>, pressure: f64| {
        let own = run.own(1000.0);
        let before = run.rate;
        let after = run.step_with(Measured {
            wait: wait_ms.map(ms),
            pressure: Some(pressure),
            own_bytes_per_sec: own * MIB,
            are_jobs_running: true,
        });
        (before, after)
    };
    // The requests to these disks are as fast as ever.
    let mut run = Run::beside(1.0);
    for _ in 0..6 {
        let (before, after) = step(&mut run, Some(1.1), 0.9);
        assert!(after > before, "{before:?} {after:?}");
    }
    // None are measured, nor were there before.
    let mut run = Run::new();
    for _ in 0..6 {
        assert_eq!(step(&mut run, None, 0.9), (None, None));
    }
    // It is no more than without a job.
    let mut run = Run::new();
    for _ in 0..20 {
        run.step_with(Measured {
            wait: wait(1.0),
            pressure: Some(0.6),
            ..Measured::default()
        });
    }
    for _ in 0..6 {
        let (before, after) = step(&mut run, Some(1.0), 0.0);
        assert!(after > before, "{before:?} {after:?}");
    }
    let (before, after) = step(&mut run, None, 0.55);
    assert!(after >= before, "{before:?} {after:?}");
    assert_eq!(step(&mut run, None, 0.7).1, Some(FLOOR));
}

#[test]
fn nothing_is_learnt_from_what_a_job_does_that_is_not_counted() {
    let mut run = Run::beside(1.0);
    for _ in 0..6 {
        let own = run.own(1000.0);
        run.step(wait(1.0), own);
    }
    let before = run.rate;
    // It unpacks an image, or reads back a golden volume.
    for _ in 0..60 {
        run.step_with(Measured {
            wait: wait(40.0),
            are_jobs_running: true,
            ..Measured::default()
        });
    }
    assert_eq!(run.controller.idle_wait(), ms(1.0));
    assert_eq!(run.rate, before);
}
