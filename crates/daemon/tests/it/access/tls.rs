//! Access over TLS: client certificates, renewed certificates, and what the metrics say of them.

use super::*;

#[tokio::test]
async fn over_tls_a_valid_certificate_or_a_token_is_accepted_and_an_invalid_certificate_ends_the_connection()
 {
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let world = with_tls(
        with_tokens(World::new().await, &both_tokens()),
        &ours,
        &ours,
    );
    let daemon = world.start();
    let base = https(&daemon);
    let bearer_full = format!("Bearer {FULL}");
    let bearer_read = format!("Bearer {READ}");
    let good = issue(&ours, "terraform", 30);
    for (certificate, token, caller) in [
        (None, None, Caller::Nobody),
        (None, Some(&bearer_read), Caller::Reader),
        (None, Some(&bearer_full), Caller::Full),
        (Some(&good), None, Caller::Full),
        (Some(&good), Some(&bearer_read), Caller::Full),
    ] {
        let client = client(&ours, certificate);
        for (class, method, route) in ROUTES {
            let header = token.map(|token| ("authorization", token.as_str()));
            let answer = call(&client, &base, (method, route), header).await;
            let expected = expected(caller, class);
            assert_eq!(
                answer.status, expected,
                "{caller:?} {method} {route}: {answer:?}"
            );
        }
    }
    let bad = [
        ("another CA's", issue(&theirs, "terraform", 30)),
        ("expired", issue(&ours, "terraform", -1)),
    ];
    for (what, certificate) in &bad {
        let client = client(&ours, Some(certificate));
        // Not even with a token, or on open routes: a certificate that is presented must be valid.
        for route in ["/health", "/api/v1/jobs"] {
            let request = client.get(format!("{base}{route}")).bearer_auth(FULL);
            let sent = request.send().await;
            assert!(sent.is_err(), "{what} certificate on {route}: {sent:?}");
        }
    }
    let principals: Vec<_> = audit(&daemon)
        .iter()
        .map(|line| line["principal"].clone())
        .collect();
    for expected in ["unknown", "token:grafana", "token:ci", "cert:terraform"] {
        assert!(principals.contains(&expected.into()), "{principals:?}");
    }
    // This port does not accept plain HTTP.
    assert!(
        reqwest::get(format!("{}/health", daemon.url()))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_new_certificate_and_a_new_client_ca_take_effect_without_a_restart() {
    let (old, new) = (authority("old"), authority("new"));
    let world = with_tls(World::new().await, &old, &old);
    let daemon = world.start();
    let base = https(&daemon);
    let route = ("GET", "/api/v1/jobs");
    let (old_client, new_client) = (issue(&old, "old", 30), issue(&new, "new", 30));
    let answer = call(&client(&old, Some(&old_client)), &base, route, None).await;
    assert_eq!(answer.status, 200);
    let refused = client(&old, Some(&new_client)).get(format!("{base}/health"));
    assert!(refused.send().await.is_err());

    let (certificate, key) = issue(&new, "server", 30);
    write(world.home.path(), "server.pem", &certificate, 0o600);
    write(world.home.path(), "server.key", &key, 0o600);
    write(world.home.path(), "ca.pem", &new.pem(), 0o600);
    daemon.signal("HUP").expect("it is sent");
    wait_for("the new certificates to count", async || {
        let client = client(&new, Some(&new_client));
        let request = client.get(format!("{base}/api/v1/jobs")).send();
        let status = request.await.ok()?.status();
        (status == 200).then_some(())
    })
    .await;
    let refused = client(&new, Some(&old_client)).get(format!("{base}/health"));
    assert!(refused.send().await.is_err());
}

#[tokio::test]
async fn a_client_ca_without_a_server_certificate_is_refused_by_name() {
    let world = World::new().await.with("CLIENT_CA_CERT", "/etc/ca.pem");
    let error = world.home.start().expect_err("no TLS to show it on");
    let error = error.to_string();
    assert!(
        error.contains("server.ca_cert needs server.tls_cert"),
        "{error}"
    );
}

#[tokio::test]
async fn certificate_expiry_and_failed_attempts_are_in_the_metrics() {
    let ours = authority("ours");
    let world = with_tls(
        with_tokens(World::new().await, &both_tokens()),
        &ours,
        &ours,
    );
    let daemon = world.start().over_tls(client(&ours, None));
    let anonymous = client(&ours, None);
    let jobs = format!("{}/api/v1/jobs", daemon.url());
    for token in [None, Some("wrong"), Some(READ)] {
        let mut request = anonymous.post(&jobs);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request.send().await.expect("an answer");
    }
    let expired = client(&ours, Some(&issue(&ours, "terraform", -1)));
    assert!(expired.get(&jobs).send().await.is_err());
    for reason in ["missing", "token", "role", "certificate"] {
        let series = format!("access_failures_total{{reason=\"{reason}\"}}");
        // The server may learn after its client that a handshake failed.
        wait_for(reason, async || {
            (metric(&daemon, &series).await? == 1.0).then_some(())
        })
        .await;
    }
    let limited = metric(&daemon, r#"access_failures_total{reason="limited"}"#).await;
    assert_eq!(limited, Some(0.0));
    let now = time::OffsetDateTime::now_utc().unix_timestamp() as f64;
    let series = |name| format!("certificate_expiry_timestamp_seconds{{certificate=\"{name}\"}}");
    let days = async |name| (metric(&daemon, &series(name)).await.expect(name) - now) / 86_400.0;
    let server = days("server").await;
    assert!((29.9..30.1).contains(&server), "{server} days");
    assert!(days("client_ca").await > 365.0);

    // A renewed one is seen without a restart.
    let (certificate, key) = issue(&ours, "server", 90);
    write(world.home.path(), "server.pem", &certificate, 0o600);
    write(world.home.path(), "server.key", &key, 0o600);
    daemon.signal("HUP").expect("it is sent");
    wait_for("the new end", async || {
        (days("server").await > 89.0).then_some(())
    })
    .await;
}
