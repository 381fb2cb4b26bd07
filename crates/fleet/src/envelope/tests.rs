//! Forged, foreign and changed messages.

use proptest::prelude::*;

use super::*;
use crate::names::Target;
use crate::order::tests::order;
use crate::order::{Action, NUMBER_MAX, OrderKind, Volume, Wave};

fn key(seed: u8) -> IssuerKey {
    IssuerKey::new(&[seed; 32])
}

fn trusting(key: &IssuerKey) -> Trusted {
    Trusted::parse(&[format!("ops={}", key.public())]).unwrap()
}

fn any_order() -> impl Strategy<Value = Order> {
    let ids = "[a-z0-9][a-z0-9._-]{0,12}";
    let numbers = (1..NUMBER_MAX, 0..NUMBER_MAX, 0..NUMBER_MAX);
    let wave = proptest::option::of((1..u32::MAX, proptest::option::of(any::<u32>()), 3..3600_u64));
    (
        ids,
        numbers,
        wave,
        "[ -~äß\u{1f600}]{0,20}",
        any::<[u8; 32]>(),
        0..4_u8,
    )
        .prop_map(
            |(id, (revision, issued_at, jitter_seconds), wave, issuer, digest, which)| Order {
                id: id.parse().unwrap(),
                revision,
                action: [Action::Follow, Action::Cancel][usize::from(which % 2)],
                kind: match which {
                    3 => OrderKind::Provision,
                    2 => OrderKind::Evict,
                    _ => OrderKind::Prewarm,
                },
                target: match which {
                    0 => Target::All,
                    1 => Target::Group(id.parse().unwrap()),
                    _ => Target::Host(id.parse().unwrap()),
                },
                image: crate::order::Image {
                    sha256: lvp_api::Sha256Digest::new(digest),
                    ..order().image
                },
                volumes: match which {
                    3 => vec![Volume {
                        name: "vm".parse().unwrap(),
                        size_bytes: revision,
                    }],
                    _ => Vec::new(),
                },
                wave: wave.map(|(hosts_at_once, max_failures, silence_seconds)| Wave {
                    hosts_at_once,
                    max_failures,
                    silence_seconds,
                }),
                jitter_seconds,
                bytes_per_sec: (jitter_seconds > 0).then_some(jitter_seconds),
                issued_at,
                deadline: issued_at + 1,
                issuer,
            },
        )
}

proptest! {
    #[test]
    fn an_order_is_verified_as_it_was_signed_and_has_one_text(order in any_order()) {
        let key = key(1);
        let message = key.sign(&order).unwrap();
        prop_assert_eq!(&message, &key.sign(&order).unwrap());
        let verified = trusting(&key).verify(&message).unwrap();
        prop_assert_eq!(&verified.order, &order);
        prop_assert_eq!(verified.signer.as_str(), "ops");
        prop_assert_eq!(stored(&verified.payload).unwrap(), order);
    }

    #[test]
    fn two_orders_never_have_one_text(a in any_order(), b in any_order()) {
        prop_assert_eq!(payload(&a) == payload(&b), a == b);
    }

    #[test]
    fn no_other_type_and_payload_give_the_same_signed_bytes(
        a in ("[ -~]{0,9}", "[ -~]{0,9}"), b in ("[ -~]{0,9}", "[ -~]{0,9}"),
    ) {
        let same = signed_bytes(&a.0, a.1.as_bytes()) == signed_bytes(&b.0, b.1.as_bytes());
        prop_assert_eq!(same, a == b);
    }

    #[test]
    fn no_changed_byte_is_accepted_as_another_order(order in any_order(), at: prop::sample::Index, with: u8) {
        let key = key(1);
        let mut message = key.sign(&order).unwrap();
        let at = at.index(message.len());
        message[at] = with;
        if let Ok(verified) = trusting(&key).verify(&message) {
            prop_assert_eq!(verified.order, order);
        }
    }

    #[test]
    fn whatever_arrives_is_answered(message in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(trusting(&key(1)).verify(&message).is_err());
    }
}

fn with_payload(message: &[u8], change: impl FnOnce(&mut Envelope)) -> Vec<u8> {
    let mut envelope: Envelope = serde_json::from_slice(message).unwrap();
    change(&mut envelope);
    serde_json::to_vec(&envelope).unwrap()
}

#[test]
fn a_field_that_was_changed_after_the_signature_is_refused() {
    let key = key(1);
    let message = key.sign(&order()).unwrap();
    let mut other = order();
    other.revision = 2;
    let forged = with_payload(&message, |envelope| {
        envelope.payload = BASE64.encode(payload(&other));
    });
    let bad = Err(EnvelopeError::BadSignature("ops".to_owned()));
    assert_eq!(trusting(&key).verify(&forged), bad);
    let retyped = with_payload(&message, |envelope| envelope.payload_type.push('x'));
    assert_eq!(trusting(&key).verify(&retyped), bad);
}

#[test]
fn a_foreign_key_is_refused_also_under_a_trusted_keys_id() {
    let message = key(2).sign(&order()).unwrap();
    let trusted = trusting(&key(1));
    assert!(matches!(
        trusted.verify(&message),
        Err(EnvelopeError::UnknownKey(_))
    ));
    let posing = with_payload(&message, |envelope| {
        envelope.signatures[0].keyid = key_id(&key(1).0.verifying_key());
    });
    assert!(matches!(
        trusted.verify(&posing),
        Err(EnvelopeError::BadSignature(_))
    ));
    assert!(matches!(
        Trusted::default().verify(&key(1).sign(&order()).unwrap()),
        Err(EnvelopeError::UnknownKey(_))
    ));
}

#[test]
fn one_good_signature_is_enough_and_none_may_be_wrong() {
    let (one, two) = (key(1), key(2));
    let message = one.sign(&order()).unwrap();
    let second: Envelope = serde_json::from_slice(&two.sign(&order()).unwrap()).unwrap();
    let both = with_payload(&message, |envelope| {
        envelope.signatures.extend(second.signatures.clone());
    });
    assert!(trusting(&one).verify(&both).is_ok());
    assert!(trusting(&two).verify(&both).is_ok());
    let wrong = with_payload(&message, |envelope| {
        let mut signed = second.signatures[0].clone();
        signed.sig.clone_from(&envelope.signatures[0].sig);
        envelope.signatures.push(signed);
    });
    let trusted = Trusted::parse(&[format!("a={}", one.public()), format!("b={}", two.public())]);
    assert!(matches!(
        trusted.unwrap().verify(&wrong),
        Err(EnvelopeError::BadSignature(_))
    ));
    let none = with_payload(&message, |envelope| envelope.signatures.clear());
    assert!(matches!(
        trusting(&one).verify(&none),
        Err(EnvelopeError::Unreadable(_))
    ));
}

#[test]
fn a_later_form_is_recognised_and_named_only_if_it_is_genuine() {
    let key = key(1);
    let later = serde_json::json!({"id": "o", "revision": 3, "kind": "migrate"});
    let later = serde_json::to_vec(&later).unwrap();
    let named = Some(("o".parse().unwrap(), 3));
    for payload_type in [
        PAYLOAD_TYPE,
        "application/vnd.libvirt-volume-provisioner.order.v2+json",
    ] {
        let message = key.sign_bytes(payload_type, &later);
        match trusting(&key).verify(&message) {
            Err(EnvelopeError::Unsupported { named: found, .. }) => assert_eq!(found, named),
            other => panic!("{other:?}"),
        }
        let foreign = self::key(2).sign_bytes(payload_type, &later);
        assert!(matches!(
            trusting(&key).verify(&foreign),
            Err(EnvelopeError::UnknownKey(_))
        ));
    }
    // An unknown field may be what matters most.
    let mut more: serde_json::Value = serde_json::from_slice(&payload(&order())).unwrap();
    more["only_at_night"] = true.into();
    let message = key.sign_bytes(PAYLOAD_TYPE, &serde_json::to_vec(&more).unwrap());
    assert!(matches!(
        trusting(&key).verify(&message),
        Err(EnvelopeError::Unsupported { .. })
    ));
}

#[test]
fn an_order_that_breaks_a_rule_is_neither_signed_nor_followed() {
    let key = key(1);
    let mut bad = order();
    bad.revision = 0;
    assert_eq!(key.sign(&bad), Err(OrderError::Revision));
    let message = key.sign_bytes(PAYLOAD_TYPE, &payload(&bad));
    assert!(matches!(
        trusting(&key).verify(&message),
        Err(EnvelopeError::Invalid { .. })
    ));
    let large = vec![b' '; MESSAGE_MAX + 1];
    assert!(matches!(
        trusting(&key).verify(&large),
        Err(EnvelopeError::TooLarge(_))
    ));
}

#[test]
fn keys_are_read_as_they_are_written_and_in_no_other_form() {
    let key = key(1);
    let again = IssuerKey::parse(&key.secret_text()).unwrap();
    assert_eq!(again.public(), key.public());
    assert!(!format!("{key:?}").contains(key.secret_text().trim()));
    for text in [
        "",
        "lvp-fleet-secret-key:",
        "lvp-fleet-secret-key:zz",
        &key.public(),
    ] {
        assert!(IssuerKey::parse(text).is_err(), "{text:?}");
    }
    let weak = format!("a=01{}", "0".repeat(62));
    assert_eq!(
        Trusted::parse(&[weak]).unwrap_err(),
        KeyError::Weak("a".to_owned())
    );
    let signed = format!("a=+1{}", "0".repeat(62));
    for entry in ["", "a", "a=", "=00", &key.public(), &signed] {
        assert!(Trusted::parse(&[entry]).is_err(), "{entry:?}");
    }
}
