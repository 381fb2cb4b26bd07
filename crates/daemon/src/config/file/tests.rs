use super::*;

fn read_text(yaml: &str) -> Result<BTreeMap<String, String>, String> {
    read(
        "config.yaml".as_ref(),
        yaml,
        Strangers::Refused,
        &mut Vec::new(),
    )
    .map_err(|error| error.to_string())
}

const LOOKS: [&str; 16] = [
    "00123456",
    "0123",
    "12345678901234567890123",
    "1e10",
    "0x1F",
    "0o17",
    "12.50",
    "1_000",
    "yes",
    "No",
    "TRUE",
    ".inf",
    ".NaN",
    "2026-11-29",
    "1:30",
    "-0",
];

#[test]
fn text_is_taken_as_it_was_written_whatever_it_looks_like() {
    let texts = KEYS.iter().filter(|key| {
        !matches!(
            key.kind,
            Kind::Integer { .. } | Kind::Size | Kind::SizeOrAuto | Kind::MillisecondList
        )
    });
    for key in texts {
        let (section, name) = key.path.split_once('.').expect("it has a section");
        for text in LOOKS {
            for yaml in [
                format!("{section}: {{{name}: {text}}}\n"),
                format!("{section}:\n  {name}: {text}   # so\n"),
                format!("{section}: {{{name}: '{text}'}}\n"),
            ] {
                let read = read_text(&yaml).unwrap_or_else(|error| panic!("{yaml}: {error}"));
                assert_eq!(read[key.path], text, "{yaml}");
            }
        }
    }
    let yaml = format!("minio: {{allowed_hosts: [{}]}}", LOOKS.join(", "));
    assert_eq!(
        read_text(&yaml).expect("a list")["minio.allowed_hosts"],
        LOOKS.join(",")
    );
}

#[test]
fn null_counts_as_no_key_and_quotes_make_it_text() {
    for null in ["", "~", "null", "Null"] {
        let read = read_text(&format!("lvm: {{volume_group: {null}}}\n")).expect("it is read");
        assert!(read.is_empty(), "{null}: {read:?}");
    }
    let read = read_text("lvm: {volume_group: 'null'}").expect("it is read");
    assert_eq!(read["lvm.volume_group"], "null");
    assert_eq!(read_text("lvm:\n"), Ok(BTreeMap::new()));
    assert_eq!(read_text("\u{feff}# nothing\n"), Ok(BTreeMap::new()));
}

#[test]
fn an_ambiguous_value_is_refused_by_its_key() {
    for (yaml, expected) in [
        ("server: {port: 08080}", "server.port is 08080"),
        ("cache: {max_size_bytes: 010}", "without leading zeros"),
        ("lvm: {retry_backoff_ms: [1, 010]}", "without leading zeros"),
        (
            "minio: {access_key: [a, b]}",
            "minio.access_key must be a single value",
        ),
        (
            "minio: {access_key: {a: b}}",
            "minio.access_key must be a value",
        ),
        (
            "minio: {allowed_hosts: [[a]]}",
            "minio.allowed_hosts must be a value",
        ),
        (
            "minio: {allowed_hosts: [a, ~]}",
            "minio.allowed_hosts has an empty item",
        ),
        ("webhooks: {urls: ['http://a/?b=1,2']}", "write %2C"),
    ] {
        let error = read_text(yaml).expect_err(yaml);
        assert!(error.contains(expected), "{yaml}: {error}");
    }
}

#[test]
fn a_syntax_error_names_its_place_and_quotes_no_lines() {
    let error =
        read_text("minio:\n  secret_key: hunter2\n  access_key: [a\n").expect_err("it is open");
    assert!(error.contains("line"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}
