//! Whose signature is required of which image, and keys that come and go.

use super::*;

#[tokio::test]
async fn a_policy_is_by_prefix_and_a_bad_signature_is_refused_of_a_cached_image_too() {
    if !are_here() {
        return;
    }
    let world = World::new().await;
    let signers = Signers::new(&world);
    let keys = format!(
        "images/base/={},{}",
        signers.files[0].display(),
        signers.files[1].display()
    );
    let world = world
        .with("TRUST_POLICY", "if-present")
        .with("TRUST_RULES", "images/scratch/=off,images/base/=required")
        .with("TRUST_KEYS", &keys);
    let daemon = world.start();
    let bytes = image(8 * MIB, 20, 8).build();
    let signature = signers.detached(&signers.key, &bytes);
    for key in ["scratch/a", "base/a", "base/b", "other/a", "other/b"] {
        put(&world, key, &bytes);
    }
    put(&world, "scratch/a.asc", b"nonsense");
    put(&world, "base/a.asc", &signature);
    put(&world, "other/b.asc", &signature);
    let off = run(&daemon, "scratch/a").await;
    assert_eq!(
        (off.status, off.verified),
        (JobState::Completed, Some(Verified::None))
    );
    let base = run(&daemon, "base/a").await;
    assert_eq!(
        (base.status, base.verified),
        (JobState::Completed, Some(Verified::Signature))
    );
    check_refused(&run(&daemon, "base/b").await, "signature_missing", &[]);
    // Another spelling is the same key.
    let encoded = format!("{}/images/b%61se/b", world.s3.endpoint());
    let status = run_url(&daemon, &encoded, "encoded").await;
    check_refused(&status, "signature_missing", &[]);
    let unsigned = run(&daemon, "other/a").await;
    assert_eq!(
        (unsigned.status, unsigned.verified),
        (JobState::Completed, Some(Verified::None))
    );
    check_refused(
        &run(&daemon, "other/b").await,
        "signature_refused",
        &["not among the trusted keys", &signers.key],
    );
    let wrong = signers.minisign.sign(&[], b"another image");
    put(&world, "other/a.minisig", &wrong);
    let hit = run(&daemon, "other/a").await;
    check_refused(&hit, "signature_refused", &["does not match"]);
    assert_eq!(hit.cache_hit, Some(true), "{hit:?}");
}

#[tokio::test]
async fn a_key_that_is_taken_away_counts_no_more_from_the_next_image_on() {
    if !are_here() {
        return;
    }
    let (world, signers) = required().await;
    let daemon = world.start();
    let bytes = image(8 * MIB, 20, 9).build();
    put(&world, "a", &bytes);
    put(&world, "a.asc", &signers.detached(&signers.key, &bytes));
    assert_eq!(run(&daemon, "a").await.status, JobState::Completed);
    fs::write(&signers.files[0], signers.gpg.public(&signers.stranger)).expect("there is room");
    check_refused(
        &run(&daemon, "a").await,
        "signature_refused",
        &["not among"],
    );
    fs::remove_file(&signers.files[0]).expect("it is there");
    let status = run(&daemon, "a").await;
    check_refused(&status, "settings", &["gpg.asc", "cannot be read"]);
    drop(daemon);
    let log = world
        .home
        .start()
        .expect_err("it does not start without its keys")
        .to_string();
    assert!(log.contains("gpg.asc"), "{log}");
}

#[tokio::test]
async fn a_local_image_is_verified_as_a_job_would() {
    if !are_here() {
        return;
    }
    let world = World::new().await;
    let signers = Signers::new(&world);
    let bytes = image(8 * MIB, 20, 10).build();
    let folder = tempfile::tempdir().expect("there is room");
    let at = |name: &str| folder.path().join(name);
    fs::write(at("a.qcow2"), &bytes).expect("there is room");
    let verify = |arguments: &[&str]| {
        let mut program = command(BINARY);
        program.args(["image"]).args(arguments).arg(at("a.qcow2"));
        let output = program.output().expect("it starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let key = signers.files[0].to_str().expect("it is UTF-8").to_owned();
    let (code, _, said) = verify(&["verify"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("nothing says what it must be"), "{said}");
    let (code, _, said) = verify(&["verify", "--key", &key]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("has no signature"), "{said}");
    let sums = line(&bytes, "a.qcow2");
    fs::write(at("SHA256SUMS"), &sums).expect("there is room");
    let (code, text, said) = verify(&["verify"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(text.contains("verified      sums"), "{text}");
    let signature = signers.detached(&signers.key, sums.as_bytes());
    fs::write(at("SHA256SUMS.asc"), signature).expect("there is room");
    let (code, text, said) = verify(&["verify", "--json", "--key", &key]);
    assert_eq!(code, Some(0), "{said}");
    let json: Value = serde_json::from_str(&text).expect("it is JSON");
    assert_eq!(json["verified"], "signature");
    assert_eq!(json["signer"]["fingerprint"], signers.key.as_str());
    let (code, text, said) = verify(&["inspect", "--verify", "--key", &key]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        text.contains("format        qcow2") && text.contains(&signers.key),
        "{text}"
    );
    let mut changed = bytes;
    changed[70_000] ^= 1;
    fs::write(at("a.qcow2"), &changed).expect("there is room");
    for how in ["verify", "inspect"] {
        let mut arguments = vec![how, "--key", &key];
        arguments.extend((how == "inspect").then_some("--verify"));
        let (code, _, said) = verify(&arguments);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("SHA-256 is"), "{said}");
    }
}
