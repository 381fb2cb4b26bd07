//! Which part of a URL's query identifies the object, and which is only a signature.
//!
//! A pre-signed URL is different each time it is made, for the same object. Known forms of signatures are left
//! out; everything else may identify the object and is kept: a second download is better than another object's
//! bytes.

/// One way of signing URLs.
struct Scheme {
    /// Parameters that are all present in a URL with this signature, in lower case.
    marks: &'static [&'static str],
    /// Parameters that belong to the signature, in lower case; `*` at the end stands for anything.
    parts: &'static [&'static str],
}

const SCHEMES: &[Scheme] = &[
    // AWS Signature Version 4, and what speaks S3.
    Scheme {
        marks: &["x-amz-signature"],
        parts: &["x-amz-*"],
    },
    // AWS Signature Version 2.
    Scheme {
        marks: &["awsaccesskeyid", "signature"],
        parts: &[
            "awsaccesskeyid",
            "signature",
            "expires",
            "x-amz-security-token",
        ],
    },
    // CloudFront.
    Scheme {
        marks: &["key-pair-id", "signature"],
        parts: &["key-pair-id", "signature", "policy", "expires"],
    },
    // Google Cloud Storage, V4 and V2.
    Scheme {
        marks: &["x-goog-signature"],
        parts: &["x-goog-*"],
    },
    Scheme {
        marks: &["googleaccessid", "signature"],
        parts: &["googleaccessid", "signature", "expires"],
    },
    // Azure's shared access signatures: of an account, a service, or a user's delegation.
    Scheme {
        marks: &["sig", "sv"],
        parts: &[
            "sig", "sv", "ss", "srt", "sr", "sp", "st", "se", "si", "sip", "spr", "ses", "sdd",
            "skoid", "sktid", "skt", "ske", "sks", "skv", "saoid", "suoid", "scid",
        ],
    },
    // Alibaba Cloud OSS, V4 and V1.
    Scheme {
        marks: &["x-oss-signature"],
        parts: &["x-oss-*"],
    },
    Scheme {
        marks: &["ossaccesskeyid", "signature"],
        parts: &["ossaccesskeyid", "signature", "expires", "security-token"],
    },
    // RFC 6750, section 2.3.
    Scheme {
        marks: &["access_token"],
        parts: &["access_token"],
    },
];

/// The query without signatures, and otherwise unchanged.
pub(super) fn without_signature(query: &str) -> String {
    let parameters: Vec<(&str, String)> = query
        .split('&')
        .filter(|parameter| !parameter.is_empty())
        .map(|parameter| (parameter, name(parameter)))
        .collect();
    let has = |mark: &&str| parameters.iter().any(|(_, name)| name == mark);
    let schemes: Vec<_> = SCHEMES
        .iter()
        .filter(|scheme| scheme.marks.iter().all(&has))
        .collect();
    let is_signature = |name: &str| {
        let mut parts = schemes.iter().flat_map(|scheme| scheme.parts);
        parts.any(|part| match part.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == *part,
        })
    };
    let kept: Vec<_> = parameters
        .iter()
        .filter(|(_, name)| !is_signature(name))
        .map(|(parameter, _)| *parameter)
        .collect();
    kept.join("&")
}

/// Whether there is a signature in it.
pub(super) fn is_signed(query: &str) -> bool {
    let all = query.split('&').filter(|parameter| !parameter.is_empty());
    without_signature(query) != all.collect::<Vec<_>>().join("&")
}

/// A parameter's name, decoded and in lower case.
fn name(parameter: &str) -> String {
    url::form_urlencoded::parse(parameter.as_bytes())
        .next()
        .map(|(name, _)| name.to_ascii_lowercase())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_left_out_whoever_made_them() {
        for query in [
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a%2Fb&X-Amz-Date=d&X-Amz-Expires=60\
             &X-Amz-SignedHeaders=host&X-Amz-Security-Token=t&X-Amz-Signature=0123&versionId=7",
            "x-amz-signature=0123&versionId=7",
            "X%2DAmz%2DSignature=0123&versionId=7",
            "AWSAccessKeyId=k&Expires=1&Signature=s&versionId=7",
            "versionId=7&Policy=p&Signature=s&Key-Pair-Id=k",
            "X-Goog-Algorithm=a&X-Goog-Signature=s&versionId=7",
            "GoogleAccessId=g&Expires=9&Signature=s&versionId=7",
            "sv=2022-11-02&st=a&se=b&sr=b&sp=r&spr=https&sig=s&versionId=7",
            "x-oss-signature=s&x-oss-expires=9&versionId=7",
            "OSSAccessKeyId=k&Expires=1&Signature=s&security-token=t&versionId=7",
            "versionId=7&access_token=t",
        ] {
            assert_eq!(without_signature(query), "versionId=7", "{query}");
        }
    }

    #[test]
    fn what_may_name_the_object_stays() {
        for query in [
            "",
            "file=a",
            "versionId=7&generation=8",
            // Not a signature without the rest of it.
            "sv=1&sr=2&se=3",
            "Expires=5&Policy=x",
            "Signature=abc",
            "X-Amz-Date=d",
            "token=names-the-file",
        ] {
            assert_eq!(without_signature(query), query);
        }
    }
}
