//! Thin volumes are emptied before they are written: their blocks go back to the pool, and holes of the image cost
//! nothing.

use std::fs::File;

use super::super::VolumeError;
use super::find::Found;
use super::report::LvRow;
use super::{Lvm, rules};

/// What is discarded at once.
const DISCARD_BYTES: u64 = 16 << 30; // 16 GiB

impl Lvm {
    /// The device of a thin volume, all of whose blocks were given back to the pool, and whether LVM agrees that
    /// none is left, so that all of it reads as zeros. Others as they are: a linear volume's extents hold what
    /// their last owner wrote.
    pub(super) async fn emptied(
        &self,
        now: &Found,
        device: File,
    ) -> Result<(File, bool), VolumeError> {
        if !rules::is_thin(&now.row) {
            return Ok((device, false));
        }
        // The pool's zeroing counts only once a block is taken.
        let Some(pool) = &self.settings.pool else {
            return Ok((device, false));
        };
        let zeroes = self.fresh_look(pool).await?.row.zero == "zero";
        if is_unwritten(&now.row) {
            return Ok((device, zeroes));
        }
        let mut device = device;
        let size_bytes = now.row.lv_size;
        let mut at = 0;
        // Each of a piece, so that a large volume has the time that it needs and one that hangs has an end.
        while at < size_bytes {
            let end = size_bytes.min(at.saturating_add(DISCARD_BYTES));
            let (back, discarded) = self
                .blocking(move || {
                    let discarded = lvp_image::device::discard(&device, &(at..end));
                    Ok((device, discarded))
                })
                .await?;
            device = back;
            if let Err(error) = discarded {
                // Where discards are switched off, the copier writes the zeros.
                let path = now.volume.path.display();
                tracing::debug!(%path, %error, "the volume cannot be emptied");
                break;
            }
            at = end;
        }
        let now = self.find_again(&now.volume).await?;
        Ok((device, zeroes && is_unwritten(&now.row)))
    }
}

/// Whether an active thin volume has taken nothing of its pool.
fn is_unwritten(row: &LvRow) -> bool {
    // LVM rounds no part down to nothing (`dm_percent_to_round_float`).
    row.data_percent.is_some_and(|percent| percent <= 0.0)
}
