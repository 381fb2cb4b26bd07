use proptest::prelude::*;

use super::*;
use crate::job::pause::Offer;

/// A job that holds a ticket.
struct Job {
    pause: Arc<Pause>,
    ticket: Ticket,
}

impl Job {
    fn new(slots: &Arc<Slots>, priority: Priority) -> Self {
        let pause = Arc::<Pause>::default();
        let ticket = slots.ask(priority, Arc::clone(&pause));
        Self { pause, ticket }
    }

    fn has_begun(&mut self) -> bool {
        if let Some(granted) = &mut self.ticket.granted
            && granted.try_recv().is_ok()
        {
            self.ticket.granted = None;
        }
        self.ticket.granted.is_none()
    }

    fn offers(&self) -> Offer {
        self.pause.offer()
    }
}

fn low(slots: &Arc<Slots>) -> Job {
    Job::new(slots, Priority::Low)
}

fn normal(slots: &Arc<Slots>) -> Job {
    Job::new(slots, Priority::Normal)
}

fn high(slots: &Arc<Slots>) -> Job {
    Job::new(slots, Priority::High)
}

#[test]
fn the_most_urgent_job_begins_first_and_within_a_priority_the_oldest() {
    let slots = Slots::new(1);
    let mut running = normal(&slots);
    assert!(running.has_begun());
    let mut jobs = [
        low(&slots),
        normal(&slots),
        high(&slots),
        normal(&slots),
        high(&slots),
    ];
    assert!(jobs.iter_mut().all(|job| !job.has_begun()));
    assert_eq!(slots.ahead(Priority::High), 2);
    assert_eq!(slots.ahead(Priority::Normal), 4);
    assert_eq!(slots.ahead(Priority::Low), 5);
    let mut jobs = jobs.into_iter().map(Some).collect::<Vec<_>>();
    drop(running);
    for expected in [2, 4, 1, 3, 0] {
        let begun = |job: &mut Option<Job>| job.as_mut().is_some_and(Job::has_begun);
        assert_eq!(jobs.iter_mut().position(begun), Some(expected));
        jobs[expected] = None;
    }
}

#[test]
fn a_job_of_high_priority_takes_the_slot_of_the_low_one_that_began_last_and_gives_it_back() {
    let slots = Slots::new(2);
    let (first, second) = (low(&slots), low(&slots));
    let _offers = (first.offers(), second.offers());
    let mut waiting = low(&slots);
    let mut urgent = high(&slots);
    assert!(urgent.has_begun());
    assert!(!first.pause.is_on() && second.pause.is_on());
    // One of normal priority takes nobody's slot.
    let mut usual = normal(&slots);
    assert!(!usual.has_begun() && !first.pause.is_on());
    drop(urgent);
    assert!(usual.has_begun() && second.pause.is_on());
    drop(usual);
    assert!(!second.pause.is_on() && !waiting.has_begun());
    drop(second);
    assert!(waiting.has_begun());
}

#[test]
fn nothing_is_paused_that_does_not_offer_it_or_for_which_another_job_waits() {
    let slots = Slots::new(1);
    let job = low(&slots);
    let mut urgent = high(&slots);
    assert!(!urgent.has_begun());
    let offer = job.offers();
    let need = job.pause.need();
    slots.reconsider();
    assert!(!urgent.has_begun() && !job.pause.is_on());
    drop(need);
    slots.reconsider();
    assert!(urgent.has_begun() && job.pause.is_on());
    // The urgent one turns out to wait for it: it goes on without a slot.
    let _need = job.pause.need();
    slots.reconsider();
    assert!(!job.pause.is_on());
    let mut next = normal(&slots);
    drop(urgent);
    assert!(!next.has_begun(), "the only slot is that job's");
    drop((offer, job));
    assert!(next.has_begun());
}

#[test]
fn a_job_that_was_paused_runs_for_a_while_before_it_is_paused_again() {
    let slots = Slots::new(1);
    let job = low(&slots);
    let _offer = job.offers();
    drop(high(&slots));
    assert!(!job.pause.is_on());
    let mut urgent = high(&slots);
    assert!(!urgent.has_begun());
    slots
        .lock()
        .dispatch(Instant::now() + MIN_RUN - Duration::from_secs(5));
    assert!(!urgent.has_begun());
    slots.lock().dispatch(Instant::now() + MIN_RUN);
    assert!(urgent.has_begun() && job.pause.is_on());
}

#[test]
fn every_job_begins_however_many_urgent_ones_come() {
    let slots = Slots::new(1);
    let mut running = high(&slots);
    let mut oldest = low(&slots);
    let mut begun = 0;
    while !oldest.has_begun() {
        // There is always another one before it.
        let mut next = high(&slots);
        std::mem::swap(&mut running, &mut next);
        drop(next);
        begun += 1;
        assert!(begun <= MAX_PASSED_OVER + 1, "{begun} began before it");
    }
    assert_eq!(begun, MAX_PASSED_OVER + 1);
}

#[test]
fn a_paused_job_gets_a_slot_again_however_many_urgent_ones_come() {
    let slots = Slots::new(1);
    let job = low(&slots);
    let _offer = job.offers();
    let mut running = high(&slots);
    assert!(job.pause.is_on());
    let mut begun = 0;
    while job.pause.is_on() {
        let mut next = high(&slots);
        std::mem::swap(&mut running, &mut next);
        drop(next);
        begun += 1;
        assert!(begun <= MAX_PASSED_OVER + 1);
    }
}

#[tokio::test]
async fn a_stop_ends_all_waits_and_lets_paused_jobs_go_on() {
    let slots = Slots::new(1);
    let job = low(&slots);
    let _offer = job.offers();
    let urgent = high(&slots);
    let mut waiting = normal(&slots);
    slots.close();
    assert_eq!(waiting.ticket.granted().await, Err(Closed));
    let mut late = high(&slots);
    assert_eq!(late.ticket.granted().await, Err(Closed));
    assert!(job.pause.is_on());
    drop(urgent);
    assert!(!job.pause.is_on());
}

#[test]
fn a_place_is_given_up_wherever_the_job_is() {
    let slots = Slots::new(1);
    let job = low(&slots);
    let offer = job.offers();
    let urgent = high(&slots);
    let waiting = normal(&slots);
    assert!(job.pause.is_on());
    let pause = Arc::clone(&job.pause);
    drop((waiting, job));
    assert!(!pause.is_on());
    drop((offer, urgent));
    assert!(normal(&slots).has_begun());
}

#[derive(Debug, Clone)]
enum Event {
    Ask(Priority),
    Leave(usize),
    Offer(usize),
    Withdraw(usize),
    Look,
}

fn event() -> impl Strategy<Value = Event> {
    let priority = prop_oneof![
        Just(Priority::Low),
        Just(Priority::Normal),
        Just(Priority::High)
    ];
    prop_oneof![
        3 => priority.prop_map(Event::Ask),
        2 => (0_usize..16).prop_map(Event::Leave),
        2 => (0_usize..16).prop_map(Event::Offer),
        1 => (0_usize..16).prop_map(Event::Withdraw),
        1 => Just(Event::Look),
    ]
}

proptest! {
    /// Whatever happens in whatever order.
    #[test]
    fn no_slot_is_lost_or_given_twice(count in 1_usize..4, events in prop::collection::vec(event(), 1..120)) {
        let slots = Slots::new(count);
        let mut jobs: Vec<(Job, Priority, Option<Offer>)> = Vec::new();
        for event in events {
            match event {
                Event::Ask(priority) => jobs.push((Job::new(&slots, priority), priority, None)),
                Event::Leave(index) if index < jobs.len() => drop(jobs.remove(index)),
                Event::Offer(index) => {
                    if let Some((job, _, offer)) = jobs.get_mut(index) && job.has_begun() {
                        *offer = Some(job.offers());
                    }
                }
                Event::Withdraw(index) => {
                    if let Some((_, _, offer)) = jobs.get_mut(index) {
                        *offer = None;
                    }
                }
                Event::Look => slots.reconsider(),
                Event::Leave(_) => {}
            }
            let mut running = 0;
            let mut paused = 0;
            for (job, priority, _) in &mut jobs {
                let (begun, stands) = (job.has_begun(), job.pause.is_on());
                prop_assert!(!stands || begun && *priority == Priority::Low);
                running += usize::from(begun && !stands);
                paused += usize::from(stands);
            }
            prop_assert!(running <= count && paused <= count);
            let waiting = jobs.iter_mut().any(|(job, _, _)| !job.has_begun());
            prop_assert!(running == count || !waiting && paused == 0);
            // Within a priority, nobody begins before an older one.
            for class in Priority::ALL {
                let of_class = jobs.iter_mut().filter(|(_, priority, _)| *priority == class);
                let begun: Vec<_> = of_class.map(|(job, _, _)| job.has_begun()).collect();
                prop_assert!(begun.is_sorted_by(|a, b| a >= b), "{class}: {begun:?}");
            }
        }
    }
}
