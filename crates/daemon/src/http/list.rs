//! Lists of bounded length, in items and in bytes.
//!
//! Callers choose the texts in items, so that a limit on their number alone bounds nothing. A list that ends
//! earlier than requested says where the next one begins.

use lvp_api::ErrorCode;
use serde::Serialize;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::error::ApiError;

/// Longest list, in bytes of its items' JSON. A list has at least one item if there is one.
pub(crate) const LIST_MAX_BYTES: usize = 1 << 20; // 1 MiB

/// Lists that are made at the same time; further callers wait in order. A list takes some milliseconds on one
/// core, and the other cores are for cheaper requests.
const MAKERS: usize = 1;

/// Limits how many lists are made at the same time.
#[derive(Debug)]
pub(super) struct Makers(Semaphore);

impl Default for Makers {
    fn default() -> Self {
        Self(Semaphore::new(MAKERS))
    }
}

impl Makers {
    /// Waits until a list may be made.
    pub(super) async fn place(&self) -> Result<SemaphorePermit<'_>, ApiError> {
        let closed = |_| ApiError::new(ErrorCode::Internal, "The daemon is stopping");
        self.0.acquire().await.map_err(closed)
    }
}

/// A part of a list.
pub(super) struct Part<T> {
    /// The items.
    pub(super) items: Vec<T>,
    /// Where the next part begins, if this one ends before the requested list does.
    pub(super) next_offset: Option<u32>,
}

/// As many of the items as an answer may hold. `is_cut` says that `items` themselves end early.
pub(super) fn part<T: Serialize>(
    items: impl IntoIterator<Item = T>,
    offset: u32,
    is_cut: bool,
) -> Result<Part<T>, ApiError> {
    let (mut part, mut bytes, mut is_cut) = (Vec::new(), 0, is_cut);
    for item in items {
        let json = serde_json::to_vec(&item).map_err(|error| {
            let message = format!("The list cannot be written: {error}");
            ApiError::new(ErrorCode::Internal, message)
        })?;
        bytes += json.len();
        if bytes > LIST_MAX_BYTES && !part.is_empty() {
            is_cut = true;
            break;
        }
        part.push(item);
    }
    let count = u32::try_from(part.len()).unwrap_or(u32::MAX);
    Ok(Part {
        next_offset: is_cut.then(|| offset.saturating_add(count)),
        items: part,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_ends_by_bytes_and_says_where_it_goes_on() {
        let items: Vec<String> = (0..10).map(|_| "x".repeat(LIST_MAX_BYTES / 3)).collect();
        let found = part(&items, 40, false).expect("it is written");
        assert_eq!((found.items.len(), found.next_offset), (2, Some(42)));
        let found = part(&items[..2], 40, false).expect("it is written");
        assert_eq!((found.items.len(), found.next_offset), (2, None));
        let found = part(&items[..2], 40, true).expect("it is written");
        assert_eq!((found.items.len(), found.next_offset), (2, Some(42)));
        // An item that is too long by itself is included, or nobody would get past it.
        let long = ["\u{1b}".repeat(LIST_MAX_BYTES)];
        let found = part(&long, 0, false).expect("it is written");
        assert_eq!((found.items.len(), found.next_offset), (1, None));
        let found = part(Vec::<String>::new(), 7, false).expect("it is written");
        assert_eq!((found.items.len(), found.next_offset), (0, None));
    }
}
