//! Addresses of other services, and the address to listen on. All are read here, so that `config check` refuses what
//! cannot be used.

use std::net::{IpAddr, Ipv4Addr};

use url::{Host, Url};

/// What a service's URL may have besides a host and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beyond {
    /// A path.
    Path,
    /// A path, a query and credentials may be part of it.
    Anything,
}

/// The S3 server's URL. Without a scheme, `https://` is meant.
pub fn s3(text: &str) -> Result<Url, String> {
    let url = service(text, Beyond::Path)
        .map_err(|why| format!("cannot be used: {why}; write it as https://HOST:PORT"))?;
    with_folder(url).map_err(|why| format!("cannot be used: {why}"))
}

/// How many mirrors there may be.
pub const MAX_MIRRORS: usize = 8;

/// The URL of a cache in front of the S3 server: it has the server's paths, so there is none in its URL.
pub fn mirror(text: &str) -> Result<Url, String> {
    let usable = match text.contains("://") {
        true => service(text, Beyond::Path).and_then(|url| match url.path() {
            "" | "/" => Ok(url),
            _ => Err("a mirror's URL has no path"),
        }),
        false => Err("it must begin with http:// or https://"),
    };
    usable.map_err(|why| format!("cannot be used: {why}; write it as http://HOST:PORT"))
}

/// The collector's URL. Without a scheme, this one is meant.
pub(super) fn collector(text: &str, scheme: &str) -> Result<Url, String> {
    let absolute = match text.contains("://") {
        true => text.to_owned(),
        false => format!("{scheme}://{text}"),
    };
    let url = service(&absolute, Beyond::Anything)
        .and_then(|url| match url.query().or(url.fragment()) {
            Some(_) => Err("it has a query or a fragment"),
            None => Ok(url),
        })
        .and_then(|url| match has_credentials(&url) {
            true => Err("it has credentials in it: set OTEL_EXPORTER_OTLP_HEADERS instead"),
            false => Ok(url),
        });
    url.map_err(|why| {
        format!("cannot be used: {why}; it must be a URL such as https://otel.example.com:4317")
    })
}

/// Where people look at a trace, with a place for its id.
pub(super) fn trace(text: &str) -> Result<(), String> {
    let known = || text.contains("{trace_id}").then_some(());
    let url = known().and_then(|()| Url::parse(&text.replace("{trace_id}", "0")).ok());
    match url {
        Some(url) if matches!(url.scheme(), "http" | "https") && !has_credentials(&url) => Ok(()),
        _ => Err(
            "cannot be used: it must be a URL with the place of the id, such as \
             https://jaeger.example.com/trace/{trace_id}"
                .to_owned(),
        ),
    }
}

/// A URL that something is posted to. It may hold secrets, so error texts do not show it.
pub(super) fn receiver(text: &str) -> Result<Url, &'static str> {
    match text.contains("://") {
        true => service(text, Beyond::Anything),
        false => Err("it must begin with http:// or https://"),
    }
}

/// `host` or `host:port` of `minio.allowed_hosts`, or the same after `*.`, which is kept: any host below a domain.
pub fn allowed_host(entry: &str) -> Result<(String, Option<u16>), &'static str> {
    if let Some(domain) = entry.strip_prefix("*.").filter(|rest| !rest.contains('*')) {
        let (host, port) = allowed_host(domain)?;
        // Below `com`, or an address, anybody may be.
        let is_address = host.starts_with('[') || host.parse::<Ipv4Addr>().is_ok();
        return match host.contains('.') && !is_address {
            true => Ok((format!("*.{host}"), port)),
            false => Err("a wildcard needs a domain with a dot after it: *.example.com"),
        };
    }
    if entry.contains('*') {
        return Err("a wildcard is supported only as the whole first part: *.example.com");
    }
    if entry.is_empty() || entry.contains(['/', '@', '?', '#', '\\']) {
        return Err("it is neither a host nor host:port");
    }
    // Parsing drops a scheme's default port, but no port is the default of both schemes.
    let parse = |scheme: &str| {
        Url::parse(&format!("{scheme}://{entry}/")).map_err(|_| match entry.matches(':').count() {
            0 | 1 => "it is neither a host nor host:port",
            _ => "an IPv6 address needs brackets, such as [::1]:9000",
        })
    };
    let (http, https) = (parse("http")?, parse("https")?);
    let host = http.host_str().ok_or("it names no host")?;
    Ok((host.to_owned(), http.port().or(https.port())))
}

/// The address to listen on.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    match bare {
        "localhost" => Ok(Ipv4Addr::LOCALHOST.into()),
        bare => bare.parse().map_err(|_| {
            format!(
                "must be an IP address of this host, such as 0.0.0.0, 127.0.0.1 or ::, not {text:?}"
            )
        }),
    }
}

fn service(text: &str, beyond: Beyond) -> Result<Url, &'static str> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("https", text));
    if !matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https") {
        return Err("only http and https are supported");
    }
    if rest.chars().any(char::is_whitespace) {
        return Err("it has spaces in it");
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() {
        return Err("it names no host");
    }
    if rest.contains('\\') {
        return Err("it has a backslash in it");
    }
    let host = authority.rsplit('@').next().unwrap_or_default();
    if !host.contains('[') && host.matches(':').count() > 1 {
        return Err("an IPv6 address needs brackets, such as http://[::1]:9000");
    }
    if host.contains('*') {
        return Err("its host has a wildcard");
    }
    let url = Url::parse(&format!("{scheme}://{rest}")).map_err(|_| "it is not a URL")?;
    match url.host() {
        Some(Host::Domain("")) | None => return Err("it names no host"),
        Some(_) => {}
    }
    if url.port() == Some(0) {
        return Err("port 0 cannot be connected to");
    }
    if beyond == Beyond::Path {
        if has_credentials(&url) {
            return Err("it carries credentials");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("it has a query or a fragment");
        }
    }
    Ok(url)
}

/// The URL with a slash at the end of its path, which must be one that no server or library reads in another way.
fn with_folder(mut url: Url) -> Result<Url, &'static str> {
    let path = url.path().trim_end_matches('/').to_owned();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    if !path.bytes().all(is_plain) || path.contains("//") {
        return Err(
            "its path may have letters, digits, '-', '.', '_', '~' and single slashes only",
        );
    }
    url.set_path(&format!("{path}/"));
    Ok(url)
}

fn has_credentials(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_named_by_scheme_host_and_port() {
        for (text, expected) in [
            ("minio.example.com", "https://minio.example.com/"),
            ("minio:9000", "https://minio:9000/"),
            ("HTTP://minio:9000/", "http://minio:9000/"),
            ("http://[::1]:9000", "http://[::1]:9000/"),
            ("[::1]:9000", "https://[::1]:9000/"),
            ("http://127.0.0.1:9000", "http://127.0.0.1:9000/"),
            ("http://h/minio", "http://h/minio/"),
            ("h/a/b//", "https://h/a/b/"),
            ("http://h/a/../b", "http://h/b/"),
        ] {
            assert_eq!(
                s3(text).map(String::from),
                Ok(expected.to_owned()),
                "{text}"
            );
        }
        for text in [
            "",
            "http://",
            "http:///",
            "https://:9000",
            "ftp://x",
            "s3://images",
            "file:///etc",
            "http://a:b@h",
            "http://a@h",
            "::1:9000",
            "http://::1:9000",
            "http://[::1",
            "http://h/a//b",
            "http://h/a%20b",
            "http://h/é",
            "http://h?x=1",
            "http://h#x",
            "http://h:0",
            "http://h:70000",
            "http://h:port",
            "http://*.example.com",
            "http://a b",
            "http:\\\\h",
            "http://h\\x",
        ] {
            assert!(s3(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_collector_without_a_scheme_gets_the_configured_one() {
        let url = |text, scheme| collector(text, scheme).map(String::from);
        assert_eq!(
            url("otel:4317", "https"),
            Ok("https://otel:4317/".to_owned())
        );
        assert_eq!(url("otel:4317", "http"), Ok("http://otel:4317/".to_owned()));
        assert_eq!(
            url("[::1]:4317", "http"),
            Ok("http://[::1]:4317/".to_owned())
        );
        assert_eq!(
            url("http://otel/v1/traces", "https"),
            Ok("http://otel/v1/traces".to_owned())
        );
        for text in [
            "grpc://otel:4317",
            "http://a:b@otel:4317",
            "::1:4317",
            "http://otel?x=1",
            "http://",
        ] {
            assert!(collector(text, "https").is_err(), "{text}");
        }
    }

    #[test]
    fn receivers_need_a_scheme_and_keep_their_secrets() {
        assert!(receiver("https://user:pass@logs.example.com/push?token=1").is_ok());
        for text in [
            "logs.example.com",
            "ftp://x/y",
            "http://",
            "http://::1:3100",
            "https:// x",
        ] {
            assert!(receiver(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hosts_are_named_one_by_one() {
        let read = |entry| allowed_host(entry).ok();
        assert_eq!(
            read("a.example.com"),
            Some(("a.example.com".to_owned(), None))
        );
        let below = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(read("*.Example.org"), below("*.example.org", None));
        assert_eq!(
            read("*.example.org:8443"),
            below("*.example.org", Some(8443))
        );
        assert_eq!(read("A:443"), Some(("a".to_owned(), Some(443))));
        assert_eq!(read("[::1]:9000"), Some(("[::1]".to_owned(), Some(9000))));
        for entry in [
            "",
            "*",
            "*.org",
            "*.",
            "a.*.example.org",
            "*a.example.org",
            "*.*.example.org",
            "*.127.0.0.1",
            "*.[::1]",
            "http://a",
            "a/b",
            "::1:9000",
            "a:b",
            "u@h",
            "a b",
        ] {
            assert_eq!(read(entry), None, "{entry}");
        }
    }

    #[test]
    fn addresses_to_listen_on_are_numbers_with_or_without_brackets() {
        for (text, expected) in [
            ("[::1]", "::1"),
            ("::", "::"),
            ("localhost", "127.0.0.1"),
            ("0.0.0.0", "0.0.0.0"),
        ] {
            assert_eq!(
                address(text).map(|ip| ip.to_string()),
                Ok(expected.to_owned())
            );
        }
        for text in [
            "",
            "kvm1.example.com",
            "[::1]:8080",
            "127.0.0.1:8080",
            "*",
            "10.0.0",
            "[127.0.0.1",
        ] {
            assert!(address(text).is_err(), "{text}");
        }
    }
}
