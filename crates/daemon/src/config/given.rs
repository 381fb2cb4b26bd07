//! The value that one place (environment, file, flags) gives a key, by its name or a former name.

use std::collections::BTreeMap;

use super::keys::Key;
use super::load::ConfigError;
use super::setting::{Origin, Setting};
use super::{theirs, trim};

/// In the environment.
pub(super) fn in_environment(
    key: &'static Key,
    environment: &impl Fn(&str) -> Option<String>,
    warnings: &mut Vec<String>,
) -> Result<Option<Setting>, ConfigError> {
    let mut get = |name: &'static str| {
        let text = environment(name).filter(|text| !trim::trimmed(text).is_empty())?;
        Some(Setting {
            text: theirs::value(key.path, name, &text, environment, warnings)?,
            origin: Origin::Environment(name),
        })
    };
    let former = key.former.as_ref().and_then(|former| get(former.env));
    let is_place = matches!(key.path, "server.host" | "server.port");
    let older = is_place.then_some(theirs::LISTEN_ADDR);
    let now = key.env.iter().copied().chain(older).find_map(get);
    one_of(key, "environment", now, former)
}

/// In the file, taken out of what is left of it.
pub(super) fn in_file(
    key: &'static Key,
    file: &mut BTreeMap<String, String>,
) -> Result<Option<Setting>, ConfigError> {
    let mut take = |path: &'static str| {
        Some(Setting {
            text: file.remove(path)?,
            origin: Origin::File(path),
        })
    };
    let now = take(key.path);
    let former = key.former.as_ref().and_then(|former| take(former.path));
    one_of(key, "file", now, former)
}

/// A flag with this path, after the flags that came before it. The last of several counts.
pub(super) fn by_flag(
    key: &'static Key,
    path: &str,
    text: &str,
    before: Option<&Setting>,
) -> Result<Setting, ConfigError> {
    let former = key.former.as_ref().map(|former| former.path);
    let name = former.filter(|former| *former == path).unwrap_or(key.path);
    let setting = Setting {
        text: text.to_owned(),
        origin: Origin::Flag(name),
    };
    let other = before.filter(|before| {
        matches!(before.origin, Origin::Flag(other) if other != name && before.text != text)
    });
    match (other, former) {
        (Some(_), Some(former)) => Err(ConfigError::SetTwice {
            now: key.path,
            former,
            place: "command line",
        }),
        _ => Ok(setting),
    }
}

/// What a key is set to by its name or by its former one.
fn one_of(
    key: &'static Key,
    place: &'static str,
    now: Option<Setting>,
    former: Option<Setting>,
) -> Result<Option<Setting>, ConfigError> {
    match (now, former) {
        (Some(now), Some(former)) if now.text != former.text => Err(ConfigError::SetTwice {
            now: now.origin.name().unwrap_or(key.path),
            former: former.origin.name().unwrap_or(key.path),
            place,
        }),
        (now, former) => Ok(now.or(former)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::super::keys::{Former, KEYS, Kind};
    use super::super::{Config, Settings, StaleData};
    use super::*;

    fn load(yaml: &str, variables: &[(&str, &str)]) -> Result<Settings, ConfigError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(yaml.as_bytes()).unwrap();
        Settings::load(file.path(), true, |name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn setting(settings: &Settings, key: &Key) -> Setting {
        let mut all = settings.iter();
        all.find(|(other, _)| other.path == key.path)
            .unwrap()
            .1
            .clone()
    }

    fn yaml(entries: &[(&str, &str)]) -> String {
        let line = |(path, value): &(&str, &str)| {
            let (section, name) = path.split_once('.').unwrap();
            format!("{section}: {{{name}: {value}}}\n")
        };
        entries.iter().map(line).collect()
    }

    /// Two different values of the key that are not its default.
    fn values(key: &Key) -> [&'static str; 2] {
        match key.kind {
            Kind::Bool => ["true", "false"],
            Kind::Size => ["7G", "8G"],
            Kind::OneOf(words) => [words[1], words[2]],
            _ => panic!("{}", key.path),
        }
    }

    /// Runs a check for every key that has a former name.
    fn each(check: impl Fn(&'static Key, &'static Former, [&'static str; 2])) {
        let moved = KEYS
            .iter()
            .filter_map(|key| Some((key, key.former.as_ref()?)));
        let mut count = 0;
        for (key, former) in moved {
            check(key, former, values(key));
            count += 1;
        }
        assert_eq!(count, 3);
    }

    #[test]
    fn a_keys_former_names_set_it() {
        each(|key, former, [value, _]| {
            let settings = load(&yaml(&[(former.path, value)]), &[]).unwrap();
            let found = setting(&settings, key);
            assert_eq!(found.text, value);
            assert_eq!(found.origin, Origin::File(former.path));
            let settings = load("", &[(former.env, value)]).unwrap();
            let found = setting(&settings, key);
            assert_eq!(found.text, value);
            assert_eq!(found.origin, Origin::Environment(former.env));
            let mut settings = load("", &[]).unwrap();
            settings.set(former.path, value).unwrap();
            assert_eq!(setting(&settings, key).text, value);
        });
        let variables = [
            ("MINIO_ENDPOINT", "http://s3"),
            ("LVM_ADOPT_UNTAGGED", "true"),
            ("LVM_STALE_DATA", "keep"),
            ("LVM_MAX_WRITE_BYTES_PER_SEC", "7"),
        ];
        let volumes = Config::from_settings(&load("", &variables).unwrap())
            .unwrap()
            .volumes;
        assert!(volumes.adopt_untagged);
        assert_eq!(volumes.stale_data, StaleData::Keep);
        assert_eq!(volumes.max_write_bytes_per_sec, Some(7));
    }

    #[test]
    fn both_names_in_one_place_must_have_the_same_value() {
        each(|key, former, [value, other]| {
            let refused = |result: Result<Settings, ConfigError>, names: [&str; 2], place: &str| {
                let error = result.unwrap_err().to_string();
                let [now, former] = names;
                let expected = format!("{now} and {former} are both set in the {place}, ");
                assert!(error.starts_with(&expected), "{error}");
                assert!(error.contains(&format!("remove {former}")), "{error}");
            };
            let paths = [key.path, former.path];
            let both = yaml(&[(key.path, value), (former.path, other)]);
            refused(load(&both, &[]), paths, "file");
            refused(load(&both, &[(key.env[0], value)]), paths, "file");
            let both = [(key.env[0], value), (former.env, other)];
            refused(load("", &both), [key.env[0], former.env], "environment");
            for [first, second] in [paths, [former.path, key.path]] {
                let mut settings = load("", &[]).unwrap();
                settings.set(first, value).unwrap();
                let set = settings.set(second, other).map(|()| settings);
                refused(set, paths, "command line");
            }

            let same = yaml(&[(key.path, value), (former.path, value)]);
            let variables = [(key.env[0], value), (former.env, value)];
            let mut settings = load(&same, &variables).unwrap();
            assert_eq!(setting(&settings, key).text, value);
            for path in paths {
                settings.set(path, value).unwrap();
            }
        });
    }

    #[test]
    fn a_place_above_another_wins_by_either_name() {
        each(|key, former, [value, other]| {
            for in_file in [key.path, former.path] {
                let file = yaml(&[(in_file, value)]);
                for variable in [key.env[0], former.env] {
                    let mut settings = load(&file, &[(variable, other)]).unwrap();
                    assert_eq!(setting(&settings, key).text, other);
                    settings.set(in_file, value).unwrap();
                    assert_eq!(setting(&settings, key).text, value);
                }
            }
        });
    }

    #[test]
    fn a_wrong_value_is_refused_by_the_name_that_it_was_given() {
        let error = load("lvm: {stale_data: burn}", &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "volumes.stale_data must be one of zero, edges, keep, not \"burn\" (from the file, by its \
             former name lvm.stale_data)"
        );
        let error = load("", &[("LVM_STALE_DATA", "burn")]).unwrap_err();
        let text = error.to_string();
        assert!(
            text.ends_with("(from the environment LVM_STALE_DATA)"),
            "{text}"
        );
    }
}
