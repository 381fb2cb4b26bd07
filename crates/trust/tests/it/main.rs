//! Signatures made by gpg, sq and minisign, and what must be refused.

mod minisign;
mod sq;

use lvp_testkit::require::require;
use lvp_testkit::signing::Gpg;
use lvp_trust::{
    Format, Keys, Now, Refusal, Signer, begin, is_cleartext, verify, verify_cleartext,
};

const DATA: &[u8] = b"e3b0c442  disk.qcow2\n";
const OTHER: &[u8] = b"e3b0c443  disk.qcow2\n";

fn keys(files: &[&[u8]]) -> Keys {
    let mut keys = Keys::default();
    for file in files {
        keys.add(file).expect("it is a key");
    }
    keys
}

/// The verdict over a file, which has to be the same over a stream.
fn judge(signature: &[u8], data: &[u8], keys: &Keys, now: Now) -> Result<Signer, Refusal> {
    let whole = verify(signature, data, keys, now);
    let streamed = begin(signature, keys, now).and_then(|mut pending| {
        for piece in data.chunks(7) {
            pending.update(piece);
        }
        pending.finish()
    });
    assert_eq!(whole, streamed);
    whole
}

#[track_caller]
fn check_refused(result: Result<impl std::fmt::Debug, Refusal>, words: &[&str]) {
    let said = result.expect_err("it does not count").to_string();
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said:?}");
    }
}

#[test]
fn what_gpg_signs_is_verified_whole_and_as_a_stream() {
    if !require("gpg") {
        return;
    }
    let (gpg, now) = (Gpg::new(), Now::by_clock());
    for (user, algorithm) in [
        ("Ed <ed@example.com>", "ed25519"),
        ("Rsa <rsa@example.com>", "rsa3072"),
        ("Nist <nist@example.com>", "nistp384"),
    ] {
        let key = gpg.key(user, algorithm, "0", None);
        let public = gpg.public(&key);
        let keys = keys(&[&public]);
        for how in [
            &["--detach-sign"][..],
            &["--detach-sign", "--armor"],
            &["--detach-sign", "--digest-algo", "SHA512"],
        ] {
            let signature = gpg.sign(&key, how, DATA);
            let signer = judge(&signature, DATA, &keys, now).expect("it is good");
            assert_eq!(
                (signer.format, signer.fingerprint.as_str()),
                (Format::OpenPgp, key.as_str())
            );
            assert_eq!(signer.name.as_deref(), Some(user));
            check_refused(
                judge(&signature, OTHER, &keys, now),
                &["does not match", &key],
            );
            check_refused(
                judge(&signature, DATA, &Keys::default(), now),
                &["not among the trusted keys", &key],
            );
        }
        let text = gpg.sign(&key, &["--clearsign"], b"- a\n# b  \nc\n");
        assert!(is_cleartext(&text));
        let (signed, signer) = verify_cleartext(&text, &keys, now).expect("it is good");
        assert_eq!(
            (signed.as_str(), signer.fingerprint),
            ("- a\r\n# b\r\nc", key)
        );
    }
}

#[test]
fn a_text_with_more_around_its_signature_or_another_inside_is_refused() {
    if !require("gpg") {
        return;
    }
    let (gpg, now) = (Gpg::new(), Now::by_clock());
    let key = gpg.key("a@example.com", "ed25519", "0", None);
    let public = gpg.public(&key);
    let keys = keys(&[&public]);
    let text = String::from_utf8(gpg.sign(&key, &["--clearsign"], DATA)).expect("it is text");
    verify_cleartext(text.as_bytes(), &keys, now).expect("it is good");
    let changed = text.replace("e3b0c442", "e3b0c443");
    check_refused(
        verify_cleartext(changed.as_bytes(), &keys, now),
        &["does not match"],
    );
    for around in [
        format!("{text}e3b0c443  disk.qcow2\n"),
        format!("e3b0c443  disk.qcow2\n{text}"),
        format!("{text}{changed}"),
        text.replacen(
            "

",
            "
e3b0c443  disk.qcow2

",
            1,
        ),
        text.replacen(
            "Hash: ",
            "Comment: e3b0c443  disk.qcow2
Hash: ",
            1,
        ),
    ] {
        assert_ne!(around, text);
        check_refused(
            verify_cleartext(around.as_bytes(), &keys, now),
            &["it cannot be used"],
        );
    }
}

#[test]
fn weak_hashes_and_texts_for_streams_are_refused() {
    if !require("gpg") {
        return;
    }
    let (gpg, now) = (Gpg::new(), Now::by_clock());
    let key = gpg.key("a@example.com", "rsa3072", "0", None);
    let public = gpg.public(&key);
    let keys = keys(&[&public]);
    for hash in ["SHA1", "MD5", "RIPEMD160"] {
        let how = [
            "--detach-sign",
            "--digest-algo",
            hash,
            "--allow-weak-digest-algos",
            "--allow-weak-key-signatures",
        ];
        let signature = gpg.sign(&key, &how, DATA);
        check_refused(
            judge(&signature, DATA, &keys, now),
            &["too weak", hash, &key],
        );
        let how = [
            "--clearsign",
            "--digest-algo",
            hash,
            "--allow-weak-digest-algos",
        ];
        let text = gpg.sign(&key, &how, DATA);
        check_refused(
            verify_cleartext(&text, &keys, now),
            &["too weak", hash, &key],
        );
    }
    let text = gpg.sign(&key, &["--detach-sign", "--textmode"], DATA);
    verify(&text, DATA, &keys, now).expect("a file of sums may be signed as a text");
    check_refused(begin(&text, &keys, now), &["over a text"]);
}

#[test]
fn expired_revoked_and_weak_keys_are_refused_and_so_are_expired_signatures() {
    if !require("gpg") {
        return;
    }
    let (gpg, now) = (Gpg::new(), Now::by_clock());
    let expired = gpg.key(
        "expired@example.com",
        "ed25519",
        "1y",
        Some("20200101T000000"),
    );
    let then = ["--faked-system-time", "20200601T000000", "--detach-sign"];
    let signature = gpg.sign(&expired, &then, DATA);
    let public = gpg.public(&expired);
    let expired_keys = keys(&[&public]);
    check_refused(
        judge(&signature, DATA, &expired_keys, now),
        &["expired on 2020-12-31", &expired],
    );
    let in_2020 = Now(1_592_000_000);
    judge(&signature, DATA, &expired_keys, in_2020).expect("it was good then");
    check_refused(
        judge(&signature, DATA, &expired_keys, Now(1_580_000_000)),
        &["was made on 2020-06-01", "clock"],
    );

    let key = gpg.key("a@example.com", "ed25519", "0", None);
    let good = gpg.sign(&key, &["--detach-sign"], DATA);
    let how = [
        "--faked-system-time",
        "20240101T000000",
        "--detach-sign",
        "--default-sig-expire",
        "2d",
    ];
    let mut old = gpg.key("old@example.com", "ed25519", "0", Some("20230101T000000"));
    let short = gpg.sign(&old, &how, DATA);
    let public = gpg.public(&old);
    check_refused(
        judge(&short, DATA, &keys(&[&public]), now),
        &["expired on 2024-01-03", &old],
    );
    let public = gpg.public(&key);
    judge(&good, DATA, &keys(&[&public]), now).expect("it is good");
    gpg.revoke(&key);
    let public = gpg.public(&key);
    check_refused(
        judge(&good, DATA, &keys(&[&public]), now),
        &["revoked", &key],
    );

    old = gpg.key("weak@example.com", "rsa1024", "0", None);
    let weak = gpg.sign(&old, &["--detach-sign"], DATA);
    let public = gpg.public(&old);
    check_refused(
        judge(&weak, DATA, &keys(&[&public]), now),
        &["RSA of 1024 bits", &old],
    );
}

#[test]
fn a_subkey_signs_for_its_certificate_until_it_is_revoked() {
    if !require("gpg") {
        return;
    }
    let (gpg, now) = (Gpg::new(), Now::by_clock());
    let key = gpg.key("a@example.com", "ed25519", "0", None);
    gpg.run(&["--quick-add-key", &key, "ed25519", "sign", "0"], b"");
    let listed = gpg.run(&["--with-colons", "--list-keys", &key], b"");
    let listed = String::from_utf8(listed).expect("it is text");
    let mut prints = listed.lines().filter(|line| line.starts_with("fpr:"));
    let subkey = prints.nth(1).and_then(|line| line.split(':').nth(9));
    let subkey = subkey.expect("there is one").to_owned();
    let signature = gpg.sign(&subkey, &["--detach-sign"], DATA);
    let public = gpg.public(&key);
    let signer = judge(&signature, DATA, &keys(&[&public]), now).expect("it is good");
    assert_eq!(
        signer.fingerprint, key,
        "a certificate is known by its primary key"
    );
    gpg.edit(&key, "key 1\nrevkey\ny\n0\n\ny\nsave\n");
    let public = gpg.public(&key);
    check_refused(
        judge(&signature, DATA, &keys(&[&public]), now),
        &["revoked", &key],
    );
}

#[test]
fn of_several_signatures_one_good_one_counts_unless_a_known_key_denies() {
    if !require("gpg") {
        return;
    }
    let (gpg, now) = (Gpg::new(), Now::by_clock());
    let known = gpg.key("known@example.com", "ed25519", "0", None);
    let other = gpg.key("other@example.com", "ed25519", "0", None);
    let (public, others) = (gpg.public(&known), gpg.public(&other));
    let sign = |key: &str, data| gpg.sign(key, &["--detach-sign"], data);
    for order in [[&other, &known], [&known, &other]] {
        let both = order.map(|key| sign(key, DATA)).concat();
        let signer = judge(&both, DATA, &keys(&[&public]), now).expect("one of them is good");
        assert_eq!(signer.fingerprint, known);
        let wrong = [sign(order[0], DATA), sign(order[1], OTHER)].concat();
        check_refused(
            judge(&wrong, DATA, &keys(&[&public, &others]), now),
            &["does not match"],
        );
    }
    let armored = gpg.sign(&other, &["--detach-sign", "--armor"], DATA);
    let joined = [
        armored,
        gpg.sign(&known, &["--detach-sign", "--armor"], DATA),
    ]
    .concat();
    judge(&joined, DATA, &keys(&[&public]), now).expect("joined by cat, all are read");
    let ring = [public, others].concat();
    let both = keys(&[&ring]);
    assert_eq!(both.signers(now).len(), 2, "joined by cat, all are read");
    let many = sign(&other, DATA).repeat(17);
    check_refused(judge(&many, DATA, &both, now), &["more than 16 signatures"]);
}

#[test]
fn what_is_neither_a_key_nor_a_signature_is_refused() {
    let now = Now::by_clock();
    for wrong in [
        &b""[..],
        b"\0",
        b"ssh-ed25519 AAAAC3Nz",
        b"-----BEGIN SSH SIGNATURE-----\n",
        b"-----BEGIN PGP SIGNATURE-----\n",
        b"-----BEGIN PGP SIGNATURE-----\n\nAAAA\n-----END PGP SIGNATURE-----\n",
        b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n",
        b"untrusted comment: x\n",
        b"untrusted comment: x\nAAAA\n",
        b"\x88\xff\xff\xff\xff\xff",
        &[0xff; 4096],
    ] {
        let keys = Keys::default();
        check_refused(judge(wrong, DATA, &keys, now), &["it cannot be used"]);
        assert!(Keys::default().add(wrong).is_err(), "{wrong:?}");
    }
    let long = vec![b'u'; lvp_trust::MAX_SIGNATURE_BYTES + 1];
    check_refused(
        judge(&long, DATA, &Keys::default(), now),
        &["larger than 64 KiB"],
    );
}
