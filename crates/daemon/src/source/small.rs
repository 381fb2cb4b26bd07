//! Files beside an image, which are read completely.

use ::http::{HeaderMap, Method, StatusCode};

use super::checksums::{MAX_DIRECTORY_BYTES, MAX_IMAGE_BYTES};
use super::error::{Result, SourceError, SourceErrorKind};
use super::http::{Location, no_answer};
use super::refusal::refusal;
use super::retry::{Failure, Observer, Retry};
use super::round::Together;
use super::url::{ImageUrl, Sibling};
use super::{Inner, Source, evidence};

impl Source {
    /// Reads a small file; None if it does not exist.
    pub(super) async fn small(&self, file: &ImageUrl, sibling: Sibling) -> Result<Option<Vec<u8>>> {
        let max_bytes = match sibling {
            Sibling::Suffix(_) => MAX_IMAGE_BYTES,
            Sibling::Beside(_) => MAX_DIRECTORY_BYTES,
        };
        let mut budget = self.budget();
        let together = self.together.as_deref();
        let mut is_early = together.is_some();
        loop {
            let mut place = match together {
                Some(together) => together.gate.enter().await,
                None => None,
            };
            let asked = together.map(Together::asked);
            let unanswered = together.map(|together| together.waiting.begin());
            let location = Location::of(file);
            let too_long = || {
                let found = format!("it is larger than {} KiB", max_bytes >> 10);
                evidence::no_digest(&file.to_string(), &found)
            };
            let read = self
                .inner
                .read_small(self.observer(), location, max_bytes, too_long);
            let read = read.await;
            drop(unanswered);
            if let (Some(together), Some(asked)) = (together, asked)
                && is_answer(&read)
            {
                together.answered(asked);
            }
            let failure = match read {
                Ok(text) => {
                    budget.succeeded();
                    return Ok(Some(text));
                }
                Err(failure) => failure,
            };
            if let Some(together) = together
                && failure.error.is_overload()
            {
                together.refused();
                together.gate.narrow(&mut place);
            }
            drop(place);
            if let Some(together) = together
                && failure.retry != Retry::Never
                && std::mem::take(&mut is_early)
            {
                // If the object's request fails too, that one says so, and decides whether there is a repeat.
                together.found.cancelled().await;
            }
            match budget.pause(failure).await {
                Err(error) if error.kind() == SourceErrorKind::NotFound => {
                    budget.succeeded();
                    return Ok(None);
                }
                result => result?,
            }
        }
    }
}

impl Inner {
    /// Reads a small answer completely; `too_long` is the error if it has more than `max_bytes`.
    pub(super) async fn read_small(
        &self,
        observer: Option<&dyn Observer>,
        mut location: Location,
        max_bytes: usize,
        too_long: impl FnOnce() -> SourceError,
    ) -> Result<Vec<u8>, Failure> {
        let mut response = self
            .client
            .follow(
                observer,
                &self.policy,
                Method::GET,
                &mut location,
                &HeaderMap::new(),
            )
            .await?;
        if response.status() != StatusCode::OK {
            return Err(refusal(&location, response).await);
        }
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| no_answer(&location, error))?
        {
            body.extend_from_slice(&chunk);
            if body.len() > max_bytes {
                return Err(too_long().into());
            }
        }
        Ok(body)
    }
}

/// Whether the server has answered as one does that is not overloaded.
fn is_answer(read: &Result<Vec<u8>, Failure>) -> bool {
    match read {
        Ok(_) => true,
        Err(failure) => failure.retry == Retry::Never && failure.error.status().is_some(),
    }
}
