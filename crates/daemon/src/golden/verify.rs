//! Whether a volume still holds what was written to it.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lvp_api::{Sha256Digest, VerifiedVolume, VolumeName};

use super::content::{self, Differences, TakenBack, Watch};
use super::{GoldenError, Held, Shelf};
use crate::threads::blocking;
use crate::volume::clones::is_reserved;
use crate::volume::{Clones, Content, Volume, VolumeError, VolumeErrorKind, VolumeState};

/// Stops the reading when the caller no longer waits.
struct Reading(Arc<AtomicBool>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A volume that can be verified.
struct Verifiable {
    volume: Volume,
    image: Sha256Digest,
    held: Option<Held>,
    content: Content,
}

impl Shelf {
    /// Reads a ready or golden volume, and compares it with its content when it was made. It must not be in use
    /// meanwhile. Dropping the future ends the reading.
    pub async fn verify(
        &self,
        name: &VolumeName,
        watch: &Watch,
        expect_bytes: impl FnOnce(u64),
    ) -> Result<VerifiedVolume, GoldenError> {
        let clones = self.clones().await?;
        let Verifiable {
            volume,
            image,
            held,
            content,
        } = self.verifiable(name).await?;
        expect_bytes(volume.size_bytes);
        let file = clones.read_golden(&volume).await?;
        let golden = match &held {
            Some(held) => Some(clones.read_golden(&held.golden().volume).await?),
            None => None,
        };
        let reading = Reading(Arc::default());
        let watch = Watch {
            abandoned: Arc::clone(&reading.0),
            ..watch.clone()
        };
        let (size_bytes, expanded) = (volume.size_bytes, volume.expanded);
        let compared = blocking(move || {
            let taken_back = match &golden {
                Some(golden) if expanded => {
                    TakenBack::of_gpt(golden, content.size_bytes, size_bytes)?
                }
                _ => TakenBack::default(),
            };
            compare((&file, golden), size_bytes, &content, &taken_back, &watch)
        });
        let compared = compared.await.map_err(|error| {
            VolumeError::internal("Comparing a volume crashed; see the log").caused_by(error)
        })?;
        drop(reading);
        let (found, differences) = compared
            .map_err(|error| VolumeError::io("Reading", &volume.path, error))?
            .ok_or_else(|| VolumeError::internal("The reading was stopped"))?;
        let now = self.0.volumes.lookup(name).await?;
        if now.is_none_or(|now| now.state != volume.state || now.content != volume.content) {
            return Err(refused(format!(
                "Volume {name} was changed while it was read: try again"
            )));
        }
        Ok(VerifiedVolume {
            name: name.clone(),
            matches: found == content.digest && differences.parts.is_empty(),
            image_digest: image.to_string(),
            disk_bytes: content.size_bytes,
            expected_digest: content.digest.to_string(),
            found_digest: found.to_string(),
            differences: differences.parts,
            has_more: differences.has_more,
        })
    }

    /// Fails if a volume cannot be verified as it is now. Reads nothing of it.
    pub async fn expect_verifiable(&self, name: &VolumeName) -> Result<(), GoldenError> {
        self.verifiable(name).await.map(drop)
    }

    async fn verifiable(&self, name: &VolumeName) -> Result<Verifiable, GoldenError> {
        let clones = self.clones().await?;
        let Some(volume) = self.0.volumes.lookup(name).await? else {
            let message = format!("There is no volume {name}: check the name");
            return Err(VolumeError::new(VolumeErrorKind::Absent, message).into());
        };
        let VolumeState::Ready { digest: image, .. } = volume.state else {
            return Err(refused(format!(
                "Volume {name} is not ready: there is nothing to compare it with"
            )));
        };
        if !is_reserved(name) {
            clones.check_unused(&volume).await?;
        }
        let held = self.of_image(clones, &volume).await?;
        let recorded = volume
            .content
            .or_else(|| held.as_ref().and_then(|held| held.golden().content));
        let Some(content) = recorded else {
            return Err(refused(format!(
                "The content of volume {name} was not recorded when it was made, and its image \
                 has no golden volume to compare it with: make one with 'lvpctl golden make'"
            )));
        };
        if volume.expanded && held.is_none() {
            return Err(refused(format!(
                "The backup GPT of volume {name} was moved to its end when it was made, and its image has no golden \
                 volume with which the rest could be compared: make one with 'lvpctl golden make'"
            )));
        }
        Ok(Verifiable {
            volume,
            image,
            held,
            content,
        })
    }

    /// The usable golden volume with the same content. If the volume's content was not recorded, the image must
    /// have exactly one golden volume.
    async fn of_image(
        &self,
        clones: &dyn Clones,
        volume: &Volume,
    ) -> Result<Option<Held>, GoldenError> {
        let VolumeState::Ready { digest, .. } = volume.state else {
            return Ok(None);
        };
        let mut keys = Vec::new();
        for golden in clones.golden().await? {
            let is_same = volume.content.is_none() || golden.content == volume.content;
            if golden.key.digest == digest && golden.volume.name != volume.name && is_same {
                keys.push(golden.key);
            }
        }
        match keys[..] {
            [key] => self.find(&key).await,
            _ => Ok(None),
        }
    }
}

type Compared = Option<(Sha256Digest, Differences)>;

/// None if it was told to stop. Blocks.
fn compare(
    (file, golden): (&File, Option<File>),
    size_bytes: u64,
    content: &Content,
    taken_back: &TakenBack,
    watch: &Watch,
) -> std::io::Result<Compared> {
    let disk_bytes = content.size_bytes;
    let mut differences = Differences::default();
    let Some(found) = content::digest_before(file, disk_bytes, taken_back, watch)? else {
        return Ok(None);
    };
    // The same bytes once more, which do not count.
    let again = Watch {
        counters: Arc::default(),
        ..watch.clone()
    };
    if let Some(golden) = golden.filter(|_| found != content.digest)
        && content::compare(
            file,
            &golden,
            disk_bytes,
            taken_back,
            &again,
            &mut differences,
        )?
        .is_none()
    {
        return Ok(None);
    }
    let behind = content::compare_with_zeros(
        file,
        disk_bytes..size_bytes,
        taken_back,
        watch,
        &mut differences,
    )?;
    Ok(behind.map(|()| (found, differences)))
}

fn refused(message: String) -> GoldenError {
    VolumeError::new(VolumeErrorKind::NotOurs, message).into()
}
