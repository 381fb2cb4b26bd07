//! An image's URL as a request has it, with the care that its query needs.

use std::fmt;

use super::{digest, query, redact, shown};
use crate::secret::Secret;

/// A URL as it was requested. Its query may be what signs it: whoever has that may read the object. So
/// it is neither shown nor written down in clear.
///
/// `Display` is safe to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedUrl {
    /// All of it before the query.
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
    /// What a request says, whether or not it is a URL.
    pub fn new(text: &str) -> Self {
        let (base, query) = shown::split(text);
        let named = query::without_signature(query.unwrap_or_default());
        Self {
            base: base.to_owned(),
            identity: digest(&["request", base, &named]),
            query: query.map_or(Query::None, |query| Query::Known(Secret::new(query))),
        }
    }

    /// What was kept of a request: [`base`](Self::base), [`identity`](Self::identity), and the query as
    /// far as there was one. None within is one that cannot be read any more.
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

    /// The whole URL, for whoever reads the object. None when its query was kept and cannot be read
    /// any more.
    pub fn whole(&self) -> Option<String> {
        match &self.query {
            Query::None => Some(self.base.clone()),
            Query::Known(query) => Some(format!("{}?{}", self.base, query.expose())),
            Query::Lost => None,
        }
    }

    /// What comes before the query: no secret.
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

    /// A digest that is the same for a repeat of the request, with whatever signature.
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
