//! Hosts, and a broker that delays, drops, forgets and restarts.

mod answers;

use super::*;
use proptest::prelude::*;

const SECOND: u64 = 1000;

fn wave(hosts_at_once: u32, max_failures: Option<u32>) -> Wave {
    Wave {
        hosts_at_once,
        max_failures,
        silence_seconds: 6,
    }
}

fn name(host: usize) -> HostName {
    format!("h{host}").parse().unwrap()
}

/// A write on its way: from whom, what, the number that it expects, when it was sent, when it arrives.
#[derive(Debug, Clone, Copy)]
struct Flight {
    from: usize,
    record: Record,
    expected: u64,
    sent: u64,
    arrives: u64,
}

#[derive(Debug, Default)]
struct Broker {
    numbers: u64,
    /// Without a record: what is none was written under the host's key.
    log: Vec<(u64, usize, Option<Record>)>,
    last: BTreeMap<usize, u64>,
}

struct Host {
    turns: Turns,
    /// Position in the broker's log from which it reads on; none while it does not follow.
    reads: Option<usize>,
    hears_from: u64,
    works_until: Option<u64>,
    /// Since it was told to stop, its jobs go on for so long.
    stops_at: Option<u64>,
    linked: bool,
    alive: bool,
    done: bool,
    waits_for: Option<Flight>,
    answer: Option<(u64, Flight, Option<u64>)>,
}

#[derive(Debug, Clone)]
enum Event {
    Cut(usize),
    Link(usize),
    Kill(usize),
    Revive(usize),
    Forget,
    Delay(u64),
    /// Something that is no record is written under the host's key, or it is removed.
    Garble(usize),
    /// What the host is sent stays away for so long, though its own writes are answered.
    Deaf(usize, u64),
}

fn events(hosts: usize) -> impl Strategy<Value = Vec<(u64, Event)>> {
    let event = prop_oneof![
        (0..hosts).prop_map(Event::Cut),
        (0..hosts).prop_map(Event::Link),
        (0..hosts).prop_map(Event::Link),
        (0..hosts).prop_map(Event::Kill),
        (0..hosts).prop_map(Event::Revive),
        Just(Event::Forget),
        (0..4000_u64).prop_map(Event::Delay),
        (0..hosts).prop_map(Event::Garble),
        (0..hosts, 5000..40_000_u64).prop_map(|(host, time)| Event::Deaf(host, time)),
        (0..hosts, 5000..40_000_u64).prop_map(|(host, time)| Event::Deaf(host, time)),
    ];
    proptest::collection::vec((0..120 * SECOND, event), 0..30)
}

struct World {
    broker: Broker,
    hosts: Vec<Host>,
    flights: Vec<Flight>,
    wave: Wave,
    delay: u64,
    /// How long a host's work takes.
    work: u64,
    most: usize,
    fails: Vec<usize>,
}

fn at(moment: u64) -> Moment {
    Duration::from_millis(moment)
}

impl World {
    fn new(hosts: usize, wave: Wave) -> Self {
        let host = |index| Host {
            turns: Turns::new(name(index), 1, wave, 7 * index as u64),
            reads: None,
            hears_from: 0,
            works_until: None,
            stops_at: None,
            linked: true,
            alive: true,
            done: false,
            waits_for: None,
            answer: None,
        };
        Self {
            broker: Broker::default(),
            hosts: (0..hosts).map(host).collect(),
            flights: Vec::new(),
            wave,
            delay: 20,
            work: 20 * SECOND,
            most: 0,
            fails: Vec::new(),
        }
    }

    fn happen(&mut self, event: &Event, now: u64) {
        match *event {
            Event::Cut(host) => {
                self.hosts[host].linked = false;
                self.hosts[host].reads = None;
                self.hosts[host].turns.lost_track();
            }
            Event::Link(host) => self.hosts[host].linked = true,
            Event::Kill(host) => {
                let fresh = Turns::new(name(host), 1, self.wave, now);
                let host = &mut self.hosts[host];
                host.turns = fresh;
                (host.alive, host.reads) = (false, None);
                (host.works_until, host.stops_at) = (None, None);
                (host.waits_for, host.answer) = (None, None);
            }
            Event::Revive(host) => self.hosts[host].alive = true,
            Event::Forget => {
                self.broker = Broker::default();
                for host in &mut self.hosts {
                    host.reads = None;
                    host.turns.lost_track();
                }
            }
            Event::Garble(host) => {
                self.broker.numbers += 1;
                let number = self.broker.numbers;
                self.broker.log.push((number, host, None));
                self.broker.last.insert(host, number);
            }
            Event::Delay(delay) => self.delay = 1 + delay,
            Event::Deaf(host, time) => self.hosts[host].hears_from = now + time,
        }
    }

    /// Writes arrive at the broker, also those of hosts that are cut off by now.
    fn arrive(&mut self, now: u64) {
        let (due, rest) = self
            .flights
            .iter()
            .partition::<Vec<_>, _>(|flight| flight.arrives <= now);
        self.flights = rest;
        for flight in due {
            let last = self.broker.last.get(&flight.from).copied().unwrap_or(0);
            let number = (last == flight.expected).then(|| {
                self.broker.numbers += 1;
                let number = self.broker.numbers;
                self.broker
                    .log
                    .push((number, flight.from, Some(flight.record)));
                self.broker.last.insert(flight.from, number);
                number
            });
            let host = &mut self.hosts[flight.from];
            if host.linked && host.alive {
                host.answer = Some((now + self.delay, flight, number));
            }
        }
    }

    fn run(&mut self, index: usize, now: u64) {
        let moment = at(now);
        let delay = self.delay;
        let host = &mut self.hosts[index];
        if host.stops_at.is_some_and(|at| now >= at) {
            (host.stops_at, host.works_until) = (None, None);
        }
        if !host.alive {
            return;
        }
        if host.linked && host.reads.is_none() {
            host.reads = Some(0);
            host.turns.follows(moment);
        }
        if let Some(reads) = host.reads.filter(|_| now >= host.hears_from) {
            // Some come late: up to the delay behind, which changes.
            let behind = usize::try_from(delay / 1000).unwrap_or(0);
            let upto = self.broker.log.len().saturating_sub(behind).max(reads);
            for (number, from, record) in &self.broker.log[reads..upto] {
                match record {
                    Some(record) => host.turns.observed(&name(*from), *record, *number, moment),
                    None => host.turns.unreadable(&name(*from), *number, moment),
                }
            }
            host.reads = Some(upto);
            if upto == self.broker.log.len() {
                host.turns.is_current();
            }
        }
        if let Some((_, flight, number)) = host.answer.filter(|(at, ..)| now >= *at) {
            host.answer = None;
            host.waits_for = None;
            match number {
                Some(number) => host.turns.written(flight.record, number, at(flight.sent)),
                None => {
                    host.turns.failed(at(flight.sent), true);
                    host.reads = None;
                }
            }
        }
        if host
            .waits_for
            .is_some_and(|flight| now > flight.sent + 1500)
        {
            let flight = host.waits_for.take();
            host.answer = None;
            host.turns
                .failed(at(flight.map_or(now, |flight| flight.sent)), false);
        }
        let step = match host
            .works_until
            .filter(|until| now >= *until && host.stops_at.is_none())
        {
            Some(_) if host.waits_for.is_none() => {
                host.works_until = None;
                host.done = true;
                host.turns.give_back(self.fails.contains(&index))
            }
            _ if host.done => Step::Idle,
            _ => host.turns.next(moment),
        };
        match step {
            Step::Write { record, expected } if host.waits_for.is_none() => {
                let flight = Flight {
                    from: index,
                    record,
                    expected,
                    sent: now,
                    arrives: now + delay,
                };
                host.waits_for = Some(flight);
                if host.linked {
                    self.flights.push(flight);
                }
            }
            Step::Begin => {
                assert!(host.turns.holds(moment));
                host.stops_at = None;
                host.works_until = Some(now + self.work);
            }
            // A host needs a while to stop: nearly all of the margin.
            Step::Stop if host.works_until.is_some() => host.stops_at = Some(now + 2900),
            _ => {}
        }
    }

    fn tick(&mut self, now: u64) {
        self.arrive(now);
        for host in 0..self.hosts.len() {
            self.run(host, now);
        }
        let at_work = self
            .hosts
            .iter()
            .filter(|host| host.works_until.is_some())
            .count();
        self.most = self.most.max(at_work);
    }
}

fn run(world: &mut World, events: &[(u64, Event)], until: u64) {
    let mut events = events.to_vec();
    events.sort_by_key(|(at, _)| *at);
    let mut events = events.into_iter().peekable();
    for now in (0..until).step_by(100) {
        while let Some((_, event)) = events.next_if(|(at, _)| *at <= now) {
            world.happen(&event, now);
        }
        world.tick(now);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn never_more_hosts_work_at_once_than_told_whatever_fails(
        places in 1..4_u32, events in events(6),
    ) {
        let mut world = World::new(6, wave(places, None));
        run(&mut world, &events, 150 * SECOND);
        prop_assert!(world.most <= places as usize, "{} worked at once", world.most);
    }

    #[test]
    fn once_everything_works_again_every_host_gets_its_turn(
        places in 1..4_u32, events in events(5),
    ) {
        let mut world = World::new(5, wave(places, None));
        let mut events = events;
        // Of a key that never held a claim, nobody knows for long whether its host works.
        events.retain(|(_, event)| !matches!(event, Event::Garble(_)));
        for host in 0..5 {
            events.push((121 * SECOND, Event::Revive(host)));
            events.push((121 * SECOND, Event::Link(host)));
        }
        events.push((121 * SECOND, Event::Delay(20)));
        run(&mut world, &events, 900 * SECOND);
        prop_assert!(world.hosts.iter().all(|host| host.done));
        prop_assert!(world.most <= places as usize);
    }
}

#[test]
fn all_places_are_used_and_a_dead_host_loses_its_own() {
    let mut world = World::new(6, wave(2, None));
    run(&mut world, &[], 40 * SECOND);
    assert_eq!(world.most, 2);
    let working = world
        .hosts
        .iter()
        .position(|host| host.works_until.is_some());
    world.happen(&Event::Kill(working.expect("one works")), 0);
    for now in (40 * SECOND..300 * SECOND).step_by(100) {
        world.tick(now);
    }
    assert_eq!(world.hosts.iter().filter(|host| host.done).count(), 5);
    assert_eq!(world.most, 2);
}

#[test]
fn a_host_that_does_not_hear_of_renewals_takes_nobody_for_dead() {
    let mut world = World::new(2, wave(1, None));
    run(&mut world, &[], 15 * SECOND);
    let first = world
        .hosts
        .iter()
        .position(|host| host.works_until.is_some());
    let other = 1 - first.expect("one works");
    world.work = 60 * SECOND;
    world.hosts[1 - other].works_until = Some(75 * SECOND);
    world.happen(&Event::Deaf(other, 30 * SECOND), 15 * SECOND);
    for now in (15 * SECOND..50 * SECOND).step_by(100) {
        world.tick(now);
    }
    assert_eq!(world.most, 1);
}

#[test]
fn a_host_that_hears_nothing_stops_before_another_begins() {
    let mut world = World::new(2, wave(1, None));
    run(&mut world, &[], 15 * SECOND);
    let first = world
        .hosts
        .iter()
        .position(|host| host.works_until.is_some());
    let first = first.expect("one works");
    world.happen(&Event::Cut(first), 15 * SECOND);
    let (mut stopped, mut began) = (None, None);
    for now in (15 * SECOND..60 * SECOND).step_by(100) {
        world.tick(now);
        if world.hosts[first].works_until.is_none() {
            stopped.get_or_insert(now);
        }
        if world.hosts[1 - first].works_until.is_some() {
            began.get_or_insert(now);
        }
    }
    assert!(stopped.expect("it stops") < began.expect("the other begins"));
    assert!(began < Some(40 * SECOND), "{began:?}");
}
