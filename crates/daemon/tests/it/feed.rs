//! All jobs' events, filtered lists, and retries of failed jobs.

use std::time::Duration;

use lvp_api::{JobState, JobStatus};
use lvp_testkit::daemon::{Daemon, wait_for};
use lvp_testkit::fault::{Fault, Rule};
use reqwest::{Client, Response};
use serde_json::{Value, json};

use crate::access::{FULL, READ};
use crate::certificates::with_tokens;
use crate::support::{self, MIB, World, address, image};

/// A client that follows all jobs.
struct Follower {
    answer: Response,
    rest: String,
}

/// An event: its id, its name, its data.
type Event = (String, String, Value);

impl Follower {
    async fn after(daemon: &Daemon, last: Option<&str>) -> Self {
        let mut request = Client::new().get(format!("{}/api/v1/events", daemon.url()));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        Self {
            answer,
            rest: String::new(),
        }
    }

    /// The next event; None at the end of the stream.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let whole = self.rest.split_once("\n\n");
            let whole = whole.map(|(block, rest)| (block.to_owned(), rest.to_owned()));
            if let Some((block, rest)) = whole {
                let field = |name: &str| {
                    let mut values = block.lines().filter_map(|line| line.strip_prefix(name));
                    values.next().unwrap_or_default().trim().to_owned()
                };
                let (id, event, data) = (field("id:"), field("event:"), field("data:"));
                self.rest = rest;
                if !data.is_empty() {
                    let data = serde_json::from_str(&data).expect("JSON");
                    return Some((id, event, data));
                }
                continue;
            }
            let chunk = tokio::time::timeout(Duration::from_secs(60), self.answer.chunk());
            let chunk = chunk.await.expect("an event in time").ok().flatten()?;
            self.rest += std::str::from_utf8(&chunk).expect("UTF-8");
        }
    }

    /// Reads until a job has ended. Returns each of its statuses.
    async fn until_end(&mut self, job: &str) -> Vec<(String, JobStatus)> {
        let mut told = Vec::new();
        loop {
            let (id, event, data) = self.next().await.expect("the stream goes on");
            assert_eq!(event, "job");
            let status: JobStatus = serde_json::from_value(data).expect("a status");
            if status.job_id.to_string() != job {
                continue;
            }
            let ended = status.status.is_terminal();
            told.push((id, status));
            if ended {
                return told;
            }
        }
    }
}

async fn world() -> (World, String) {
    let world = World::new().await;
    let url = world.put("a.qcow2", &image(8 * MIB, 20, 3).build());
    (world, url)
}

async fn ended(daemon: &Daemon, url: &str, volume: &str) -> JobStatus {
    support::ended(daemon, url, volume, 8 * MIB).await
}

#[tokio::test]
async fn a_client_that_follows_all_jobs_sees_each_of_them_end() {
    let (world, url) = world().await;
    let daemon = world.start();
    let mut follower = Follower::after(&daemon, None).await;
    let (_, event, _) = follower.next().await.expect("a first event");
    assert_eq!(event, "reset", "a new client lists the jobs first");
    let job = daemon
        .provision(&url, "vm-1", 8 * MIB)
        .await
        .expect("accepted");
    let told = follower.until_end(&job).await;
    let (_, last) = told.last().expect("its event has arrived");
    assert_eq!(last.status, JobState::Completed);
    assert_eq!(*last, daemon.status(&job).await.expect("a status"));
}

#[tokio::test]
async fn a_returning_client_continues_where_it_was_and_begins_anew_after_a_restart() {
    let (world, url) = world().await;
    let daemon = world.start();
    let mut follower = Follower::after(&daemon, None).await;
    let (begin, ..) = follower.next().await.expect("a first event");
    drop(follower);
    let (first, second) = (
        ended(&daemon, &url, "vm-1").await,
        ended(&daemon, "s3://images/none.qcow2", "vm-2").await,
    );
    // Each job once, in its current state, in the order of their ends.
    let mut follower = Follower::after(&daemon, Some(&begin)).await;
    let told = follower.until_end(&first.job_id.to_string()).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].1, first);
    let seen = told[0].0.clone();
    let mut again = Follower::after(&daemon, Some(&seen)).await;
    let (_, _, data) = again.next().await.expect("what came after that");
    assert_eq!(data["job_id"], json!(second.job_id.to_string()));
    assert_eq!(data["remedy"], json!(second.remedy));

    // The streams end with the daemon, and do not delay its end.
    daemon.signal("TERM").expect("it is told");
    while follower.next().await.is_some() {}
    daemon.wait().expect("it ends");
    let daemon = world.start();
    for unknown in [seen.as_str(), "nonsense", "7"] {
        let mut follower = Follower::after(&daemon, Some(unknown)).await;
        let (_, event, _) = follower.next().await.expect("a first event");
        assert_eq!(event, "reset", "{unknown}");
    }
}

#[tokio::test]
async fn a_client_that_never_reads_delays_nobody_and_takes_bounded_memory() {
    let (world, url) = world().await;
    let daemon = world.start();
    let slow = Follower::after(&daemon, None).await;
    for round in 0..20 {
        let status = ended(&daemon, &url, &format!("vm-{}", round % 3)).await;
        assert_eq!(status.status, JobState::Completed);
    }
    let mut quick = Follower::after(&daemon, None).await;
    assert_eq!(quick.next().await.expect("an event").1, "reset");
    drop(slow);
}

#[tokio::test]
async fn jobs_are_listed_by_state_volume_image_text_and_time() {
    let (world, url) = world().await;
    let daemon = world.start();
    let first = ended(&daemon, &url, "web-1").await;
    let second = ended(&daemon, "s3://images/Other.qcow2", "web-2").await;
    let third = ended(&daemon, &url, "db-1").await;
    let listed = async |query: &str| {
        let answer = daemon
            .call("GET", &format!("/api/v1/jobs?{query}"), None)
            .await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 200, "{query}: {answer:?}");
        let jobs = answer.body["jobs"].as_array().expect("jobs").iter();
        let name = |job: &Value| job["volume_name"].as_str().expect("a name").to_owned();
        let names: Vec<String> = jobs.map(name).collect();
        assert_eq!(answer.body["total"], json!(names.len()), "{query}");
        names
    };
    let id = second.job_id.to_string();
    for (query, expected) in [
        ("status=failed".to_owned(), vec!["web-2"]),
        (
            "status=failed,completed".to_owned(),
            vec!["db-1", "web-2", "web-1"],
        ),
        ("volume=web-1".to_owned(), vec!["web-1"]),
        ("volume=web".to_owned(), vec![]),
        ("image=other".to_owned(), vec!["web-2"]),
        ("q=WEB".to_owned(), vec!["web-2", "web-1"]),
        (format!("q={}", &id[..13]), vec!["web-2"]),
        ("q=nosuchkey".to_owned(), vec!["web-2"]),
        ("q=%25".to_owned(), vec![]),
        (
            format!("since={}", second.created_at),
            vec!["db-1", "web-2"],
        ),
        (format!("until={}", second.created_at), vec!["web-1"]),
        (
            format!("since={}&status=completed", second.created_at),
            vec!["db-1"],
        ),
    ] {
        assert_eq!(listed(&query).await, expected, "{query}");
    }
    assert!(first.created_at < second.created_at && second.created_at < third.created_at);
    for (query, part) in [
        ("status=failed,other", "status: "),
        ("status=", "status: "),
        ("since=yesterday", "since: must be a time such as"),
        ("until=2026-01-27T10:30:00+01:00", "%2B"),
        (
            "until=9999-12-31T23:59:59-23:59",
            "until: must be a time such as",
        ),
        ("volumes=web-1", "volumes"),
    ] {
        let answer = daemon
            .call("GET", &format!("/api/v1/jobs?{query}"), None)
            .await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 400, "{query}");
        let message = answer.body["message"].as_str().expect("a message");
        assert!(message.contains(part), "{query}: {message}");
    }
}

#[tokio::test]
async fn a_failed_job_is_retried_as_a_new_job_for_the_same_request() {
    let (world, proxy) = World::with_faults().await;
    let daemon = world.start();
    let failed = ended(&daemon, "s3://images/late.qcow2", "vm-1").await;
    assert_eq!(failed.status, JobState::Failed);
    let retry = async |id: &str| {
        let answer = daemon
            .call("POST", &format!("/api/v1/jobs/{id}/retry"), None)
            .await;
        answer.expect("an answer")
    };
    world.put("late.qcow2", &image(8 * MIB, 20, 3).build());
    // It takes seconds.
    proxy.inject(
        Rule::new(Fault::Slow(200_000))
            .when(|request| request.target.ends_with("late.qcow2") && request.method == "GET"),
    );
    let old = failed.job_id.to_string();
    let answer = retry(&old).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let new = answer.body["job_id"].as_str().expect("an id").to_owned();
    assert_ne!(new, old);
    // Two clicks yield one job.
    let twice = retry(&old).await;
    assert_eq!(twice.status, 409, "{twice:?}");
    assert!(
        twice.body["message"].as_str().expect("text").contains(&new),
        "{twice:?}"
    );
    // It has not failed yet, so there is nothing to retry.
    let early = retry(&new).await;
    assert_eq!(early.status, 400, "{early:?}");
    let status = daemon.ended(&new).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert_eq!(status.volume_name, failed.volume_name);
    assert_eq!(retry(&new).await.status, 400);
    assert_eq!(
        retry("6c8a5b4e-0d6f-4a53-9d5b-0f4e1f6b7a01").await.status,
        404
    );
    // The old one is still what it was.
    assert_eq!(daemon.status(&old).await.expect("a status"), failed);
}

#[tokio::test]
async fn a_retry_is_repeated_by_its_key_and_overwrites_no_later_jobs_volume() {
    let (world, url) = world().await;
    let daemon = world.start();
    let failed = ended(&daemon, "s3://images/late.qcow2", "vm-1").await;
    let cancelled = ended(&daemon, "s3://images/late.qcow2", "vm-2").await;
    let retry = async |job: &JobStatus, key: &str| {
        let route = format!("{}/api/v1/jobs/{}/retry", daemon.url(), job.job_id);
        let request = Client::new().post(route).header("idempotency-key", key);
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.expect("JSON"))
    };
    let (status, first) = retry(&cancelled, "a").await;
    assert_eq!(status, 202, "{first}");
    let id = first["job_id"].as_str().expect("an id");
    daemon.ended(id).await.expect("it ends");
    let (status, again) = retry(&cancelled, "a").await;
    assert_eq!((status, &again["job_id"]), (202, &first["job_id"]));
    assert_eq!(retry(&cancelled, " ").await.0, 400, "an empty key");
    // The volume has another image by now.
    let later = ended(&daemon, &url, "vm-1").await;
    assert_eq!(later.status, JobState::Completed);
    let (status, refused) = retry(&failed, "b").await;
    assert_eq!(status, 409, "{refused}");
    let message = refused["message"].as_str().expect("a message");
    assert!(message.contains(&later.job_id.to_string()), "{message}");
}

#[tokio::test]
async fn a_stream_ends_when_its_token_is_no_longer_known() {
    let (world, url) = world().await;
    let tokens = |names: &str| format!("ci:provision:{FULL}\n{names}");
    let world = with_tokens(world, &tokens(&format!("grafana:read:{READ}\n")));
    let daemon = world.start().with_token(FULL);
    let request = Client::new().get(format!("{}/api/v1/events", daemon.url()));
    let answer = request.bearer_auth(READ).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let mut follower = Follower {
        answer,
        rest: String::new(),
    };
    assert_eq!(follower.next().await.expect("a first event").1, "reset");
    let file = world.home.path().join("tokens");
    std::fs::write(file, tokens("")).expect("it is written");
    wait_for("the token to be unknown", async || {
        let request = Client::new().get(format!("{}/api/v1/jobs", daemon.url()));
        let answer = request.bearer_auth(READ).send().await.ok()?;
        (answer.status() == 401).then_some(())
    })
    .await;
    // Checked again with a change, once the last check is old.
    let mut volume = 0;
    wait_for("the stream to end", async || {
        volume += 1;
        ended(&daemon, &url, &format!("vm-{}", volume % 2)).await;
        let next = tokio::time::timeout(Duration::from_millis(500), follower.answer.chunk()).await;
        matches!(next, Ok(Ok(None) | Err(_))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_job_of_a_signed_url_is_not_retried_without_its_signature() {
    // The daemon's own endpoint is the proxy; the store itself is another host to it.
    let (world, _proxy) = World::with_faults().await;
    let store = address(&world.s3).to_string();
    let world = world.with("MINIO_ALLOWED_HOSTS", &store);
    let daemon = world.start();
    let url = format!(
        "{}/images/none.qcow2?X-Amz-Signature=0123&file=a",
        world.s3.endpoint()
    );
    let failed = ended(&daemon, &url, "vm-1").await;
    assert_eq!(failed.status, JobState::Failed);
    for _ in 0..2 {
        let route = format!("/api/v1/jobs/{}/retry", failed.job_id);
        let answer = daemon.call("POST", &route, None).await.expect("an answer");
        assert_eq!(answer.status, 400, "{answer:?}");
        let message = answer.body["message"].as_str().expect("a message");
        assert!(
            message.contains("send the whole request again"),
            "{message}"
        );
    }
    wait_for("no job of it", async || {
        let answer = daemon.call("GET", "/api/v1/jobs", None).await.ok()?;
        (answer.body["total"] == json!(1)).then_some(())
    })
    .await;
}
