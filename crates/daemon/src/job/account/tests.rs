use super::*;

fn set(counter: &AtomicU64, seconds: u64) {
    counter.store(seconds * 1_000_000_000, Ordering::Relaxed);
}

fn parts(pass: &Pass) -> Vec<(Cause, f64)> {
    let parts = Cause::ALL.into_iter().zip(pass.parts());
    parts.filter(|(_, part)| *part > 0.0).collect()
}

#[test]
fn a_wait_for_the_source_is_divided_by_what_the_fetching_tasks_waited_for() {
    let pass = Pass::new(Arc::default(), Cause::Network, Arc::default());
    assert_eq!(parts(&pass), [(Cause::Network, 1.0)]);
    set(&pass.source_ns, 8);
    set(&pass.digest_ns, 2);
    set(&pass.server_ns, 1);
    set(&pass.limit_ns, 2);
    pass.fetch_waited(WaitReason::Others, Duration::from_secs(1));
    let expected = [
        (Cause::Network, 0.2),
        (Cause::Cpu, 0.2),
        (Cause::Limit, 0.4),
        (Cause::Guests, 0.2),
    ];
    for ((cause, part), (expected, share)) in parts(&pass).into_iter().zip(expected) {
        assert_eq!(cause, expected);
        assert!((part - share).abs() < 1e-9, "{cause}: {part}");
    }
}

#[test]
fn a_wait_for_the_copier_is_what_its_threads_did() {
    let copy = Arc::new(Counters::default());
    set(&copy.time.busy_ns, 10);
    set(&copy.time.device_ns, 6);
    set(&copy.time.limit_ns, 3);
    // With a middle that waited for nothing else, and without one.
    for has_middle in [true, false] {
        let pass = Pass::new(Arc::clone(&copy), Cause::Device, Arc::default());
        if has_middle {
            set(&pass.copier_ns, 5);
        }
        let expected = [(Cause::Cpu, 0.1), (Cause::Device, 0.6), (Cause::Limit, 0.3)];
        for ((cause, part), (expected, share)) in parts(&pass).into_iter().zip(expected) {
            assert_eq!(cause, expected);
            assert!((part - share).abs() < 1e-9, "{cause}: {part}");
        }
    }
}

#[test]
fn shares_add_up_and_a_job_begins_in_the_queue() {
    let account = Account::default();
    account.began_with([1.0, 2.0, 3.0, 4.0, 10.0, 0.0]);
    account.charge(Cause::Device);
    let bound = account.bound().expect("time has passed");
    assert_eq!(bound.by, Cause::Queue);
    let all: f64 = Cause::ALL.map(|cause| bound.share(cause)).iter().sum();
    assert!((all - 100.0).abs() < 0.5, "{bound:?}");
    assert!(bound.queue >= 45.0, "{bound:?}");
}

#[test]
fn a_pause_is_a_wait_for_the_queue_and_what_ran_before_goes_on_after_it() {
    let account = Account::default();
    let copy = Arc::new(Counters::default());
    set(&copy.time.busy_ns, 10);
    let pause = Arc::new(Pause::default());
    let pass = Arc::new(Pass::new(copy, Cause::Device, Arc::clone(&pause)));
    account.charge_pass(Arc::clone(&pass));
    account.pause();
    assert!(matches!(account.lock().now, Charged::Cause(Cause::Queue)));
    account.go_on();
    assert!(matches!(account.lock().now, Charged::Pass(_)));
    // A step that goes on during a pause is no pause.
    account.pause();
    account.charge(Cause::Device);
    account.go_on();
    assert!(matches!(account.lock().now, Charged::Cause(Cause::Device)));
}

#[test]
fn a_wait_across_a_pause_is_measured_without_it() {
    let pause = Arc::new(Pause::default());
    let pass = Pass::new(Arc::default(), Cause::Device, Arc::clone(&pause));
    let long = Duration::from_millis(200);
    let _offer = pause.offer();
    pass.wait(WaitsOn::Source, || {
        assert!(pause.begin());
        let until = Instant::now() + long;
        while Instant::now() < until {
            std::thread::yield_now();
        }
        pause.end();
    });
    let measured = Duration::from_nanos(pass.source_ns.load(Ordering::Relaxed));
    assert!(measured < long / 2, "{measured:?}");
}

#[test]
fn a_copy_that_yields_is_bound_by_the_guests_and_so_is_a_cache_file_that_does() {
    let copy = Arc::new(Counters::default());
    set(&copy.time.busy_ns, 10);
    set(&copy.time.device_ns, 2);
    set(&copy.time.yield_ns, 8);
    let pass = Pass::new(copy, Cause::Device, Arc::default());
    set(&pass.copier_ns, 5);
    set(&pass.cache_file_ns, 5);
    pass.cache_waited(Cause::Guests, Duration::from_secs(6));
    pass.cache_waited(Cause::Device, Duration::from_secs(4));
    let expected = [(Cause::Device, 0.3), (Cause::Guests, 0.7)];
    for ((cause, part), (expected, share)) in parts(&pass).into_iter().zip(expected) {
        assert_eq!(cause, expected);
        assert!((part - share).abs() < 1e-9, "{cause}: {part}");
    }
}
