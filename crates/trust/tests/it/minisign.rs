//! Signatures made by minisign.

use lvp_testkit::signing::Minisign;

use super::*;

#[test]
fn what_minisign_signs_is_verified() {
    if !require("minisign") {
        return;
    }
    let (pair, other, now) = (Minisign::new(), Minisign::new(), Now::by_clock());
    let public = pair.public();
    let keys = keys(&[&public]);
    let signature = pair.sign(&["-t", "disk.qcow2 of today"], DATA);
    let signer = judge(&signature, DATA, &keys, now).expect("it is good");
    let comment = String::from_utf8(public.clone()).expect("it is text");
    assert!(
        comment.contains(&signer.fingerprint),
        "{signer} is not in {comment}"
    );
    check_refused(judge(&signature, OTHER, &keys, now), &["does not match"]);
    let text = String::from_utf8(signature).expect("it is text");
    let changed = text.replace("of today", "of old");
    check_refused(
        judge(changed.as_bytes(), DATA, &keys, now),
        &["does not match"],
    );
    let foreign = other.sign(&[], DATA);
    check_refused(
        judge(&foreign, DATA, &keys, now),
        &["not among the trusted keys"],
    );
    let two_lines: String = text.split_inclusive('\n').take(2).collect();
    check_refused(
        judge(two_lines.as_bytes(), DATA, &keys, now),
        &["trusted comment"],
    );
    let former = pair.sign(&["-l"], DATA);
    verify(&former, DATA, &keys, now).expect("a file of sums may be signed so");
    check_refused(verify(&former, OTHER, &keys, now), &["does not match"]);
    check_refused(begin(&former, &keys, now), &["legacy format"]);
    // As it is passed on minisign's command line.
    let bare = comment.lines().nth(1).expect("there is one");
    let mut bare_keys = Keys::default();
    bare_keys.add(bare.as_bytes()).expect("it is a key");
    judge(text.as_bytes(), DATA, &bare_keys, now).expect("it is good");
}
