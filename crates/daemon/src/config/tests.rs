use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use super::keys::Kind;
use super::*;

fn load(yaml: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(yaml.as_bytes())
        .expect("the file is written");
    let environment: BTreeMap<_, _> = environment.iter().copied().collect();
    let settings = Settings::load(file.path(), true, |name| {
        environment.get(name).map(|value| (*value).to_owned())
    })?;
    Config::from_settings(&settings)
}

const LEAST: &str = "minio: {endpoint: 'http://127.0.0.1:9000'}\n";

#[test]
fn an_absent_file_gives_the_documented_defaults() {
    let settings = Settings::load("/nonexistent/config.yaml".as_ref(), false, |name| {
        (name == "MINIO_ENDPOINT").then(|| "http://s3".to_owned())
    });
    let config = Config::from_settings(&settings.expect("it loads")).expect("it is usable");
    assert_eq!(config.server.port, 8080);
    assert_eq!(
        config.server.db_path.to_str(),
        Some("/var/lib/libvirt-volume-provisioner/jobs.db")
    );
    assert_eq!(config.minio.region, "us-east-1");
    assert_eq!(
        config.minio.retry_backoff,
        [100, 1000, 10000].map(Duration::from_millis)
    );
    assert_eq!(config.libvirt.uri, "qemu:///system");
    assert_eq!(config.libvirt.pool, "images");
    assert_eq!(config.libvirt.max_concurrent, 2);
    assert_eq!(config.libvirt.job_timeout, Duration::from_secs(180 * 60));
    assert_eq!(config.lvm.volume_group, "vg0");
    assert_eq!(
        config.lvm.retry_backoff,
        [100, 1000].map(Duration::from_millis)
    );
    assert_eq!(config.cache.max_age, Duration::from_secs(168 * 3600));
    assert_eq!(config.cache.eviction_interval, Duration::from_secs(3600));
    assert_eq!(config.volumes.backend, Backend::Lvm);
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let error = Settings::load("/nonexistent/config.yaml".as_ref(), true, |_| None)
        .expect_err("it is not there");
    assert!(matches!(error, ConfigError::Missing(_)), "{error}");
}

#[test]
fn the_environment_beats_the_file_and_empty_variables_count_as_unset() {
    let yaml = format!("{LEAST}server: {{port: 1}}\nlvm: {{volume_group: data}}\n");
    let config = load(&yaml, &[("PORT", "2"), ("LVM_VOLUME_GROUP", "")]).expect("it is usable");
    assert_eq!(config.server.port, 2);
    assert_eq!(config.lvm.volume_group, "data");
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    for (yaml, expected) in [
        (
            "minio: {endpiont: x}",
            "Unknown key minio.endpiont (did you mean minio.endpoint?)",
        ),
        (
            "mino: {endpoint: x}",
            "Unknown key mino (did you mean minio?)",
        ),
        ("server: {colour: x}", "Unknown key server.colour"),
    ] {
        let error = load(yaml, &[]).expect_err("the key is unknown").to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn values_of_the_wrong_form_name_the_key_and_the_form() {
    for (yaml, variables, expected) in [
        (
            "server: {port: 70000}",
            vec![],
            "server.port must be a whole number from 0 to 65535",
        ),
        (
            "cache: {max_age: fortnight}",
            vec![],
            "cache.max_age must be a duration such as 168h",
        ),
        (
            "volumes: {backend: zfs}",
            vec![],
            "volumes.backend must be one of lvm, dir",
        ),
        (
            "",
            vec![("LOG_FORMAT", "xml")],
            "logging.format must be one of json, text",
        ),
        (
            "lvm: {retry_backoff_ms: [1, x]}",
            vec![],
            "lvm.retry_backoff_ms must be whole",
        ),
        (
            "libvirt: {enabled: maybe}",
            vec![],
            "libvirt.enabled must be true or false",
        ),
        (
            "cache: {max_size_bytes: 5GB}",
            vec![],
            "cache.max_size_bytes is wrong: \"5GB\" is ambiguous",
        ),
    ] {
        let error = load(&format!("{LEAST}{yaml}"), &variables)
            .expect_err(expected)
            .to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn combinations_that_cannot_work_are_refused() {
    for (yaml, expected) in [
        ("volumes: {backend: dir}", "volumes.dir must be set"),
        ("libvirt: {enabled: false}", "cache.dir must be set"),
        ("", "minio.endpoint is not set"),
    ] {
        let least = if yaml.is_empty() { "" } else { LEAST };
        let error = load(&format!("{least}{yaml}"), &[])
            .expect_err(expected)
            .to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    for (minio, expected) in [
        ("access_key: a", "must be set together"),
        (
            "access_key: a, secret_key: a, session_token: é",
            "minio.session_token has a character",
        ),
        (
            "endpoint: 'http://10.0.0.1', addressing: virtual",
            "minio.addressing is virtual",
        ),
    ] {
        let endpoint = if minio.starts_with("endpoint") {
            ""
        } else {
            "endpoint: x, "
        };
        let error = load(&format!("minio: {{{endpoint}{minio}}}"), &[]).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn lists_and_back_off_waits_are_read_in_both_forms() {
    let yaml = "minio: {endpoint: x, allowed_hosts: [a, 'b:81'], retry_attempts: 4, retry_backoff_ms: '5,6'}";
    let config = load(yaml, &[]).expect("it is usable");
    assert_eq!(config.minio.allowed_hosts, ["a", "b:81"]);
    assert_eq!(
        config.minio.retry_backoff,
        [5, 6, 6, 6].map(Duration::from_millis)
    );
}

#[test]
fn the_go_program_s_bucket_is_ignored_with_a_warning() {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(b"minio: {bucket: images}")
        .expect("the file is written");
    let settings = Settings::load(file.path(), true, |_| None).expect("it loads");
    assert_eq!(settings.warnings.len(), 1, "{:?}", settings.warnings);
}

#[test]
fn secrets_do_not_show_in_debug_output() {
    let yaml = "minio: {endpoint: x, access_key: me, secret_key: hunter2}";
    let config = load(yaml, &[]).expect("it is usable");
    assert!(!format!("{config:?}").contains("hunter2"));
}

/// Compares a committed file with what it is made from, or writes it.
fn is_committed(file: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(file);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, text).expect("it is written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(committed, text, "{file} is out of date: run ./dev docs");
}

#[test]
fn the_docs_hold_every_key() {
    is_committed("docs/config.md", &reference::markdown());
}

#[test]
fn the_docs_example_sets_nothing_and_names_every_key_with_its_default() {
    let example = reference::example();
    is_committed("packaging/config.yaml", &example);
    let resolve = |yaml: &str| {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(yaml.as_bytes()).expect("it is written");
        Settings::load(file.path(), true, |_| None).expect("it loads")
    };
    let untouched = resolve(&example);
    assert!(
        untouched
            .iter()
            .all(|(_, setting)| setting.origin == Origin::Default)
    );
    // With every key set to its default, only the origin of the values changes.
    let all = resolve(&example.replace("\n  #", "\n  ").replace("\n   ", "\n  # "));
    for (key, setting) in all.iter() {
        assert_eq!(setting.text, key.default, "{}", key.path);
        assert_eq!(setting.origin, Origin::File(key.path), "{}", key.path);
    }
}

/// Public keys of Ed25519 (RFC 8032, section 7.1, the first two tests).
const TRUSTED: &str = "ops=d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
const OTHER_KEY: &str = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";

/// A value of the key's form other than `now`.
fn another(key: &keys::Key, now: &str) -> String {
    match key.kind {
        Kind::Text if key.path == "tracing.resource_attributes" => "a=b".to_owned(),
        Kind::Text if key.path == "fleet.host" => "other".to_owned(),
        Kind::List if key.path == "fleet.url" => "nats://other:4222".to_owned(),
        Kind::List if key.path == "fleet.trust" => format!("other={OTHER_KEY}"),
        Kind::Text if key.path == "ui.trace_url" => "http://other/{trace_id}".to_owned(),
        Kind::Text | Kind::Secret | Kind::Secrets => "http://other:1".to_owned(),
        Kind::Word => "other".to_owned(),
        Kind::Address => "127.0.0.3".to_owned(),
        Kind::Stream(_) => "/other.log".to_owned(),
        Kind::Sampling => "0.25".to_owned(),
        Kind::Path => "/other".to_owned(),
        Kind::Integer { min, .. } if now != min.to_string() => min.to_string(),
        Kind::Integer { max, .. } => max.to_string(),
        Kind::Fraction => "0.25".to_owned(),
        Kind::Bool => (now != "true").to_string(),
        Kind::Duration { .. } => "7m".to_owned(),
        Kind::Size | Kind::SizeOrAuto => "7G".to_owned(),
        Kind::MillisecondList => "7,8".to_owned(),
        Kind::List if key.path == "trust.rules" => "images/=off".to_owned(),
        Kind::List if key.path == "trust.keys" => "/other.asc".to_owned(),
        Kind::List if key.path == "volumes.windows" => "22:00-06:00".to_owned(),
        Kind::List if key.path == "minio.mirrors" => "http://seven,http://eight".to_owned(),
        Kind::List => "seven,eight".to_owned(),
        Kind::OneOf(words) | Kind::Words(words) => {
            let other = words.iter().find(|word| **word != now);
            (*other.expect("a choice has two words")).to_owned()
        }
    }
}

#[test]
fn every_documented_variable_changes_what_the_daemon_runs_with() {
    // Every optional key is set, so that each key alone can be changed.
    let base = [
        ("SERVER_CERT", "/cert"),
        ("SERVER_KEY", "/key"),
        ("CLIENT_CA_CERT", "/ca"),
        ("API_TOKENS_FILE", "/tokens"),
        ("MINIO_ENDPOINT", "http://s3"),
        ("MINIO_ACCESS_KEY_ID", "me"),
        ("MINIO_SECRET_ACCESS_KEY", "secret"),
        ("AWS_ROLE_ARN", "role"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/token"),
        ("MINIO_PROXY", "http://proxy"),
        ("VOLUME_BACKEND", "dir"),
        ("VOLUME_DIR", "/volumes"),
        ("LVM_THIN_POOL", "pool0"),
        ("CACHE_DIR", "/cache"),
        ("TRUST_POLICY", "if-present"),
        ("TRUST_RULES", "images/=required"),
        ("TRUST_KEYS", "/keys.asc"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel"),
        // Without a share as the sampler, the sampler's argument is not used.
        ("OTEL_TRACES_SAMPLER", "traceidratio"),
        ("WEBHOOK_URLS", "http://receiver"),
        ("WEBHOOK_SECRET", "0123456789abcdef"),
        ("FLEET_URL", "nats://broker:4222"),
        ("FLEET_TRUST", TRUSTED),
        ("FLEET_CLIENT_CERT", "/fleet.pem"),
        ("FLEET_CLIENT_KEY", "/fleet.key"),
    ];
    let shown = |extra: Option<(&str, &str)>| {
        let mut variables: Vec<_> = base.into_iter().chain(extra).collect();
        if extra.is_some_and(|(name, _)| name == "MINIO_CREDENTIALS") {
            // Credentials come from one source.
            variables.retain(|(name, _)| !name.contains("ACCESS_KEY"));
        }
        let config = load("", &variables).unwrap_or_else(|error| panic!("{extra:?}: {error}"));
        let secrets = [&config.minio.secret_key, &config.webhooks.secret];
        let secrets = secrets.map(|secret| secret.as_ref().map(Secret::expose));
        format!("{config:?} {secrets:?}")
    };
    let before = shown(None);
    let mut variables = 0;
    for key in keys::KEYS {
        let former = key.former.as_ref().map(|former| &former.env);
        for name in key.env.iter().chain(former) {
            let set = base.iter().find(|(base, _)| key.env.contains(base));
            let now = set.map_or(key.default, |(_, value)| value);
            let after = shown(Some((name, &another(key, now))));
            assert_ne!(after, before, "{name} changes nothing");
            variables += 1;
        }
    }
    assert!(variables >= keys::KEYS.len());
}

#[test]
fn a_fleet_needs_a_key_to_trust_and_each_key_of_it_is_checked() {
    let fleet = |more: &[(&str, &str)]| {
        let base = [
            ("FLEET_URL", "nats://a:4222,tls://b"),
            ("FLEET_TRUST", TRUSTED),
        ];
        let variables: Vec<_> = base.into_iter().chain(more.iter().copied()).collect();
        load(LEAST, &variables).map(|config| config.fleet.expect("it is part of one"))
    };
    let ours = fleet(&[
        ("FLEET_HOST", "kvm1.example.com"),
        ("FLEET_ALLOW", "evict,prewarm"),
    ]);
    let ours = ours.expect("it is right");
    assert_eq!(
        (ours.servers.len(), ours.allow.len(), ours.host.as_str()),
        (2, 2, "kvm1.example.com")
    );
    assert!(
        fleet(&[("FLEET_ALLOW", "none")])
            .expect("it is right")
            .allow
            .is_empty()
    );
    assert!(load(LEAST, &[]).expect("it is right").fleet.is_none());
    for (variables, key) in [
        (&[("FLEET_TRUST", "ops=12")][..], "fleet.trust"),
        (&[("FLEET_TRUST", "")], "fleet.trust"),
        (&[("FLEET_URL", "https://a")], "fleet.url"),
        (&[("FLEET_URL", "nats://user:word@a")], "fleet.url"),
        (&[("FLEET_HOST", "a b")], "fleet.host"),
        (&[("FLEET_GROUPS", "a*")], "fleet.groups"),
        (&[("FLEET_ALLOW", "everything")], "fleet.allow"),
        (&[("FLEET_CLIENT_CERT", "/a")], "fleet.client_key"),
        (&[("FLEET_CLIENT_KEY", "/a")], "fleet.client_cert"),
        (
            &[("FLEET_CREDS_FILE", "/a"), ("FLEET_NKEY_FILE", "/b")],
            "fleet.nkey_file",
        ),
        (&[("FLEET_URL", "")], "fleet.trust"),
    ] {
        let refused = fleet(variables).expect_err(key).to_string();
        assert!(refused.contains(key), "{refused}");
    }
}
