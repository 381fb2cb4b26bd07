//! Writes that are refused, and writes whose answers are lost.

use super::*;

fn record(claim: Option<u64>, state: ClaimState) -> Record {
    Record {
        revision: 1,
        claim,
        state,
        silence_seconds: 6,
    }
}

/// A host that has its turn since its second, by a claim with the number 7.
fn at_work() -> Turns {
    let mut turns = Turns::new(name(0), 1, wave(1, None), 1);
    let claim = record(None, ClaimState::Claimed);
    turns.follows(at(0));
    turns.is_current();
    turns.written(claim, 7, at(9000));
    turns.observed(&name(0), claim, 7, at(9000));
    assert_eq!(turns.next(at(9100)), Step::Begin);
    turns
}

fn renewal(expected: u64) -> Step {
    Step::Write {
        record: record(Some(7), ClaimState::Claimed),
        expected,
    }
}

#[test]
fn a_renewal_that_another_store_refuses_ends_the_lease_once_that_store_is_known() {
    let mut turns = at_work();
    assert!(turns.holds(at(14_900)) && !turns.holds(at(15_000)));
    turns.failed(at(11_000), false);
    assert_eq!(turns.next(at(11_100)), Step::Idle);
    turns.failed(at(11_700), true);
    // Whatever was told before the claims are followed anew says nothing.
    turns.is_current();
    assert_eq!(turns.next(at(11_800)), Step::Idle);
    assert!(turns.holds(at(11_800)));
    turns.follows(at(12_000));
    turns.observed(&name(1), record(None, ClaimState::Claimed), 2, at(12_000));
    turns.is_current();
    assert!(!turns.holds(at(12_000)));
    assert_eq!(turns.next(at(12_000)), Step::Stop);
}

#[test]
fn a_renewal_whose_answer_is_lost_costs_no_turn_and_does_not_lengthen_the_lease() {
    let mut turns = at_work();
    assert_eq!(turns.next(at(11_000)), renewal(7));
    turns.failed(at(11_000), false);
    assert_eq!(turns.next(at(12_000)), renewal(7));
    turns.failed(at(12_000), true);
    assert_eq!(turns.next(at(13_000)), Step::Idle, "nobody knows yet");
    turns.lost_track();
    turns.follows(at(13_000));
    turns.observed(
        &name(0),
        record(Some(7), ClaimState::Claimed),
        9,
        at(13_100),
    );
    turns.is_current();
    assert_eq!(turns.ends(), Some(at(15_000)));
    assert_eq!(turns.next(at(13_100)), renewal(9));
    turns.written(record(Some(7), ClaimState::Claimed), 12, at(13_100));
    assert_eq!(turns.next(at(13_200)), Step::Idle, "it works on");
    assert_eq!(turns.ends(), Some(at(19_100)));
}

#[test]
fn only_a_later_renewal_of_the_same_claim_is_taken_over() {
    for (record, number) in [
        // Of an older store, of another claim, of another revision, and one that is given back.
        (record(Some(7), ClaimState::Claimed), 6),
        (record(Some(8), ClaimState::Claimed), 9),
        (record(None, ClaimState::Claimed), 9),
        (record(Some(7), ClaimState::Back), 9),
        (
            Record {
                revision: 2,
                ..record(Some(7), ClaimState::Claimed)
            },
            9,
        ),
    ] {
        let mut turns = at_work();
        turns.failed(at(11_000), true);
        turns.follows(at(12_000));
        turns.observed(&name(0), record, number, at(12_000));
        // What another host writes is never one's own.
        turns.observed(
            &name(1),
            self::record(Some(7), ClaimState::Claimed),
            10,
            at(12_000),
        );
        turns.is_current();
        assert_eq!(turns.next(at(12_000)), Step::Stop, "{record:?} {number}");
    }
}

#[test]
fn a_lease_ends_in_time_whether_or_not_it_is_known_what_became_of_a_renewal() {
    let mut turns = at_work();
    turns.failed(at(11_000), true);
    assert_eq!(turns.next(at(14_900)), Step::Idle);
    assert_eq!(turns.next(at(15_000)), Step::Stop);
}

#[test]
fn it_is_noticed_that_a_place_was_given_back_though_the_answer_was_lost() {
    let mut turns = at_work();
    let back = Step::Write {
        record: record(Some(7), ClaimState::Failed),
        expected: 7,
    };
    assert_eq!(turns.give_back(true), back);
    assert!(!turns.has_given_back(true));
    turns.failed(at(11_000), false);
    turns.observed(&name(0), record(Some(7), ClaimState::Failed), 9, at(12_000));
    assert!(turns.has_given_back(true) && !turns.has_given_back(false));
}

#[test]
fn too_many_failures_stop_the_wave() {
    let mut world = World::new(6, wave(1, Some(1)));
    world.fails = (0..6).collect();
    run(&mut world, &[], 600 * SECOND);
    // The second failure is one more than allowed.
    assert_eq!(world.hosts.iter().filter(|host| host.done).count(), 2);
    let waiting = world.hosts.iter_mut().find(|host| !host.done);
    let halted = waiting
        .expect("one did not begin")
        .turns
        .next(at(600 * SECOND));
    assert_eq!(halted, Step::Halt { failures: 2 });
}

#[test]
fn a_key_that_holds_no_record_frees_no_place() {
    let claimed = record(None, ClaimState::Claimed);
    let mut turns = Turns::new(name(0), 1, wave(1, None), 1);
    turns.follows(at(0));
    turns.observed(&name(1), claimed, 1, at(8000));
    turns.is_current();
    turns.unreadable(&name(1), 2, at(9000));
    turns.unreadable(&name(2), 3, at(9000));
    // Nor does it hold it for longer than it would have been held.
    let live = |turns: &Turns, now| turns.others(at(now)).count();
    assert_eq!((live(&turns, 16_900), live(&turns, 17_000)), (2, 1));
    // Of the other it is not known when its lease ends.
    assert_eq!(live(&turns, 9000 + 5_399_900), 1);
    assert_eq!(live(&turns, 9000 + 5_400_000), 0);
    turns.observed(&name(2), record(None, ClaimState::Back), 4, at(17_000));
    assert_eq!(live(&turns, 17_000), 0);
}

#[test]
fn a_host_whose_key_was_removed_claims_with_the_number_of_the_removal() {
    let mut turns = at_work();
    turns.unreadable(&name(0), 8, at(10_000));
    turns.failed(at(11_000), true);
    turns.follows(at(12_000));
    turns.unreadable(&name(0), 8, at(12_000));
    turns.is_current();
    assert_eq!(turns.next(at(12_000)), Step::Stop);
    let again = (12_000..30_000)
        .map(|now| turns.next(at(now)))
        .find(|step| matches!(step, Step::Write { .. }));
    let claim = Step::Write {
        record: record(None, ClaimState::Claimed),
        expected: 8,
    };
    assert_eq!(again, Some(claim));
}
