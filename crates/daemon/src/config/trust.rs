//! Section `trust`: which images need a signature, and by whose key.
//!
//! A prefix is compared with what an image is called once its URL was read: `BUCKET/KEY` of an object, `web:HOST/PATH`
//! of anything else, decoded. So no other spelling of a URL gets around a rule.

use std::path::PathBuf;

use url::Url;

use super::words::SignaturePolicy;
use super::{Addressing, ConfigError, Settings, endpoints};

/// Section `trust`.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Policies by prefix, the longest first.
    pub rules: Vec<(String, SignaturePolicy)>,
    /// Files with keys, each with the prefix of the images that they are for.
    pub keys: Vec<(String, PathBuf)>,
}

impl Trust {
    pub(super) fn new(settings: &Settings) -> Result<Self, ConfigError> {
        let endpoint = settings.optional_text("minio.endpoint");
        let endpoint = endpoint.and_then(|endpoint| endpoints::s3(&endpoint).ok());
        let addressing = settings.named("minio.addressing")?;
        let prefix = |text: &str| prefix(text, endpoint.as_ref(), addressing);
        let mut rules = vec![(String::new(), settings.named("trust.policy")?)];
        for entry in settings.list("trust.rules") {
            let rule = entry
                .rsplit_once('=')
                .ok_or_else(|| "it has no '='".to_owned());
            let rule = rule.and_then(|(text, policy)| {
                let policy = policy.parse::<SignaturePolicy>();
                Ok((prefix(text)?, policy.map_err(|error| error.to_string())?))
            });
            rules.push(rule.map_err(|why| invalid("trust.rules", &entry, &why))?);
        }
        rules.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        if let Some(twice) = rules.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let why = "another rule is for the same prefix";
            return Err(invalid("trust.rules", &twice[0].0, why));
        }
        let mut keys = Vec::new();
        for entry in settings.list("trust.keys") {
            let key = match entry.rsplit_once("=/") {
                Some((text, path)) => {
                    prefix(text).map(|prefix| (prefix, format!("/{path}").into()))
                }
                None if entry.starts_with('/') => Ok((String::new(), PathBuf::from(&entry))),
                None => Err("the file's path has to begin with a slash".to_owned()),
            };
            keys.push(key.map_err(|why| invalid("trust.keys", &entry, &why))?);
        }
        let is_asked = rules
            .iter()
            .any(|(_, policy)| *policy != SignaturePolicy::Off);
        let misfit = |key, reason: &str| ConfigError::Invalid {
            key,
            reason: reason.to_owned(),
        };
        match (is_asked, keys.is_empty()) {
            (true, true) => Err(misfit(
                "trust.keys",
                "is needed when trust.policy or trust.rules ask for signatures",
            )),
            (false, false) => Err(misfit(
                "trust.policy",
                "is off for all images, so trust.keys would do nothing: set if-present or required",
            )),
            _ => Ok(Self { rules, keys }),
        }
    }
}

fn invalid(key: &'static str, entry: &str, why: &str) -> ConfigError {
    ConfigError::Invalid {
        key,
        reason: format!("has {entry:?}, which cannot be used: {why}"),
    }
}

/// A prefix as names of images begin.
fn prefix(text: &str, endpoint: Option<&Url>, addressing: Addressing) -> Result<String, String> {
    if text.starts_with("http://") || text.starts_with("https://") {
        let url = Url::parse(text).map_err(|error| error.to_string())?;
        if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() {
            return Err("a prefix has no query, fragment or credentials".to_owned());
        }
        let is_endpoint_s = |endpoint: &Url| {
            let below = url
                .host_str()
                .and_then(|host| host.strip_suffix(endpoint.host_str()?));
            // Where buckets are hosts, no web server has such a name, and a rule for one would never hold.
            below.is_some_and(|below| {
                below.is_empty() || (addressing != Addressing::Path && below.ends_with('.'))
            })
        };
        if endpoint.is_some_and(is_endpoint_s) {
            return Err("images of minio.endpoint are named BUCKET/FOLDER/".to_owned());
        }
        // As keys are: decoded.
        let path = text.splitn(4, '/').nth(3).unwrap_or_default();
        return Ok(web_name(&url, path));
    }
    let text = text.strip_prefix("s3://").unwrap_or(text);
    let (bucket, _) = text.split_once('/').unwrap_or((text, ""));
    let is_name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match bucket {
        "" => Err("it names no bucket".to_owned()),
        bucket if !bucket.chars().all(is_name) => Err(format!("{bucket:?} is no bucket's name")),
        // Another bucket may begin with the same letters.
        _ if text == bucket => Ok(format!("{bucket}/")),
        _ => Ok(text.to_owned()),
    }
}

/// What a file of the web is called, by its URL's host and its decoded path: with either scheme it is the same
/// file, and servers take several slashes for one.
pub fn web_name(url: &Url, path: &str) -> String {
    let mut name = format!("web:{}", url.host_str().unwrap_or_default());
    if let Some(port) = url.port() {
        name.push_str(&format!(":{port}"));
    }
    let mut last = ' ';
    name.push('/');
    for c in path.trim_start_matches('/').chars() {
        if (c, last) != ('/', '/') {
            name.push(c);
        }
        last = c;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(variables: &[(&str, &str)]) -> Result<Trust, String> {
        let found = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let settings = Settings::load("/no/config.yaml".as_ref(), false, found);
        Trust::new(&settings.map_err(|error| error.to_string())?).map_err(|error| error.to_string())
    }

    #[test]
    fn the_longest_prefix_comes_first_and_what_cannot_work_is_refused() {
        let trust = load(&[
            ("TRUST_POLICY", "required"),
            ("TRUST_RULES", "a=off,a/b/c=if-present,a/b/=required"),
            ("TRUST_KEYS", "/k.asc,a/b/=/other.asc"),
        ]);
        let trust = trust.expect("it is right");
        let prefixes: Vec<_> = trust
            .rules
            .iter()
            .map(|(prefix, _)| prefix.as_str())
            .collect();
        assert_eq!(prefixes, ["a/b/c", "a/b/", "a/", ""]);
        assert_eq!(
            trust.keys,
            [
                (String::new(), "/k.asc".into()),
                ("a/b/".to_owned(), "/other.asc".into())
            ]
        );
        for (variables, words) in [
            (&[("TRUST_POLICY", "required")][..], "trust.keys is needed"),
            (&[("TRUST_KEYS", "/k.asc")], "would do nothing"),
            (&[("TRUST_RULES", "images")], "no '='"),
            (&[("TRUST_RULES", "images/=always")], "required"),
            (&[("TRUST_RULES", "a=off,a/=required")], "same prefix"),
            (&[("TRUST_KEYS", "k.asc")], "begin with a slash"),
        ] {
            let error = load(variables).expect_err("it cannot work");
            assert!(error.contains(words), "{words:?} is not in {error:?}");
        }
    }

    #[test]
    fn a_prefix_is_what_names_of_images_begin_with() {
        let endpoint = Url::parse("https://s3.example.com:9000").expect("it is a URL");
        let of = |text: &str| prefix(text, Some(&endpoint), Addressing::Path).ok();
        let below = "https://images.s3.example.com/a";
        assert_eq!(of(below).as_deref(), Some("web:images.s3.example.com/a"));
        let error = prefix(below, Some(&endpoint), Addressing::Virtual);
        assert!(
            error
                .expect_err("it is a bucket")
                .contains("BUCKET/FOLDER/")
        );
        for (text, name) in [
            ("images", Some("images/")),
            ("images/deb", Some("images/deb")),
            ("s3://images/deb/", Some("images/deb/")),
            ("https://Web.example.com", Some("web:web.example.com/")),
            (
                "http://web.example.com:80/a b//c/",
                Some("web:web.example.com/a b/c/"),
            ),
            (
                "https://web.example.com:8443/a",
                Some("web:web.example.com:8443/a"),
            ),
            ("https://s3.example.com:9000/images/", None),
            ("https://web.example.com/?a", None),
            ("", None),
            ("/images", None),
            ("im ages/", None),
        ] {
            assert_eq!(of(text).as_deref(), name, "{text}");
        }
    }
}
