//! Whether a volume still holds what was written to it.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lvp_api::{ImageType, Sha256Digest, VerifiedVolume, VolumeName};

use super::content::{self, Differences, TakenBack, Watch};
use super::{GoldenError, Held, Shelf};
use crate::clock;
use crate::job::record::Job;
use crate::threads::blocking;
use crate::volume::clones::is_reserved;
use crate::volume::{
    Clones, Content, GoldenKey, Volume, VolumeError, VolumeErrorKind, VolumeState,
};

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
    image: GoldenKey,
    held: Option<Held>,
    content: Option<Content>,
    /// Whether the image's format is not known any more, and what stands in `image` is what it looks like.
    is_guessed: bool,
}

/// What it takes to verify a volume.
#[derive(Debug)]
pub enum Basis {
    /// What it should hold is known.
    Known,
    /// The image has to be read.
    Image(Needed),
}

/// An image without which a volume cannot be verified.
#[derive(Debug)]
pub struct Needed {
    /// The image, in the format that it was read as when the volume was written.
    pub image: GoldenKey,
    /// Where it came from, without credentials, if that is known.
    pub image_url: Option<String>,
    /// Whether what the volume should hold is known, except for how its GPT was before it was moved.
    is_for_gpt: bool,
}

/// The disk that an image holds.
#[derive(Debug)]
pub struct Disk {
    /// All of its bytes.
    pub file: File,
    /// Their number and digest.
    pub content: Content,
}

impl Verifiable {
    /// Whether the image's disk is needed: to know what the volume should hold, or how its GPT was before it was moved.
    fn needs_disk(&self) -> bool {
        self.content.is_none() || (self.volume.expanded && self.held.is_none())
    }
}

impl Shelf {
    /// Reads a ready or golden volume, and compares it with its content when it was made, or with the image's disk where
    /// [`Basis::Image`] says that it is needed. It must not be in use meanwhile. Dropping the future ends the reading.
    pub async fn verify(
        &self,
        name: &VolumeName,
        disk: Option<Disk>,
        watch: &Watch,
        expect_bytes: impl FnOnce(u64),
    ) -> Result<VerifiedVolume, GoldenError> {
        let found = self.verifiable(name).await?;
        let needs_disk = found.needs_disk();
        let Verifiable {
            volume,
            image,
            held,
            content,
            is_guessed,
        } = found;
        let (reference, content) = match (disk, content) {
            (Some(disk), content) => (Some(disk.file), content.unwrap_or(disk.content)),
            (None, Some(content)) if !needs_disk => {
                let reference = match &held {
                    Some(held) => {
                        let clones = self.clones().await?;
                        Some(clones.read_golden(&held.golden().volume).await?)
                    }
                    None => None,
                };
                (reference, content)
            }
            _ => return Err(by_a_job(name)),
        };
        expect_bytes(volume.size_bytes);
        let file = match is_reserved(name) {
            true => self.clones().await?.read_golden(&volume).await?,
            false => self.0.volumes.open_to_read(&volume).await?,
        };
        let stamped = stamp(&file);
        let reading = Reading(Arc::default());
        let watch = Watch {
            abandoned: Arc::clone(&reading.0),
            ..watch.clone()
        };
        let (size_bytes, expanded) = (volume.size_bytes, volume.expanded);
        // What a clone has after its disk is the pool's or the file system's zeros. What a volume has there that was
        // written is what `volumes.stale_data` said then, which nobody knows any more.
        let compared_bytes = match volume.content.is_some() {
            true => size_bytes,
            false => content.size_bytes.min(size_bytes),
        };
        let compared = blocking(move || {
            let taken_back = match &reference {
                Some(reference) if expanded => {
                    TakenBack::of_gpt(reference, content.size_bytes, size_bytes)?
                }
                _ => TakenBack::default(),
            };
            compare(
                (&file, reference),
                compared_bytes,
                &content,
                &taken_back,
                &watch,
            )
        });
        let compared = compared.await.map_err(|error| {
            VolumeError::internal("Comparing a volume crashed; see the log").caused_by(error)
        })?;
        drop(reading);
        let (found, differences) = compared
            .map_err(|error| VolumeError::io("Reading", &volume.path, error))?
            .ok_or_else(|| VolumeError::internal("The reading was stopped"))?;
        let matches = found == content.digest && differences.parts.is_empty();
        if !matches && !is_reserved(name) {
            // A guest that was started meanwhile has changed it.
            let again = self.0.volumes.open_to_read(&volume).await?;
            if stamp(&again) != stamped {
                return Err(used(name));
            }
        }
        let now = self.0.volumes.lookup(name).await?;
        if now.is_none_or(|now| now.state != volume.state || now.content != volume.content) {
            return Err(used(name));
        }
        if !matches && is_guessed {
            return Err(refused(format!(
                "Whether volume {name} still holds image {} cannot be told: the job that wrote it is no longer recorded, so \
                 it is not known in which format the image was read, and read as {} it differs",
                image.digest, image.image_type
            )));
        }
        Ok(VerifiedVolume {
            name: name.clone(),
            matches,
            image_digest: image.digest.to_string(),
            disk_bytes: content.size_bytes,
            expected_digest: content.digest.to_string(),
            found_digest: found.to_string(),
            differences: differences.parts,
            has_more: differences.has_more,
        })
    }

    /// What it takes to verify a volume; fails if it cannot be verified as it is now. Reads nothing of it.
    pub async fn basis(&self, name: &VolumeName) -> Result<Basis, GoldenError> {
        let found = self.verifiable(name).await?;
        if !found.needs_disk() {
            return Ok(Basis::Known);
        }
        let job = self.maker(&found.volume).await?;
        let url = job.map(|job| job.spec.work.image_url());
        Ok(Basis::Image(Needed {
            image: found.image,
            image_url: url.filter(|url| !url.is_empty()),
            is_for_gpt: found.content.is_some(),
        }))
    }

    /// Records what an image was found to hold.
    pub async fn learned(&self, image: GoldenKey, content: Content) -> Result<(), GoldenError> {
        let now = clock::now_text();
        Ok(self.0.store.save_content(image, content, now).await?)
    }

    async fn verifiable(&self, name: &VolumeName) -> Result<Verifiable, GoldenError> {
        let Some(volume) = self.0.volumes.lookup(name).await? else {
            let message = format!("There is no volume {name}: check the name");
            return Err(VolumeError::new(VolumeErrorKind::Absent, message).into());
        };
        let VolumeState::Ready { digest, .. } = volume.state else {
            return Err(refused(format!(
                "Volume {name} is not ready: there is nothing to compare it with"
            )));
        };
        if !is_reserved(name) {
            self.0.volumes.open_to_read(&volume).await?;
        }
        let job = self.maker(&volume).await?;
        let read_as = job.as_ref().and_then(|job| job.spec.work.image());
        let read_as = read_as.map(|image| image.image_type);
        let held = match self.0.volumes.clones().await {
            Ok(clones) => self.of_image(clones, &volume, read_as).await?,
            Err(_) => None,
        };
        let golden = held.as_ref().map(Held::golden);
        let of_golden = golden.map(|golden| golden.key.image_type);
        let image_type = read_as.or(of_golden).unwrap_or(ImageType::Auto);
        let image = GoldenKey { digest, image_type };
        let content = match volume.content.or(golden.and_then(|golden| golden.content)) {
            None => self.0.store.content(image).await?,
            content => content,
        };
        Ok(Verifiable {
            is_guessed: read_as.is_none() && volume.content.is_none(),
            volume,
            image,
            held,
            content,
        })
    }

    /// The job that made a volume, if the database still has it.
    async fn maker(&self, volume: &Volume) -> Result<Option<Job>, GoldenError> {
        match volume.state {
            VolumeState::Ready { job: Some(job), .. } => Ok(self.0.store.job(job).await?),
            _ => Ok(None),
        }
    }

    /// The usable golden volume with the same content. If the volume's content was not recorded, the image must
    /// have exactly one golden volume, of the format that it was read as if that is known.
    async fn of_image(
        &self,
        clones: &dyn Clones,
        volume: &Volume,
        read_as: Option<ImageType>,
    ) -> Result<Option<Held>, GoldenError> {
        let VolumeState::Ready { digest, .. } = volume.state else {
            return Ok(None);
        };
        let mut keys = Vec::new();
        for golden in clones.golden().await? {
            let is_same = match volume.content {
                Some(_) => golden.content == volume.content,
                None => read_as.is_none_or(|read_as| read_as == golden.key.image_type),
            };
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
    (file, reference): (&File, Option<File>),
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
    if let Some(reference) = reference.filter(|_| found != content.digest)
        && content::compare(
            file,
            &reference,
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

/// Where nobody has read the image for it.
fn by_a_job(name: &VolumeName) -> GoldenError {
    refused(format!(
        "What volume {name} should hold was not recorded when it was made: verify it by a job, which reads its image \
         (POST /api/v1/verifications, or 'lvpctl volumes verify')"
    ))
}

impl Needed {
    /// The error where the image is not in the cache.
    pub fn is_missing(&self, name: &VolumeName) -> GoldenError {
        let why = match self.is_for_gpt {
            true => format!(
                "The backup GPT of volume {name} was moved to its end when it was made, which only its image can take back"
            ),
            false => format!("What volume {name} should hold was not recorded when it was made"),
        };
        let digest = self.image.digest;
        let from = match &self.image_url {
            Some(url) => {
                format!("it came from {url} ('lvpctl cache fetch {url}', if that is still it)")
            }
            None => "fetch it from wherever it is".to_owned(),
        };
        refused(format!(
            "{why}, and the image with SHA-256 {digest} is not in the cache: {from}; verify the volume again when it is"
        ))
    }
}

/// What tells that a file was written to, as far as its times do. A block device's do not.
fn stamp(file: &File) -> Option<(i64, i64, i64, i64)> {
    let found = file.metadata().ok()?;
    let times = (
        found.mtime(),
        found.mtime_nsec(),
        found.ctime(),
        found.ctime_nsec(),
    );
    found.is_file().then_some(times)
}

fn used(name: &VolumeName) -> GoldenError {
    refused(format!(
        "Volume {name} was changed while it was read: try again while nobody uses it"
    ))
}

fn refused(message: String) -> GoldenError {
    VolumeError::new(VolumeErrorKind::NotOurs, message).into()
}
