//! S3 servers of several makes: the same keys, ranges, errors and credentials on each, and a volume that is
//! provisioned from it. What differs stands in a table, which is checked here and shown in docs/stores.md.

mod checks;

use std::fmt::Write as _;

use lvp_api::{JobState, Sha256Digest};
use lvp_image::builder::{ImageBuilder, Stored};
use lvp_testkit::daemon::Home;
use lvp_testkit::docs::check_section;
use lvp_testkit::stores::{Credentials, Make, Store};
use provisioner::config::Addressing;
use provisioner::secret::Secret;
use provisioner::source::{RangeOptions, Source, SourceError, SourceErrorKind, SourceSettings};
use sha2::{Digest as _, Sha256};

use super::{OPTIONS, RANGE_BYTES, check_error, collect, pattern, read_all, resolve, settings};

const BINARY: &str = env!("CARGO_BIN_EXE_libvirt-volume-provisioner");

/// What one server says in its own way.
struct Facts {
    make: Make,
    name: &'static str,
    version: &'static str,
    missing_object: &'static str,
    missing_bucket: &'static str,
    wrong_key: &'static str,
    wrong_secret: &'static str,
    nobody: &'static str,
    /// Whether it lends credentials with a session token, and checks that.
    tokens: bool,
    /// Whether its buckets can be hosts.
    virtual_hosts: bool,
    /// Whether it keeps versions.
    versions: bool,
    /// Whether it takes pre-signed URLs: moto that checks signatures crashes on one.
    presigned: bool,
}

const STORES: [Facts; 5] = [
    Facts {
        make: Make::S3s,
        name: "s3s over files, as in `demo`",
        version: "0.14",
        missing_object: "404 NoSuchKey",
        missing_bucket: "404 NoSuchBucket",
        wrong_key: "403 NotSignedUp",
        wrong_secret: "403 SignatureDoesNotMatch",
        nobody: "403 AccessDenied",
        tokens: false,
        virtual_hosts: false,
        versions: false,
        presigned: true,
    },
    Facts {
        make: Make::Rclone,
        name: "`rclone serve s3`",
        version: "1.75",
        missing_object: "404 NoSuchKey",
        missing_bucket: "404 NoSuchBucket",
        wrong_key: "403 InvalidAccessKeyId",
        wrong_secret: "403 SignatureDoesNotMatch",
        nobody: "400 UnsupportedAlgorithm",
        tokens: false,
        virtual_hosts: false,
        versions: false,
        presigned: true,
    },
    Facts {
        make: Make::SeaweedFs,
        name: "SeaweedFS",
        version: "4.48",
        missing_object: "404 NoSuchKey",
        missing_bucket: "404 NoSuchBucket",
        wrong_key: "403 InvalidAccessKeyId",
        wrong_secret: "403 SignatureDoesNotMatch",
        nobody: "403 AccessDenied",
        tokens: false,
        virtual_hosts: true,
        versions: true,
        presigned: true,
    },
    Facts {
        make: Make::Moto,
        name: "moto, a mock of AWS",
        version: "5.2",
        missing_object: "404 NoSuchKey",
        missing_bucket: "404 NoSuchBucket",
        wrong_key: "403 InvalidAccessKeyId",
        wrong_secret: "403 SignatureDoesNotMatch",
        nobody: "403",
        tokens: true,
        virtual_hosts: false,
        versions: true,
        presigned: false,
    },
    Facts {
        make: Make::RadosGw,
        name: "Ceph's radosgw",
        version: "16.2",
        missing_object: "404 NoSuchKey",
        missing_bucket: "404 NoSuchBucket",
        wrong_key: "403 InvalidAccessKeyId",
        wrong_secret: "403 SignatureDoesNotMatch",
        nobody: "403 AccessDenied",
        tokens: false,
        virtual_hosts: true,
        versions: true,
        presigned: true,
    },
];

/// The settings for a server and those who ask it.
fn with(store: &Store, credentials: &Credentials) -> SourceSettings {
    SourceSettings {
        access_key: Some(credentials.access_key.clone()),
        secret_key: Some(Secret::new(credentials.secret_key.as_str())),
        session_token: credentials.session_token.as_deref().map(Secret::new),
        ..settings(store.endpoint())
    }
}

fn of(store: &Store) -> SourceSettings {
    with(store, store.credentials())
}

fn open(store: &Store) -> Source {
    Source::new(&of(store)).unwrap()
}

/// The status and S3's code in the text of an error.
fn answered(error: &SourceError) -> String {
    let text = error.to_string();
    let code = text
        .split_once(" (")
        .and_then(|(_, rest)| rest.split_once(") for "));
    let status = error.status().unwrap_or_default();
    match code {
        Some((code, _)) => format!("{status} {code}"),
        None => status.to_string(),
    }
}

fn sha256(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest::new(Sha256::digest(bytes).into())
}

async fn check_all(make: Make) {
    let facts = STORES.iter().find(|facts| facts.make == make).unwrap();
    let Some(store) = Store::start(make).await.unwrap() else {
        return;
    };
    checks::check_bytes_are_exact_and_in_order(&store).await;
    checks::check_parts(&store, facts).await;
    checks::check_keys_with_odd_characters(&store).await;
    checks::check_sidecars(&store).await;
    checks::check_what_is_missing(&store, facts).await;
    checks::check_wrong_credentials(&store, facts).await;
    checks::check_an_object_replaced_in_the_middle(&store).await;
    checks::check_session_tokens(&store, facts).await;
    checks::check_virtual_hosts(&store, facts).await;
    checks::check_versions(&store, facts).await;
    checks::check_pre_signed_urls(&store, facts).await;
    checks::check_a_volume_is_provisioned(&store).await;
}

#[tokio::test]
async fn our_own_server_is_read_as_the_table_says() {
    check_all(Make::S3s).await;
}

#[tokio::test]
async fn rclone_is_read_as_the_table_says() {
    check_all(Make::Rclone).await;
}

#[tokio::test]
async fn seaweedfs_is_read_as_the_table_says() {
    check_all(Make::SeaweedFs).await;
}

#[tokio::test]
async fn moto_is_read_as_the_table_says() {
    check_all(Make::Moto).await;
}

#[tokio::test]
async fn ceph_s_gateway_is_read_as_the_table_says() {
    check_all(Make::RadosGw).await;
}

#[test]
fn the_docs_list_the_stores_that_are_tested() {
    let mut table = "| server | missing object | missing bucket | unknown access key | wrong secret key | no credentials | session \
                     tokens | hosts of buckets | versions | pre-signed URLs |\n|---|---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    let mark = |does| if does { "yes" } else { "-" };
    for facts in &STORES {
        writeln!(
            table,
            "| {} {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            facts.name,
            facts.version,
            facts.missing_object,
            facts.missing_bucket,
            facts.wrong_key,
            facts.wrong_secret,
            facts.nobody,
            mark(facts.tokens),
            mark(facts.virtual_hosts),
            mark(facts.versions),
            mark(facts.presigned),
        )
        .unwrap();
    }
    check_section("docs/stores.md", "stores", &table);
}
