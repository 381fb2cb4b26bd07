//! Who uses a thing, and that it stays meanwhile.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is being done with a thing.
#[derive(Debug)]
enum Use {
    /// So many have it.
    Taken(usize),
    /// It is being removed.
    Closed,
}

/// All seats. A thing is used or being removed, never both.
#[derive(Debug)]
pub struct Seats<K: Key>(Mutex<HashMap<K, Use>>);

/// By what things are told apart.
pub trait Key: Copy + Eq + Hash + Debug {}

impl<K: Copy + Eq + Hash + Debug> Key for K {}

/// One user's hold on a thing, whether or not it is there.
#[derive(Debug)]
pub struct Seat<K: Key> {
    seats: Arc<Seats<K>>,
    of: K,
}

/// Keeps everybody from a thing while it is removed.
#[derive(Debug)]
pub struct Closed<K: Key> {
    seats: Arc<Seats<K>>,
    of: K,
}

impl<K: Key> Default for Seats<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Key> Seats<K> {
    /// A seat, unless the thing is just being removed.
    pub fn take(self: &Arc<Self>, of: K) -> Option<Seat<K>> {
        match self.lock().entry(of).or_insert(Use::Taken(0)) {
            Use::Taken(count) => *count += 1,
            Use::Closed => return None,
        }
        Some(Seat {
            seats: Arc::clone(self),
            of,
        })
    }

    /// Closes a thing, unless somebody has it.
    pub fn close(self: &Arc<Self>, of: K) -> Option<Closed<K>> {
        match self.lock().entry(of) {
            Entry::Occupied(_) => None,
            Entry::Vacant(free) => {
                free.insert(Use::Closed);
                Some(Closed {
                    seats: Arc::clone(self),
                    of,
                })
            }
        }
    }

    /// Whether somebody has it.
    pub fn has(&self, of: &K) -> bool {
        matches!(self.lock().get(of), Some(Use::Taken(_)))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Use>> {
        // Counts that no panic can leave half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Key> Seat<K> {
    /// What it is a hold on.
    pub fn of(&self) -> &K {
        &self.of
    }
}

impl<K: Key> Closed<K> {
    /// What is being removed.
    pub fn of(&self) -> &K {
        &self.of
    }
}

impl<K: Key> Drop for Seat<K> {
    fn drop(&mut self) {
        let mut seats = self.seats.lock();
        if let Entry::Occupied(mut taken) = seats.entry(self.of)
            && let Use::Taken(count) = taken.get_mut()
        {
            *count -= 1;
            if *count == 0 {
                taken.remove();
            }
        }
    }
}

impl<K: Key> Drop for Closed<K> {
    fn drop(&mut self) {
        self.seats.lock().remove(&self.of);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_is_used_or_being_removed_and_never_both() {
        let all = Arc::<Seats<u8>>::default();
        let seats = [all.take(1), all.take(1)].map(|seat| seat.expect("it is free"));
        assert!(all.has(&1));
        assert!(all.close(1).is_none());
        let [first, second] = seats;
        drop(first);
        assert!(all.close(1).is_none(), "one is left");
        drop(second);
        let closed = all.close(1).expect("nobody has it");
        assert!(all.take(1).is_none());
        assert!(all.close(1).is_none());
        assert!(!all.has(&1));
        assert!(all.take(2).is_some(), "another thing");
        drop(closed);
        assert!(all.take(1).is_some());
    }
}
