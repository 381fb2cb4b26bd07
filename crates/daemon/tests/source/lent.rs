//! Credentials that somebody lends: a token service, a container's agent, a virtual machine's metadata service.
//!
//! Of the servers in `stores`, moto has a token service that needs no issuer of tokens, but it reads parameters only from
//! a request's body, and `object_store` sends them in its query (AWS takes both). So the lenders are stand-ins that
//! answer as AWS documents it, and check what they are asked; what they lend is checked by a real server.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lvp_testkit::s3::{ACCESS_KEY, S3, SECRET_KEY};
use provisioner::source::{Lender, Source, SourceErrorKind, SourceSettings};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::{SOON, check_error, read_all, settings};

/// A request: its method and target, and its headers by their names in lower case.
#[derive(Debug, Clone)]
struct Asked {
    line: String,
    headers: BTreeMap<String, String>,
}

/// A stand-in for a lender.
struct Fake {
    endpoint: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Fake {
    async fn start(answer: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let (log, answer) = (Arc::clone(&asked), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => return,
                        }
                    }
                    let text = String::from_utf8(head).unwrap();
                    let mut lines = text.lines();
                    let line = lines.next().unwrap().to_owned();
                    let headers = lines.filter_map(|line| line.split_once(": "));
                    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.into()));
                    let headers = headers.collect();
                    let asked = Asked { line, headers };
                    let (status, body) = answer(&asked);
                    log.lock().unwrap().push(asked);
                    let answer = format!(
                        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                        body.len()
                    );
                    stream.write_all(answer.as_bytes()).await.ok();
                });
            }
        });
        Self { endpoint, asked }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn expiry(valid_for: Duration) -> String {
    (OffsetDateTime::now_utc() + valid_for)
        .format(&Rfc3339)
        .unwrap()
}

/// What metadata services and agents answer.
fn json(valid_for: Duration) -> String {
    format!(
        r#"{{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":"{ACCESS_KEY}","SecretAccessKey":"{SECRET_KEY}","Token":"lent","Expiration":"{}"}}"#,
        expiry(valid_for)
    )
}

async fn store() -> S3 {
    let s3 = S3::start().await.unwrap();
    s3.objects().put("images", "a.img", b"bytes").unwrap();
    s3
}

fn by(lender: Lender, endpoint: &str) -> Source {
    Source::new(&SourceSettings {
        access_key: None,
        secret_key: None,
        lender: Some(lender),
        ..settings(endpoint)
    })
    .unwrap()
}

async fn works(source: &Source) {
    let found = read_all(source, "s3://images/a.img").await;
    assert_eq!(found.unwrap(), b"bytes");
}

/// Works until the lender has been asked again, which it is soon.
async fn asks_again(source: &Source, fake: &Fake, before: usize) {
    let deadline = Instant::now() + SOON;
    while fake.asked().len() == before {
        assert!(Instant::now() < deadline, "nobody was asked again");
        works(source).await;
    }
}

fn token_file(directory: &Path, text: &str) -> PathBuf {
    let file = directory.join("token");
    fs::write(&file, text).unwrap();
    file
}

#[tokio::test]
async fn a_virtual_machine_s_role_signs_and_is_asked_for_again_before_it_expires() {
    let s3 = store().await;
    for (valid_for, again) in [(3600, false), (60, true)] {
        let fake = Fake::start(move |asked| match asked.line.as_str() {
            "PUT /latest/api/token HTTP/1.1" => (200, "session".to_owned()),
            // Version 1 is refused.
            _ if asked
                .headers
                .get("x-aws-ec2-metadata-token")
                .map(String::as_str)
                != Some("session") =>
            {
                (401, String::new())
            }
            "GET /latest/meta-data/iam/security-credentials/ HTTP/1.1" => (200, "role".to_owned()),
            "GET /latest/meta-data/iam/security-credentials/role HTTP/1.1" => {
                (200, json(Duration::from_secs(valid_for)))
            }
            _ => (404, String::new()),
        })
        .await;
        let metadata_endpoint = fake.endpoint.clone();
        let source = by(Lender::Instance { metadata_endpoint }, s3.endpoint());
        works(&source).await;
        let before = fake.asked().len();
        assert!(before >= 3, "{before}");
        // Those that are nearly used up are kept for a moment only.
        match again {
            true => asks_again(&source, &fake, before).await,
            false => {
                works(&source).await;
                assert_eq!(fake.asked().len(), before);
            }
        }
    }
}

#[tokio::test]
async fn a_container_s_agent_is_asked_with_the_token_of_its_file() {
    let s3 = store().await;
    let directory = tempfile::tempdir().unwrap();
    let fake = Fake::start(|asked| {
        let token = asked.headers.get("authorization").map(String::as_str);
        match (asked.line.as_str(), token) {
            ("GET /v1/credentials HTTP/1.1", Some("first" | "second")) => {
                (200, json(Duration::from_secs(60)))
            }
            _ => (403, String::new()),
        }
    })
    .await;
    let file = token_file(directory.path(), "first");
    let source = by(
        Lender::Container {
            uri: format!("{}/v1/credentials", fake.endpoint),
            token_file: Some(file),
        },
        s3.endpoint(),
    );
    works(&source).await;
    // It is read again each time.
    token_file(directory.path(), "second");
    asks_again(&source, &fake, fake.asked().len()).await;
    let last = fake.asked().pop().unwrap();
    assert_eq!(last.headers["authorization"], "second");
    token_file(directory.path(), "third");
    let error = loop {
        // What was lent last is good for a moment.
        if let Err(error) = read_all(&source, "s3://images/a.img").await {
            break error;
        }
    };
    check_error(
        &error,
        SourceErrorKind::Unavailable,
        "minio.container_credentials",
    );
}

#[tokio::test]
async fn a_token_service_gives_credentials_for_the_token_in_a_file() {
    let s3 = store().await;
    let directory = tempfile::tempdir().unwrap();
    let fake = Fake::start(|asked| {
        let target = asked.line.split(' ').nth(1).unwrap_or_default();
        let url = reqwest::Url::parse("http://x").unwrap().join(target).unwrap();
        let asked: BTreeMap<_, _> = url.query_pairs().into_owned().collect();
        let is = |name: &str, value: &str| asked.get(name).map(String::as_str) == Some(value);
        let is_right = is("Action", "AssumeRoleWithWebIdentity")
            && is("Version", "2011-06-15")
            && is("RoleArn", "arn:aws:iam::123456789012:role/r")
            && is("WebIdentityToken", "who I am");
        match is_right {
            true => (
                200,
                format!(
                    "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
                     <SessionToken>lent</SessionToken><SecretAccessKey>{SECRET_KEY}</SecretAccessKey>\
                     <Expiration>{}</Expiration><AccessKeyId>{ACCESS_KEY}</AccessKeyId></Credentials>\
                     </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
                    expiry(Duration::from_secs(3600))
                ),
            ),
            false => (403, "<Error/>".to_owned()),
        }
    })
    .await;
    let lender = |token_file: PathBuf| Lender::WebIdentity {
        role_arn: "arn:aws:iam::123456789012:role/r".to_owned(),
        token_file,
        sts_endpoint: fake.endpoint.clone(),
    };
    let file = token_file(directory.path(), "who I am");
    works(&by(lender(file.clone()), s3.endpoint())).await;
    fs::remove_file(&file).unwrap();
    let error = read_all(&by(lender(file), s3.endpoint()), "s3://images/a.img").await;
    check_error(
        &error.unwrap_err(),
        SourceErrorKind::Unavailable,
        "minio.sts_endpoint",
    );
}
