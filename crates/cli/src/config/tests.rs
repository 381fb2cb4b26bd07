use super::*;

fn settings(options: Layer, env: &[(&str, &str)]) -> Result<Settings, Failure> {
    let env = |name: &str| {
        let found = env.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    load(options, None, &env)
}

fn message(result: Result<Settings, Failure>) -> String {
    let failure = result.expect_err("it is wrong");
    assert_eq!(failure.exit, crate::exit::Exit::Usage);
    failure.to_string()
}

/// A home directory with a configuration file and a token file.
fn home(config: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().expect("a directory");
    let directory = home.path().join(".config/lvpctl");
    std::fs::create_dir_all(&directory).expect("a directory");
    std::fs::write(directory.join("config.yaml"), config).expect("a file");
    std::fs::write(directory.join("token"), "# for vm-01\n\n  from-file \n").expect("a file");
    home
}

#[test]
fn without_any_configuration_the_daemon_is_on_this_machine() {
    let settings = settings(Layer::default(), &[]).expect("defaults are valid");
    assert_eq!(settings.endpoint, "http://127.0.0.1:8080");
    assert!(settings.token.is_none() && settings.timeout.is_none());
    assert!(settings.warnings.is_empty());
}

#[test]
fn options_beat_the_environment_which_beats_the_file() {
    let home = home("endpoint: https://file:1\ntoken_file: token\ntimeout: 1h\n");
    let home = home.path().to_str().expect("an ASCII path");

    let from_file = settings(Layer::default(), &[("HOME", home)]).expect("valid");
    assert_eq!(from_file.endpoint, "https://file:1");
    assert_eq!(from_file.token, Some(Secret("from-file".to_owned())));
    assert_eq!(from_file.timeout, Some(Duration::from_secs(3600)));

    let env = [
        ("HOME", home),
        ("LVP_ENDPOINT", "https://env:2/"),
        ("LVP_TOKEN", "from-env"),
    ];
    let from_env = settings(Layer::default(), &env).expect("valid");
    assert_eq!(from_env.endpoint, "https://env:2");
    assert_eq!(from_env.token, Some(Secret("from-env".to_owned())));
    assert_eq!(from_env.timeout, Some(Duration::from_secs(3600)));

    let options = Layer {
        endpoint: Some("https://option:3/prefix".to_owned()),
        token_file: Some(Path::new(home).join(".config/lvpctl/token")),
        ..Layer::default()
    };
    let from_options = settings(options, &env).expect("valid");
    assert_eq!(from_options.endpoint, "https://option:3/prefix");
    assert_eq!(from_options.token, Some(Secret("from-file".to_owned())));
}

#[test]
fn an_unknown_key_in_the_file_is_refused_by_name() {
    let home = home("endpiont: https://a\n");
    let home = home.path().to_str().expect("an ASCII path");
    let message = message(settings(Layer::default(), &[("HOME", home)]));
    assert!(message.contains("endpiont"), "{message}");
    assert!(message.contains("config.yaml"), "{message}");
}

#[test]
fn a_file_of_comments_is_an_empty_configuration() {
    let home = home("# endpoint: https://a\n\n");
    let home = home.path().to_str().expect("an ASCII path");
    assert!(settings(Layer::default(), &[("HOME", home)]).is_ok());
}

#[test]
fn a_named_file_must_exist() {
    let message = message(settings(
        Layer::default(),
        &[("LVP_CONFIG", "/nonexistent")],
    ));
    assert!(message.contains("/nonexistent"), "{message}");
}

#[test]
fn a_token_that_others_can_read_is_warned_about() {
    let home = home("token: t0k3n\n");
    let home = home.path().to_str().expect("an ASCII path");
    let settings = settings(Layer::default(), &[("HOME", home)]).expect("valid");
    assert_eq!(settings.warnings.len(), 1);
    assert!(!format!("{settings:?}").contains("t0k3n"));
}

#[test]
fn a_token_over_plain_http_is_warned_about_unless_it_stays_on_this_machine() {
    for (endpoint, warnings) in [
        ("http://kvm-01:8080", 1),
        ("https://kvm-01:8080", 0),
        ("http://localhost:8080", 0),
        ("http://127.0.0.2:8080", 0),
        ("http://[::1]:8080", 0),
    ] {
        let env = [("LVP_ENDPOINT", endpoint), ("LVP_TOKEN", "t")];
        let settings = settings(Layer::default(), &env).expect("valid");
        assert_eq!(settings.warnings.len(), warnings, "{endpoint}");
    }
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_sent() {
    for env in [
        [("LVP_ENDPOINT", "kvm-01:8080"), ("", "")],
        [("LVP_ENDPOINT", "ftp://kvm-01"), ("", "")],
        [("LVP_ENDPOINT", "http://kvm-01/?a=b"), ("", "")],
        [("LVP_ENDPOINT", "http://me:secret@kvm-01"), ("", "")],
        [("LVP_TOKEN", "a"), ("LVP_TOKEN_FILE", "/b")],
        [("LVP_TOKEN", "a b"), ("", "")],
        [("LVP_TOKEN_FILE", "/dev/null"), ("", "")],
        [("LVP_CLIENT_CERT", "/a"), ("", "")],
        [("LVP_CLIENT_KEY", "/a"), ("", "")],
        [("LVP_TIMEOUT", "soon"), ("", "")],
    ] {
        let message = message(settings(Layer::default(), &env));
        assert!(!message.contains("secret"), "{message}");
    }
}

#[test]
fn durations_have_units() {
    for (text, millis) in [
        ("500ms", 500),
        ("90", 90_000),
        ("90s", 90_000),
        ("3m", 180_000),
        ("2h", 7_200_000),
        ("1.5h", 5_400_000),
        ("1h30m", 5_400_000),
    ] {
        assert_eq!(
            parse_duration(text),
            Ok(Duration::from_millis(millis)),
            "{text}"
        );
    }
    for text in [
        "",
        "s",
        "0",
        "0s",
        "-1s",
        "1h30",
        "1d",
        "99999h",
        "18446744073709551615h",
    ] {
        assert!(parse_duration(text).is_err(), "{text}");
    }
}
