//! The places where volumes are and were kept.

use rusqlite::params;

use super::{Store, StoreError};
use crate::volume::Place;

impl Store {
    /// Records where volumes are kept now; returns all other places where they were kept, the latest first.
    pub async fn use_place(&self, place: Place, now: String) -> Result<Vec<Place>, StoreError> {
        self.write("use_place", move |transaction| {
            transaction.execute(
                "INSERT INTO volume_places (backend, location, last_used_at) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (backend, location) DO UPDATE SET last_used_at = ?3",
                params![place.backend, place.location, now],
            )?;
            transaction
                .prepare(
                    "SELECT backend, location FROM volume_places \
                     WHERE NOT (backend = ?1 AND location = ?2) ORDER BY last_used_at DESC",
                )?
                .query_map(params![place.backend, place.location], |row| {
                    Ok(Place {
                        backend: row.get(0)?,
                        location: row.get(1)?,
                    })
                })?
                .collect()
        })
        .await
    }

    /// Forgets a place where nothing unfinished is left.
    pub async fn forget_place(&self, place: Place) -> Result<(), StoreError> {
        self.write("forget_place", move |transaction| {
            transaction.execute(
                "DELETE FROM volume_places WHERE backend = ?1 AND location = ?2",
                params![place.backend, place.location],
            )?;
            Ok(())
        })
        .await
    }
}
