use std::sync::atomic::Ordering;
use std::time::Instant;

use lvp_testkit::daemon::wait_for;
use lvp_testkit::inbox::{Inbox, Manner, Post};
use serde_json::{Value, json};

use super::*;
use crate::config::{LogFormat, LogOutput, LogSampling};
use crate::secret::SecretUrl;

fn logging(loki: Option<&Inbox>, webhook: Option<&Inbox>) -> Logging {
    let url = |inbox: &Inbox| {
        Url::parse(&format!("http://{}", inbox.authority()))
            .ok()
            .map(SecretUrl::new)
    };
    Logging {
        level: "info".to_owned(),
        format: LogFormat::Json,
        output: LogOutput::Stderr,
        file: None,
        sampling: LogSampling::All,
        loki_url: loki.and_then(url),
        loki_tenant: loki.map(|_| "team-a".to_owned()),
        webhook_url: webhook.and_then(url),
    }
}

fn bodies(posts: &[Post]) -> Vec<Value> {
    let body = |post: &Post| serde_json::from_slice(&post.body).expect("it is JSON");
    posts.iter().map(body).collect()
}

#[tokio::test]
async fn a_long_outage_drops_the_oldest_lines_and_never_delays_the_writer() {
    let mut inbox = Inbox::start().await.expect("a server");
    inbox.go_down().await;
    let sinks = Sinks::start(&logging(None, Some(&inbox))).expect("it starts");
    let writer = sinks.writer().expect("there is a sink");
    let total = 2_000 + LIMITS.queue_items;
    let began = Instant::now();
    for number in 0..total {
        writer.line(Level::INFO, &number.to_string());
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(1), "lines waited: {took:?}");
    inbox.come_up().await.expect("its port is free");
    let last = json!(total - 1);
    let received = wait_for("the last line", async || {
        let bodies = bodies(&inbox.taken());
        let lines: Vec<Value> = bodies
            .into_iter()
            .flat_map(|body| body.as_array().cloned().unwrap_or_default())
            .collect();
        (lines.last() == Some(&last)).then_some(lines)
    })
    .await;
    // All of the newest lines, once, in order, in batches.
    let expected: Vec<Value> = (2_000..total).map(|number| json!(number)).collect();
    assert!(received == expected, "{} lines came", received.len());
    assert_eq!(inbox.taken().len(), LIMITS.queue_items / LIMITS.batch_items);
    let (_, counts) = &sinks.counts()[0];
    assert_eq!(counts.overflowed.load(Ordering::Relaxed), 2_000);
    wait_for("the count", async || {
        let sent = counts.sent.load(Ordering::Relaxed);
        (sent == LIMITS.queue_items as u64).then_some(())
    })
    .await;
}

#[tokio::test]
async fn loki_gets_streams_of_few_labels_with_times_in_nanoseconds() {
    let inbox = Inbox::start().await.expect("a server");
    let sinks = Sinks::start(&logging(Some(&inbox), None)).expect("it starts");
    let writer = sinks.writer().expect("there is a sink");
    writer.line(Level::INFO, r#"{"job_id":"1"}"#);
    writer.line(Level::ERROR, r#"{"job_id":"1"}"#);
    writer.line(Level::INFO, r#"{"job_id":"2"}"#);
    sinks.close().await;
    let posts = inbox.taken();
    assert_eq!(posts.len(), 1, "{posts:?}");
    assert_eq!(posts[0].target, "/loki/api/v1/push");
    assert_eq!(posts[0].headers["content-type"], "application/json");
    assert_eq!(posts[0].headers["x-scope-orgid"], "team-a");
    let mut body = bodies(&posts).remove(0);
    let streams = body["streams"].as_array_mut().expect("there are streams");
    let mut times = Vec::new();
    for stream in &mut *streams {
        for value in stream["values"].as_array_mut().expect("there are values") {
            let time = value[0].take();
            let time = time.as_str().expect("it is text").to_owned();
            times.push(time.parse::<u128>().expect("it is a number"));
        }
        let instance = stream["stream"]["instance"].take();
        assert!(instance.is_string(), "{instance}");
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.expect("it is past 1970").as_nanos();
    assert!(
        times
            .iter()
            .all(|time| (now - 60_000_000_000..=now).contains(time))
    );
    let labels =
        |level| json!({"job": "libvirt-volume-provisioner", "instance": null, "level": level});
    let expected = json!([
        {"stream": labels("info"), "values": [[null, "{\"job_id\":\"1\"}"], [null, "{\"job_id\":\"2\"}"]]},
        {"stream": labels("error"), "values": [[null, "{\"job_id\":\"1\"}"]]},
    ]);
    assert_eq!(*streams, *expected.as_array().expect("it is one"));
}

#[tokio::test]
async fn closing_gives_a_silent_receiver_up_after_a_moment() {
    let inbox = Inbox::start().await.expect("a server");
    inbox.be(Manner::Silent);
    let sinks = Sinks::start(&logging(Some(&inbox), Some(&inbox))).expect("it starts");
    let writer = sinks.writer().expect("there are sinks");
    writer.line(Level::INFO, "1");
    let began = Instant::now();
    sinks.close().await;
    let took = began.elapsed();
    assert!(took < CLOSE_TIMEOUT + Duration::from_secs(1), "{took:?}");
    assert_eq!(inbox.requests(), 2);
}
