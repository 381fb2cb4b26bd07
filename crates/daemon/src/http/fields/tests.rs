use super::*;

const KNOWN: &[&str] = &[
    "image_url",
    "volume_name",
    "volume_size_gb",
    "image_type",
    "adopt",
];

fn read(body: &str) -> Result<Fields, String> {
    Fields::of_json(body.as_bytes(), KNOWN).map_err(|error| error.message().to_owned())
}

#[test]
fn an_error_names_the_field_what_was_expected_and_what_was_found() {
    for (value, found) in [
        (r#""1""#, r#"the string "1""#),
        ("1.0", "the number 1.0"),
        ("-1", "the number -1"),
        ("true", "true"),
        ("[1]", "a list"),
        ("{}", "an object"),
    ] {
        let fields = read(&format!(r#"{{"volume_size_gb": {value}}}"#)).unwrap();
        let error = fields.whole::<u64>("volume_size_gb").unwrap_err();
        let expected = format!("volume_size_gb: must be a whole number, not {found}");
        assert_eq!(error.message(), expected);
    }
    let fields = read(r#"{"volume_name": 100, "adopt": "yes"}"#).unwrap();
    let error = fields.text("volume_name").unwrap_err();
    assert_eq!(
        error.message(),
        "volume_name: must be a string, not the number 100"
    );
    let error = fields.truth("adopt").unwrap_err();
    assert_eq!(
        error.message(),
        r#"adopt: must be true or false, not the string "yes""#
    );
}

#[test]
fn null_is_no_field_whatever_the_field_is() {
    for name in KNOWN {
        let fields = read(&format!(r#"{{"{name}": null}}"#)).unwrap();
        assert_eq!(fields.text(name).ok(), Some(None));
        assert_eq!(fields.whole::<u64>(name).ok(), Some(None));
        assert_eq!(fields.truth(name).ok(), Some(None));
    }
}

#[test]
fn an_unknown_field_is_ignored_with_a_warning() {
    let fields = read(r#"{"priority": 1, "image_url": "x", "labels": {"a": []}}"#).unwrap();
    assert_eq!(fields.text("image_url").ok(), Some(Some("x".to_owned())));
    let warnings = fields.warnings();
    assert_eq!(
        warnings,
        [
            "priority: unknown field, ignored",
            "labels: unknown field, ignored"
        ]
    );
    let many: Vec<_> = (0..300).map(|n| format!(r#""zz{n}\n": 1"#)).collect();
    let warnings = read(&format!("{{{}}}", many.join(","))).unwrap().warnings();
    assert_eq!(warnings.len(), 11);
    assert!(warnings[10].starts_with("290 more"), "{warnings:?}");
    assert!(!warnings[0].contains('\n'), "{warnings:?}");
}

#[test]
fn a_misspelt_name_is_refused_and_the_right_one_is_named() {
    for (name, meant) in [
        ("volume_size_bg", "volume_size_gb"),
        ("volume_size", "volume_size_gb"),
        ("volumeSizeGb", "volume_size_gb"),
        ("volume-size-gb", "volume_size_gb"),
        ("image_uri", "image_url"),
        ("imageurl", "image_url"),
        ("volume_nmae", "volume_name"),
        ("imgae_type", "image_type"),
        ("adpot", "adopt"),
    ] {
        let error = read(&format!(r#"{{"{name}": null}}"#)).unwrap_err();
        assert!(error.starts_with(name) && error.contains(meant), "{error}");
    }
    // One letter too few or twice is noticed in every name.
    for known in KNOWN {
        for at in 0..known.len() {
            let mut letters: Vec<char> = known.chars().collect();
            let letter = letters.remove(at);
            let lost: String = letters.iter().collect();
            letters.insert(at, letter);
            letters.insert(at, letter);
            let doubled: String = letters.iter().collect();
            for misspelt in [lost, doubled] {
                assert_eq!(meant(&misspelt, KNOWN), Some(*known), "{misspelt}");
            }
        }
    }
    for stranger in [
        "labels",
        "priority",
        "callback",
        "namespace",
        "format",
        "size_gb",
        "bucket",
        "os",
    ] {
        assert_eq!(meant(stranger, KNOWN), None, "{stranger}");
    }
}

#[test]
fn a_name_is_known_in_any_case_and_only_once() {
    let fields = read(r#"{"Image_URL": "x"}"#).unwrap();
    assert_eq!(fields.text("image_url").ok(), Some(Some("x".to_owned())));
    let error = read(r#"{"image_url": "x", "IMAGE_URL": "y"}"#).unwrap_err();
    assert_eq!(error, "image_url: is given twice");
}

#[test]
fn a_body_that_is_not_an_object_is_described_in_the_error() {
    for (body, found) in [
        ("[]", "a list"),
        ("null", "null"),
        ("1", "the number 1"),
        (r#""x""#, "the string"),
    ] {
        let error = read(body).unwrap_err();
        assert!(
            error.contains("must be a JSON object") && error.contains(found),
            "{error}"
        );
    }
    assert!(read("{").unwrap_err().starts_with("The body is not JSON"));
}
