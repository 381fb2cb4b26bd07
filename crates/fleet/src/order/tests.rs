use super::*;

pub(crate) fn order() -> Order {
    Order {
        id: "debian-13".parse().unwrap(),
        revision: 1,
        action: Action::Follow,
        kind: OrderKind::Prewarm,
        target: Target::All,
        image: Image {
            url: Some("s3://images/debian.qcow2".to_owned()),
            image_type: ImageType::Qcow2,
            sha256: Sha256Digest::new([7; 32]),
        },
        volumes: Vec::new(),
        wave: None,
        jitter_seconds: 0,
        bytes_per_sec: None,
        issued_at: 1000,
        deadline: 2000,
        issuer: "ops".to_owned(),
    }
}

fn changed(change: impl FnOnce(&mut Order)) -> Result<(), OrderError> {
    let mut order = order();
    change(&mut order);
    order.check()
}

fn volume(name: &str, size_bytes: u64) -> Volume {
    Volume {
        name: name.parse().unwrap(),
        size_bytes,
    }
}

#[test]
fn each_rule_is_checked() {
    assert_eq!(order().check(), Ok(()));
    assert_eq!(
        changed(|order| order.revision = 0),
        Err(OrderError::Revision)
    );
    assert_eq!(
        changed(|order| order.revision = NUMBER_MAX + 1),
        Err(OrderError::Number)
    );
    assert_eq!(
        changed(|order| order.image.url = None),
        Err(OrderError::NoUrl)
    );
    let evict = changed(|order| {
        order.kind = OrderKind::Evict;
        order.image.url = None;
    });
    assert_eq!(evict, Ok(()));
    for url in ["", "s3://a b", "s3://a\n"] {
        let bad = changed(|order| order.image.url = Some(url.to_owned()));
        assert_eq!(bad, Err(OrderError::BadUrl), "{url:?}");
    }
    for url in [
        "https://user:word@host/a",
        "https://host/a?X-Amz-Signature=1",
        "https://host/a?sig=1",
        "https://host/a?%73ig=1",
        "https://host/a?X-Amz-%53ignature=1",
        "https://host/a?sig%3D1",
    ] {
        let secret = changed(|order| order.image.url = Some(url.to_owned()));
        assert_eq!(secret, Err(OrderError::CredentialInUrl), "{url}");
    }
    let versioned = changed(|order| order.image.url = Some("s3://a/b?versionId=7".to_owned()));
    assert_eq!(versioned, Ok(()));
    let none = changed(|order| order.kind = OrderKind::Provision);
    assert_eq!(none, Err(OrderError::Volumes));
    let extra = changed(|order| order.volumes = vec![volume("a", 1)]);
    assert_eq!(extra, Err(OrderError::Volumes));
    let twice = changed(|order| {
        order.kind = OrderKind::Provision;
        order.volumes = vec![volume("a", 1), volume("a", 2)];
    });
    assert!(matches!(twice, Err(OrderError::VolumeTwice(_))));
    let empty = changed(|order| {
        order.kind = OrderKind::Provision;
        order.volumes = vec![volume("a", 0)];
    });
    assert!(matches!(empty, Err(OrderError::NoSize(_))));
    let wave = |hosts_at_once, silence_seconds| {
        changed(|order| {
            order.wave = Some(Wave {
                hosts_at_once,
                max_failures: None,
                silence_seconds,
            });
        })
    };
    let rate = |rate| changed(|order| order.bytes_per_sec = Some(rate));
    for low in [0, 1, RATE_MIN - 1] {
        assert_eq!(rate(low), Err(OrderError::NoRate), "{low}");
    }
    assert_eq!(rate(RATE_MIN), Ok(()));
    assert_eq!(rate(NUMBER_MAX + 1), Err(OrderError::Number));
    assert_eq!(wave(0, 30), Err(OrderError::NoPlace));
    assert_eq!(wave(1, 2), Err(OrderError::Silence));
    assert_eq!(wave(1, 30), Ok(()));
    assert_eq!(
        changed(|order| order.deadline = 1000),
        Err(OrderError::Deadline)
    );
    assert_eq!(
        changed(|order| order.issuer = "a\nb".to_owned()),
        Err(OrderError::Issuer)
    );
}

#[test]
fn keys_of_jobs_name_order_revision_and_target() {
    let mut order = order();
    let digest = "07".repeat(32);
    assert_eq!(order.job_targets(), [digest.as_str()]);
    assert_eq!(order.job_key("vm"), "fleet:debian-13:1:vm");
    order.kind = OrderKind::Provision;
    order.volumes = vec![volume("a", 1), volume("b", 1)];
    assert_eq!(order.job_targets(), ["a", "b"]);
}
