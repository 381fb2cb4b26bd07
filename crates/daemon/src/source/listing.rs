//! Listings of buckets: one page of ListObjectsV2 (Amazon S3 API Reference), folder by folder.

use serde::Deserialize;

use super::error::{Result, SourceError, SourceErrorKind};
use super::http::Location;
use super::retry::Failure;
use super::url::ImageUrl;
use super::{Inner, Source};

/// Longest answer that is read: 1000 keys of 1024 bytes, each with its date, size and tag.
const MAX_ANSWER_BYTES: usize = 4 << 20; // 4 MiB

/// A page of a listing.
#[derive(Debug, Default)]
pub struct Listing {
    /// Objects whose keys begin with the prefix and have no further `/` in them.
    pub objects: Vec<ListedObject>,
    /// Common prefixes of keys up to the next `/`: folders, by convention.
    pub folders: Vec<String>,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
}

/// An object in a listing.
#[derive(Debug)]
pub struct ListedObject {
    /// Its key.
    pub key: String,
    /// Where it is; None for a key that an image cannot have.
    pub url: Option<ImageUrl>,
    /// Its length in bytes.
    pub size: u64,
    /// When it was written, RFC 3339.
    pub last_modified: String,
}

/// The parts of S3's answer that are needed.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    /// Present in every listing and in no other document: an error may have status 200.
    is_truncated: bool,
    #[serde(default)]
    contents: Vec<Content>,
    #[serde(default)]
    common_prefixes: Vec<CommonPrefix>,
    next_continuation_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Content {
    key: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    last_modified: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CommonPrefix {
    prefix: String,
}

impl Source {
    /// Lists what is below `prefix` in a bucket of the endpoint, starting with the page that `after` names.
    pub async fn list(&self, bucket: &str, prefix: &str, after: Option<&str>) -> Result<Listing> {
        let mut budget = self.budget();
        loop {
            match self.inner.list(bucket, prefix, after).await {
                Ok(listing) => {
                    budget.succeeded();
                    return Ok(listing);
                }
                Err(failure) => budget.pause(failure).await?,
            }
        }
    }

    /// Fails if this cannot be a bucket's name in an image URL.
    pub fn check_bucket(&self, name: &str) -> Result<()> {
        self.inner.policy.object(name, "KEY").map(drop)
    }
}

impl Inner {
    async fn list(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<Listing, Failure> {
        let location = self.bucket(bucket, prefix, after)?;
        let too_long = || no_listing(&location, "it is larger than 4 MiB");
        let read = self.read_small(None, location.clone(), MAX_ANSWER_BYTES, too_long);
        let body = read.await?;
        let text = std::str::from_utf8(&body)
            .map_err(|error| no_listing(&location, "it is not UTF-8").with_source(error))?;
        let answer: Answer = quick_xml::de::from_str(text)
            .map_err(|error| no_listing(&location, "it cannot be read").with_source(error))?;
        let object = |found: Content| ListedObject {
            url: self.policy.object(bucket, &found.key).ok(),
            key: found.key,
            size: found.size,
            last_modified: found.last_modified,
        };
        let folders = answer.common_prefixes.into_iter();
        Ok(Listing {
            objects: answer.contents.into_iter().map(object).collect(),
            folders: folders.map(|folder| folder.prefix).collect(),
            next: answer
                .next_continuation_token
                .filter(|_| answer.is_truncated),
        })
    }

    /// The location of a bucket's listing.
    fn bucket(&self, bucket: &str, prefix: &str, after: Option<&str>) -> Result<Location> {
        let mut url = self.policy.bucket(bucket)?;
        url.query_pairs_mut()
            .append_pair("delimiter", "/")
            .append_pair("list-type", "2")
            .append_pair("prefix", prefix)
            .extend_pairs(after.map(|token| ("continuation-token", token)));
        Ok(Location { url, signed: true })
    }
}

fn no_listing(location: &Location, why: &str) -> SourceError {
    SourceError::new(
        SourceErrorKind::Protocol,
        format!("The answer of {location} is not a listing of a bucket: {why}"),
    )
}
