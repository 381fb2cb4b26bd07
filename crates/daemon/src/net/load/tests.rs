use super::*;

const SHARE: usize = 128;

struct World {
    load: Arc<Load>,
    now: Instant,
}

impl World {
    fn new() -> Self {
        Self {
            load: Arc::new(Load::new(SHARE)),
            now: Instant::now(),
        }
    }

    /// A connection from an address whose last part is this number.
    fn connect(&self, host: u8) -> Arc<Place> {
        let address = IpAddr::from([192, 0, 2, host]);
        Arc::new(self.load.admit(address, self.now))
    }

    fn busy(&self, host: u8, count: usize) -> Vec<InFlight> {
        let request = |_| {
            self.connect(host)
                .begin(Purpose::Work)
                .expect("there is room")
        };
        (0..count).map(request).collect()
    }

    fn later(&mut self, by: Duration) {
        self.now += by;
        self.load.sweep(self.now);
    }
}

fn is_ended(place: &Place) -> bool {
    place.ends.now.is_cancelled()
}

fn refused<T>(result: Result<T, Refusal>) -> Refusal {
    result.map(drop).expect_err("there is no room")
}

#[test]
fn one_address_has_a_share_of_the_connections_and_its_quietest_makes_room() {
    let mut world = World::new();
    let other = world.connect(2);
    let first = world.connect(1);
    world.now += Duration::from_secs(1);
    let rest: Vec<_> = (1..SHARE).map(|_| world.connect(1)).collect();
    assert!(!is_ended(&first));
    let newest = world.connect(1);
    assert!(is_ended(&first), "it has been quiet longest");
    assert!(!newest.is_visit);
    assert!(!is_ended(&other) && !rest.iter().any(|place| is_ended(place)));
    assert_eq!(world.load.table().all.connections, SHARE + 1);
}

#[test]
fn while_all_are_busy_newcomers_visit_and_the_oldest_visitor_makes_room() {
    let world = World::new();
    let busy: Vec<_> = (1..=4).map(|host| world.busy(host, SHARE)).collect();
    let visits: Vec<_> = (0..RESERVE).map(|_| world.connect(9)).collect();
    assert!(
        visits
            .iter()
            .all(|place| place.is_visit && !is_ended(place))
    );
    let asking = visits[0]
        .begin(Purpose::Probe)
        .expect("that is what it is for");
    let next = world.connect(9);
    assert!(next.is_visit);
    assert_eq!(visits.iter().filter(|place| is_ended(place)).count(), 1);
    assert!(
        !is_ended(&visits[0]),
        "it has asked and is answered in a moment"
    );
    drop((asking, busy));
    let place = world.connect(9);
    assert!(!place.is_visit, "there is room again");
}

#[test]
fn a_quiet_connection_is_asked_to_leave_and_then_ended_and_a_busy_one_is_not() {
    let mut world = World::new();
    let (quiet, busy) = (world.connect(1), world.connect(1));
    let request = busy.begin(Purpose::Work).expect("there is room");
    world.later(QUIET_MAX - Duration::from_secs(1));
    assert!(!quiet.ends.leave.is_cancelled());
    world.later(Duration::from_secs(1));
    assert!(quiet.ends.leave.is_cancelled() && !is_ended(&quiet));
    world.later(LEAVE_MAX);
    assert!(is_ended(&quiet));
    assert!(!busy.ends.leave.is_cancelled());
    drop(request);
    world.later(QUIET_MAX - LEAVE_MAX);
    assert!(
        !busy.ends.leave.is_cancelled(),
        "it is quiet since the request's end"
    );
}

#[test]
fn an_answer_that_is_not_taken_in_time_ends_its_connection() {
    let mut world = World::new();
    let (slow, patient) = (world.connect(1), world.connect(1));
    let request = slow.begin(Purpose::Work).expect("there is room");
    let answer = request.answer(1 << 20, world.now).expect("there is room");
    let stream = patient.begin(Purpose::Work).expect("there is room");
    world.later(Duration::from_secs(93));
    assert!(!is_ended(&slow), "a MiB has 94 s");
    world.later(Duration::from_secs(1));
    assert!(is_ended(&slow));
    assert!(!is_ended(&patient), "a stream may wait as long as its job");
    drop((answer, request, stream));
}

#[test]
fn requests_and_answers_have_a_share_for_each_address_and_a_limit_for_all() {
    let world = World::new();
    let all = |full| Refusal {
        full,
        whose: Whose::All,
    };
    let own = |full| Refusal {
        full,
        whose: Whose::Callers,
    };
    let place = world.connect(1);
    let ask = |place: &Arc<Place>| place.begin(Purpose::Work);
    let mine: Vec<_> = (0..REQUESTS_SHARE)
        .map(|_| ask(&place).expect("there is room"))
        .collect();
    assert_eq!(refused(ask(&place)), own(Full::Requests));
    let others: Vec<_> = (2..=4)
        .flat_map(|host| {
            let place = world.connect(host);
            (0..REQUESTS_SHARE).map(move |_| ask(&place).expect("there is room"))
        })
        .collect();
    assert_eq!(refused(ask(&world.connect(5))), all(Full::Requests));
    drop(others);

    let mib = 1 << 20;
    let take = |request: &InFlight| request.answer(mib, world.now);
    let request = &mine[0];
    let here: Vec<_> = (0..8)
        .map(|_| take(request).expect("there is room"))
        .collect();
    assert_eq!(refused(take(request)), own(Full::Answers));
    let second = ask(&world.connect(6)).expect("there is room");
    let elsewhere: Vec<_> = (6..13)
        .flat_map(|host| {
            let request = ask(&world.connect(host)).expect("there is room");
            (0..8).map(move |_| request.answer(mib, Instant::now()).expect("there is room"))
        })
        .collect();
    assert_eq!(refused(take(&second)), all(Full::Answers));
    drop(here);
    assert!(take(&second).is_ok());
    drop((elsewhere, second, mine, place));
    let table = world.load.table();
    assert_eq!(table.all, Costs::default());
    assert!(table.networks.is_empty() && table.connections.is_empty());
}

#[test]
fn one_probe_of_each_connection_is_answered_whatever_is_full() {
    let world = World::new();
    let place = world.connect(1);
    let busy: Vec<_> = (0..REQUESTS_SHARE)
        .map(|_| place.begin(Purpose::Work).expect("there is room"))
        .collect();
    let hog: Vec<_> = (0..8)
        .map(|_| busy[0].answer(1 << 20, world.now).expect("there is room"))
        .collect();
    let probe = place.begin(Purpose::Probe).expect("always");
    let metrics = probe.answer(100 << 10, world.now).expect("always");
    assert_eq!(refused(place.begin(Purpose::Probe)).full, Full::Requests);
    drop((metrics, probe));
    assert!(place.begin(Purpose::Probe).is_ok());
    drop(hog);
}

#[test]
fn neighbours_in_one_ipv6_network_share() {
    let world = World::new();
    let connect = |host: u128| {
        let address = Ipv6Addr::from_bits((0x2001_0db8 << 96) | host);
        world.load.admit(address.into(), world.now)
    };
    let places: Vec<_> = (0..=SHARE as u128).map(connect).collect();
    assert_eq!(places.iter().filter(|place| is_ended(place)).count(), 1);
    assert_eq!(
        network("::ffff:192.0.2.1".parse().expect("an address")),
        IpAddr::from([192, 0, 2, 1])
    );
}
