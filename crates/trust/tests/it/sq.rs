//! Signatures made by Sequoia's sq.

use std::fs;

use lvp_testkit::signing::run;

use super::*;

#[test]
fn what_sq_signs_is_verified() {
    if !require("sq") {
        return;
    }
    let now = Now::by_clock();
    let home = tempfile::tempdir().expect("there is room");
    let path = |name: &str| {
        home.path()
            .join(name)
            .to_str()
            .expect("it is UTF-8")
            .to_owned()
    };
    let (key, data) = (path("key"), path("data"));
    fs::write(&data, DATA).expect("there is room");
    run(
        "sq",
        &[
            "key",
            "generate",
            "--userid",
            "Sq <sq@example.com>",
            "--export",
            &key,
        ],
        b"",
    );
    let public = run("sq", &["key", "extract-cert", &key], b"");
    let keys = keys(&[&public]);
    let signature = run(
        "sq",
        &["sign", "--detached", "--signer-key", &key, &data],
        b"",
    );
    let signer = judge(&signature, DATA, &keys, now).expect("it is good");
    assert_eq!(signer.name.as_deref(), Some("Sq <sq@example.com>"));
    check_refused(judge(&signature, OTHER, &keys, now), &["does not match"]);
    let text = run(
        "sq",
        &["sign", "--cleartext-signature", "--signer-key", &key, &data],
        b"",
    );
    verify_cleartext(&text, &keys, now).expect("it is good");
}
