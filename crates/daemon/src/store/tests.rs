use lvp_api::JobId;

use super::schema::VERSION;
use super::*;
use crate::job::work::Work;
use crate::source::url::RequestedUrl;

struct Nobody;

impl Observer for Nobody {
    fn operation(&self, _: &'static str, _: Option<&'static str>) {}
}

fn event(receiver: &str, number: u32) -> NewEvent {
    NewEvent {
        receiver: receiver.to_owned(),
        event: "job.completed".to_owned(),
        delivery: number.to_string(),
        body: "{}".to_owned(),
        created_at: "2026-01-27T10:30:45.123Z".to_owned(),
    }
}

#[tokio::test]
async fn a_database_of_the_first_version_is_brought_up_with_what_it_holds() {
    let home = tempfile::tempdir().expect("there is room");
    let path = home.path().join("jobs.db");
    let old = Connection::open(&path).expect("it is made");
    old.execute_batch(include_str!("schema.sql"))
        .expect("the first version's tables");
    old.execute_batch(
        "PRAGMA user_version = 1; INSERT INTO images VALUES ('d', 'raw', 1, 'u', 1, 1, 'p', 'l')",
    )
    .expect("it is written");
    drop(old);
    let store = Store::open(&path, Arc::new(Nobody)).expect("it is brought up");
    assert_eq!(
        store
            .waiting_events("x".to_owned())
            .await
            .expect("the new table"),
        []
    );
    let health = check(&path).expect("it is sound");
    assert_eq!((health.version, health.images), (VERSION, 1));
    // The same again: nothing is left to do.
    drop(store);
    Store::open(&path, Arc::new(Nobody)).expect("it opens");
}

#[tokio::test]
async fn the_oldest_events_make_room_and_those_of_other_receivers_do_not() {
    let home = tempfile::tempdir().expect("there is room");
    let store = Store::open(&home.path().join("jobs.db"), Arc::new(Nobody)).expect("it is made");
    let events: Vec<_> = (0..EVENTS_MAX + 5)
        .map(|number| event("full", number))
        .chain([event("other", 0)])
        .collect();
    let dropped = store
        .write("test", move |transaction| {
            events::insert(transaction, &events)
        })
        .await;
    assert_eq!(dropped.expect("it is written"), 5);
    let waiting = store.waiting_events("full".to_owned()).await.expect("rows");
    assert_eq!(u32::try_from(waiting.len()), Ok(EVENTS_MAX));
    assert_eq!(waiting[0].delivery, "5");
    let other = store
        .waiting_events("other".to_owned())
        .await
        .expect("rows");
    assert_eq!(other.len(), 1);
    let gone = store.forget_other_receivers(vec!["full".to_owned()]).await;
    assert_eq!(gone.expect("it is written"), 1);
}

#[tokio::test]
async fn jobs_of_the_first_version_are_read_by_their_kind_and_an_unknown_kind_is_an_error() {
    let home = tempfile::tempdir().expect("there is room");
    let path = home.path().join("jobs.db");
    let old = Connection::open(&path).expect("it is made");
    old.execute_batch(include_str!("schema.sql"))
        .expect("the first version's tables");
    let (written, fetched, strange) = (JobId::random(), JobId::random(), JobId::random());
    for (id, kind, volume, size) in [
        (written, "provision", Some("vm"), Some(1_i64 << 30)),
        (fetched, "cache", None, None),
        (strange, "clone", Some("vm"), Some(1 << 30)),
    ] {
        old.execute(
            "INSERT INTO jobs (id, kind, state, image_url, image_type, volume_name, \
             volume_size_bytes, created_at, updated_at) \
             VALUES (?1, ?2, 'completed', 's3://images/a', 'raw', ?3, ?4, 't', 't')",
            rusqlite::params![id.to_string(), kind, volume, size],
        )
        .expect("it is written");
    }
    old.pragma_update(None, "user_version", 1)
        .expect("it is set");
    drop(old);
    let store = Store::open(&path, Arc::new(Nobody)).expect("it is brought up");
    let job = async |id| store.job(id).await;
    let work = job(written)
        .await
        .expect("it is read")
        .expect("a job")
        .spec
        .work;
    let volume = work.volume().expect("it has one");
    assert_eq!((volume.name.as_str(), volume.adopt), ("vm", false));
    assert_eq!(
        work.image().expect("it has one").url.to_string(),
        "s3://images/a"
    );
    let work = job(fetched)
        .await
        .expect("it is read")
        .expect("a job")
        .spec
        .work;
    assert!(matches!(work, Work::Fetch { .. }), "{work:?}");
    let unknown = job(strange).await.expect_err("it is not known");
    let unknown = crate::error::chain(&unknown);
    assert!(unknown.contains("clone"), "{unknown}");
}

#[tokio::test]
async fn encoded_s3_urls_of_the_sixth_version_go_on_to_name_the_same_objects() {
    let home = tempfile::tempdir().expect("there is room");
    let path = home.path().join("jobs.db");
    let old = Connection::open(&path).expect("it is made");
    for step in [
        include_str!("schema.sql"),
        include_str!("schema-2.sql"),
        include_str!("schema-3.sql"),
        include_str!("schema-4.sql"),
        include_str!("schema-5.sql"),
        include_str!("schema-6.sql"),
    ] {
        old.execute_batch(step).expect("a former version's step");
    }
    let urls = [
        ("s3://images/a%20b%252B%3Fc", "s3://images/a b%2B?c"),
        ("s3://images/a+b", "s3://images/a+b"),
        ("https://h/a%20b", "https://h/a%20b"),
    ];
    let mut jobs = Vec::new();
    for (url, now) in urls {
        let id = JobId::random();
        old.execute(
            "INSERT INTO jobs (id, kind, state, image_url, image_identity, image_type, volume_name, \
             volume_size_bytes, created_at, updated_at) \
             VALUES (?1, 'provision', 'running', ?2, ?3, 'raw', ?1, 1073741824, 't', 't')",
            rusqlite::params![id.to_string(), url, RequestedUrl::new(url).identity()],
        )
        .expect("it is written");
        old.execute(
            "INSERT INTO golden (digest, image_type, image_url, made_at, last_used_at) \
             VALUES (?1, 'raw', ?1, 't', 't')",
            [url],
        )
        .expect("it is written");
        jobs.push((id, url, now));
    }
    old.pragma_update(None, "user_version", 6)
        .expect("it is set");
    drop(old);
    let store = Store::open(&path, Arc::new(Nobody)).expect("it is brought up");
    let now = Connection::open(&path).expect("it is there");
    for (id, former, url) in jobs {
        let job = store.job(id).await.expect("it is read").expect("a job");
        let image = job.spec.work.image().expect("it has one").url.clone();
        assert_eq!(image.whole().as_deref(), Some(url));
        // A repeat with the former text, which means another object now, is another request.
        assert_eq!(image.identity(), RequestedUrl::new(url).identity());
        let kept: String = now
            .query_row(
                "SELECT image_url FROM golden WHERE digest = ?1",
                [former],
                |row| row.get(0),
            )
            .expect("it is there");
        assert_eq!(kept, url);
    }
}

#[tokio::test]
async fn a_rate_is_that_of_the_last_twenty_measurements_of_its_stage() {
    let home = tempfile::tempdir().expect("there is room");
    let store = Store::open(&home.path().join("jobs.db"), Arc::new(Nobody)).expect("it is made");
    let measured = |stage, bytes| Measurement {
        stage,
        bytes,
        took: std::time::Duration::from_secs(2),
    };
    let slow = vec![measured("download", 10); 30];
    let fast = vec![measured("download", 1000); 20];
    let all = [vec![measured("convert", 50)], slow, fast].concat();
    let written = store.write("test", move |transaction| {
        measurements::insert(transaction, &all)
    });
    written.await.expect("it is written");
    for (stage, rate) in [("download", 500.0), ("convert", 25.0)] {
        let found = store.stage_rate(stage).await.expect("it is read");
        assert!(
            found.is_some_and(|found| (found - rate).abs() < 1e-6),
            "{found:?}"
        );
    }
    assert_eq!(store.stage_rate("other").await.expect("it is read"), None);
}
