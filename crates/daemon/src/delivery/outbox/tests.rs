use super::*;

const LIMITS: Limits = Limits {
    queue_items: 4,
    queue_bytes: 100,
    batch_items: 3,
    batch_bytes: 50,
    linger: Duration::from_secs(1),
    backoff_min: Duration::from_secs(1),
    backoff_max: Duration::from_secs(4),
    attempt_timeout: Duration::from_secs(10),
};

type Answers = Arc<Mutex<VecDeque<Outcome>>>;
type Seen = Arc<Mutex<Vec<(u64, Vec<u32>)>>>;

/// Answers as configured, then accepts everything. Records when it was called and with what.
struct Script {
    began: tokio::time::Instant,
    answers: Answers,
    seen: Seen,
}

impl Receiver<u32> for Script {
    async fn deliver(&self, batch: &[u32]) -> Outcome {
        let second = self.began.elapsed().as_secs();
        self.seen
            .lock()
            .expect("no panic")
            .push((second, batch.to_vec()));
        let answer = self.answers.lock().expect("no panic").pop_front();
        answer.unwrap_or(Outcome::Delivered)
    }
}

fn start(answers: Vec<Outcome>) -> (Running<u32>, Seen) {
    let seen = Seen::default();
    let script = Script {
        began: tokio::time::Instant::now(),
        answers: Arc::new(Mutex::new(answers.into())),
        seen: Arc::clone(&seen),
    };
    (Arc::new(Outbox::new("a test", LIMITS)).start(script), seen)
}

fn failed(wait: Option<Duration>) -> Outcome {
    let why = "It is down".to_owned();
    Outcome::Failed { why, wait }
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn items_wait_a_moment_for_others_and_a_full_batch_does_not_wait() {
    let (running, seen) = start(Vec::new());
    running.outbox().push(1, 10);
    tokio::time::sleep(Duration::from_millis(500)).await;
    running.outbox().push(2, 10);
    tokio::time::sleep(Duration::from_secs(3)).await;
    for item in 3..6 {
        running.outbox().push(item, 10);
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    let expected = vec![(1, vec![1, 2]), (3, vec![3, 4, 5])];
    assert_eq!(*seen.lock().expect("no panic"), expected);
    assert_eq!(count(&running.outbox().counts().sent), 5);
}

#[tokio::test(start_paused = true)]
async fn a_failed_batch_is_sent_again_after_growing_waits_and_the_oldest_items_are_dropped() {
    let (running, seen) = start(vec![failed(None); 4]);
    for item in 1..4 {
        running.outbox().push(item, 10);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    // One more than there is room for: item 1 is dropped, though it is being sent.
    running.outbox().push(4, 10);
    running.outbox().push(5, 10);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let seen = seen.lock().expect("no panic").clone();
    let batches: Vec<_> = seen.iter().map(|(_, batch)| batch.clone()).collect();
    let again = vec![2, 3, 4];
    let expected = [
        vec![1, 2, 3],
        again.clone(),
        again.clone(),
        again.clone(),
        again,
        vec![5],
    ];
    assert_eq!(batches, expected);
    let waits: Vec<_> = seen.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    // 1, 2, 4 and 4 s with up to a fifth more.
    assert!(waits[0] <= 1 && (2..=3).contains(&waits[1]), "{waits:?}");
    assert!(
        (4..=5).contains(&waits[2]) && (4..=5).contains(&waits[3]),
        "{waits:?}"
    );
    let counts = running.outbox().counts();
    assert_eq!((count(&counts.overflowed), count(&counts.sent)), (1, 4));
}

#[tokio::test(start_paused = true)]
async fn retry_after_lengthens_a_wait_within_bounds() {
    let asked = |secs| failed(Some(Duration::from_secs(secs)));
    let (running, seen) = start(vec![asked(3), asked(3600)]);
    for item in 1..4 {
        running.outbox().push(item, 10);
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    let seen = seen.lock().expect("no panic").clone();
    assert!((3..=4).contains(&(seen[1].0 - seen[0].0)), "{seen:?}");
    assert!((4..=5).contains(&(seen[2].0 - seen[1].0)), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_batch_is_not_sent_again() {
    let (running, seen) = start(vec![Outcome::Refused("It is malformed".to_owned())]);
    running.outbox().push(1, 10);
    tokio::time::sleep(Duration::from_secs(5)).await;
    running.outbox().push(2, 10);
    assert_eq!(running.close(Duration::from_secs(1)).await, 0);
    let batches: Vec<_> = seen
        .lock()
        .expect("no panic")
        .iter()
        .map(|s| s.1.clone())
        .collect();
    assert_eq!(batches, [[1], [2]]);
}

#[tokio::test(start_paused = true)]
async fn bytes_bound_the_queue_and_the_batch_and_a_large_item_goes_alone() {
    let (running, seen) = start(Vec::new());
    running.outbox().push(1, 60);
    running.outbox().push(2, 30);
    running.outbox().push(3, 30);
    tokio::time::sleep(Duration::from_secs(5)).await;
    // 120 bytes are too many for the queue; 90 for one batch.
    assert_eq!(
        *seen.lock().expect("no panic"),
        [(0, vec![2]), (1, vec![3])]
    );
    running.outbox().push(4, 60);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(seen.lock().expect("no panic")[2].1, [4]);
    assert_eq!(count(&running.outbox().counts().overflowed), 1);
}

#[tokio::test(start_paused = true)]
async fn closing_sends_what_is_left_without_lingering_and_gives_up_in_time() {
    let (running, seen) = start(vec![failed(None)]);
    running.outbox().push(1, 10);
    let began = tokio::time::Instant::now();
    assert_eq!(running.close(Duration::from_secs(3)).await, 0);
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(seen.lock().expect("no panic").len(), 2);

    let (running, _) = start(vec![failed(None); 1000]);
    running.outbox().push(1, 10);
    let began = tokio::time::Instant::now();
    assert_eq!(running.close(Duration::from_secs(3)).await, 1);
    assert_eq!(began.elapsed(), Duration::from_secs(3));
}

/// Takes its time, then everything.
struct Slow;

impl Receiver<u32> for Slow {
    async fn deliver(&self, _: &[u32]) -> Outcome {
        tokio::time::sleep(Duration::from_secs(5)).await;
        Outcome::Delivered
    }
}

#[tokio::test(start_paused = true)]
async fn every_item_is_counted_once_even_if_it_was_dropped_while_being_sent() {
    let running = Arc::new(Outbox::new("a test", LIMITS)).start(Slow);
    for item in 0..7 {
        if item == 3 {
            // The first three items are a batch that is being sent.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        running.outbox().push(item, 10);
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let counts = running.outbox().counts();
    assert_eq!((count(&counts.overflowed), count(&counts.sent)), (3, 4));
}
