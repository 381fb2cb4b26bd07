//! The words of keys that have a fixed choice of them.

use lvp_api::named;

/// The back ends by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendKind {
    /// Logical volumes.
    Lvm,
    /// Files in a directory.
    Dir,
}

named!(BackendKind, "back end of volumes", { Lvm => "lvm", Dir => "dir" });

/// How the buckets of object storage are addressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Addressing {
    /// In the path: `ENDPOINT/BUCKET/KEY`.
    Path,
    /// As hosts, `BUCKET.ENDPOINT/KEY`, where a bucket's name allows it.
    Virtual,
    /// As hosts where the endpoint is a domain's name and its certificate can cover them.
    Auto,
}

named!(Addressing, "addressing of buckets", { Path => "path", Virtual => "virtual", Auto => "auto" });

/// Where the credentials for object storage come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialSource {
    /// The configured keys; without any, requests are not signed.
    Keys,
    /// A token service, for a token in a file.
    WebIdentity,
    /// The agent of a container.
    Container,
    /// The metadata service of a virtual machine.
    Instance,
}

named!(CredentialSource, "source of credentials", {
    Keys => "keys",
    WebIdentity => "web-identity",
    Container => "container",
    Instance => "instance",
});

/// What a reverse proxy before object storage does with the path in the endpoint's URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointPath {
    /// The server gets it, and signatures cover it.
    Keep,
    /// The proxy removes it, and signatures cover what is left.
    Strip,
}

named!(EndpointPath, "treatment of the endpoint's path", { Keep => "keep", Strip => "strip" });

/// What is asked of an image's signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignaturePolicy {
    /// They are not looked for.
    Off,
    /// One that is there has to be good.
    IfPresent,
    /// One has to be there, and good.
    Required,
}

named!(SignaturePolicy, "policy for signatures", { Off => "off", IfPresent => "if-present", Required => "required" });

/// What happens to older data between the image's end and the volume's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StaleData {
    /// All of it reads zero afterwards.
    Zero,
    /// Its first and last MiB read zero afterwards.
    Edges,
    /// It stays.
    Keep,
}

named!(StaleData, "treatment of older data", { Zero => "zero", Edges => "edges", Keep => "keep" });

/// Whether volumes are cloned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloneUse {
    /// As each request says, where the back end can.
    Auto,
    /// On no account.
    Never,
}

named!(CloneUse, "use of clones", { Auto => "auto", Never => "never" });

/// Whether jobs step aside for others that use the same disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum YieldUse {
    /// Where it can be measured what others do.
    Auto,
    /// On no account.
    Off,
}

named!(YieldUse, "way to yield", { Auto => "auto", Off => "off" });

/// When images in the cache get unpacked copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnpackedUse {
    /// When it pays, and there is room for them.
    Auto,
    /// On no account; those that are there are removed.
    Never,
    /// The first time that an image is copied, in the place of what was not used for longer.
    Always,
}

named!(UnpackedUse, "use of unpacked copies", { Auto => "auto", Never => "never", Always => "always" });

/// Whether compressed data is decoded in a process that can do nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxUse {
    /// Yes, and the daemon does not start unless the kernel restricts it by all that matters.
    Require,
    /// Yes, restricted by what this kernel has; in the daemon's own process where none can be started.
    Auto,
    /// No.
    Off,
}

named!(SandboxUse, "use of the sandbox", { Require => "require", Auto => "auto", Off => "off" });

/// Stream of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
}

named!(LogOutput, "stream of the log", { Stderr => "stderr", Stdout => "stdout" });

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// One line of text.
    Text,
}

named!(LogFormat, "form of a log line", { Json => "json", Text => "text" });

/// Where traces go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceExporter {
    /// To the collector.
    Otlp,
    /// To standard output.
    Stdout,
    /// Nowhere.
    None,
}

named!(TraceExporter, "exporter of traces", { Otlp => "otlp", Stdout => "stdout", None => "none" });

/// Protocol of the collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// gRPC.
    Grpc,
    /// Protocol buffers posted over HTTP.
    HttpProtobuf,
}

named!(OtlpProtocol, "protocol of OTLP", { Grpc => "grpc", HttpProtobuf => "http/protobuf" });

/// Compression of what is sent to the collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
}

named!(Compression, "compression", { None => "none", Gzip => "gzip" });

/// How traces are sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceSampler {
    /// All of them.
    AlwaysOn,
    /// None.
    AlwaysOff,
    /// A share.
    Ratio,
    /// All, unless the client decided otherwise.
    ParentOn,
    /// None, unless the client decided otherwise.
    ParentOff,
    /// A share, unless the client decided otherwise.
    ParentRatio,
}

named!(TraceSampler, "sampler of traces", {
    AlwaysOn => "always_on",
    AlwaysOff => "always_off",
    Ratio => "traceidratio",
    ParentOn => "parentbased_always_on",
    ParentOff => "parentbased_always_off",
    ParentRatio => "parentbased_traceidratio",
});

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Display};
    use std::str::FromStr;

    use lvp_api::names::UnknownName;

    use super::super::Settings;
    use super::super::keys::{KEYS, Kind};
    use super::super::load::ConfigError;
    use super::*;

    /// Every word of the key is read back, and any other is refused.
    fn check<T>(path: &'static str, all: &[T])
    where
        T: Copy + Debug + Display + PartialEq + FromStr<Err = UnknownName>,
    {
        let key = KEYS.iter().find(|key| key.path == path).unwrap();
        let words: Vec<_> = all.iter().map(ToString::to_string).collect();
        assert!(
            matches!(key.kind, Kind::OneOf(known) | Kind::Words(known) | Kind::Stream(known) if known == words),
            "{path}"
        );
        assert!(key.default.parse::<T>().is_ok(), "{path}");
        let mut settings = Settings::load("/no/config.yaml".as_ref(), false, |_| None).unwrap();
        for one in all {
            assert_eq!(&one.to_string().parse::<T>().unwrap(), one);
            settings.set(path, &one.to_string()).unwrap();
        }
        // Operators write them in any case.
        let shouted = words[0].to_uppercase();
        settings.set(path, &shouted).unwrap();
        assert_eq!(settings.named::<T>(path).unwrap(), all[0]);
        for unknown in ["other", &format!("{}x", words[0])] {
            assert!(unknown.parse::<T>().is_err(), "{path} {unknown:?}");
            let refused = settings.set(path, unknown);
            assert!(
                matches!(&refused, Err(ConfigError::Invalid { key, .. }) if *key == path),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn every_word_is_read_back_and_an_unknown_one_is_refused() {
        check("volumes.backend", &BackendKind::ALL);
        check("volumes.stale_data", &StaleData::ALL);
        check("minio.credentials", &CredentialSource::ALL);
        check("minio.endpoint_path", &EndpointPath::ALL);
        check("volumes.clone", &CloneUse::ALL);
        check("cache.unpacked", &UnpackedUse::ALL);
        check("image.sandbox", &SandboxUse::ALL);
        check("volumes.yield", &YieldUse::ALL);
        check("volumes.expand", &lvp_api::Expand::ALL);
        check("logging.format", &LogFormat::ALL);
        check("logging.output", &LogOutput::ALL);
        check("tracing.exporters", &TraceExporter::ALL);
        check("tracing.protocol", &OtlpProtocol::ALL);
        check("tracing.compression", &Compression::ALL);
        check("tracing.sampler", &TraceSampler::ALL);
    }
}
