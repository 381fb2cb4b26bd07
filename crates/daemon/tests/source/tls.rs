//! What a source says of a server's TLS: the true reason, once, and what to do.

use lvp_testkit::openssl::Cases;
use lvp_testkit::require::require;
use provisioner::source::{Source, SourceErrorKind, SourceSettings};

use crate::{read_all, settings};

#[tokio::test]
async fn errors_of_tls_say_the_true_reason_and_are_not_tried_again() {
    if !require("openssl") {
        return;
    }
    for case in &Cases::start().await.unwrap().cases {
        let source = Source::new(&SourceSettings {
            ca_cert: case.ca.clone(),
            ..settings(&case.endpoint)
        });
        let error = read_all(&source.unwrap(), "s3://img/k").await.unwrap_err();
        let said = error.to_string();
        if case.words.is_empty() {
            assert_eq!(
                error.kind(),
                SourceErrorKind::NotFound,
                "{}: {said}",
                case.name
            );
            continue;
        }
        assert_eq!(
            error.kind(),
            SourceErrorKind::Unavailable,
            "{}: {said}",
            case.name
        );
        assert_eq!(error.attempts(), 1, "{}: {said}", case.name);
        for word in case.words {
            assert!(
                said.contains(word),
                "{}: {word:?} is not in {said:?}",
                case.name
            );
        }
    }
}
