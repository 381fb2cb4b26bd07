//! An image's URL as it was requested, with a query that may be secret.

use std::fmt;

use super::{digest, query, redact, shown};
use crate::secret::Secret;

/// A URL as it was requested. Its query may be a signature, with which anybody can read the object. So the
/// query is neither shown nor stored in clear text.
///
/// `Display` is safe to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedUrl {
    /// Everything before the query.
    base: String,
    query: Query,
    identity: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Query {
    None,
    Known(Secret),
    Lost,
}

impl RequestedUrl {
    /// A request's text, whether or not it is a URL.
    pub fn new(text: &str) -> Self {
        let (base, query) = shown::split(text);
        let named = query::without_signature(query.unwrap_or_default());
        Self {
            base: base.to_owned(),
            identity: digest(&["request", base, &named]),
            query: query.map_or(Query::None, |query| Query::Known(Secret::new(query))),
        }
    }

    /// What was stored of a request: [`base`](Self::base), [`identity`](Self::identity), and the query if there
    /// was one. The inner None is a query that can no longer be read.
    pub fn kept(base: String, identity: String, query: Option<Option<String>>) -> Self {
        Self {
            base,
            identity,
            query: match query {
                None => Query::None,
                Some(None) => Query::Lost,
                Some(Some(query)) => Query::Known(Secret::new(query)),
            },
        }
    }

    /// The whole URL, for reading the object. None if it had a query that can no longer be read.
    pub fn whole(&self) -> Option<String> {
        match &self.query {
            Query::None => Some(self.base.clone()),
            Query::Known(query) => Some(format!("{}?{}", self.base, query.expose())),
            Query::Lost => None,
        }
    }

    /// The part before the query, which is not secret.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The query, if it is known.
    pub fn query(&self) -> Option<&Secret> {
        match &self.query {
            Query::Known(query) => Some(query),
            Query::None | Query::Lost => None,
        }
    }

    /// A digest that is the same for a repeat of the request, even with another signature.
    pub fn identity(&self) -> &str {
        &self.identity
    }
}

impl From<String> for RequestedUrl {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

impl fmt::Display for RequestedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact(&self.base))
    }
}
