//! What a job is to do: [`Work`] has one variant for each kind, with exactly what that kind needs.
//!
//! A new kind (an image that is made from a volume, a clone of a volume) is a new variant; the compiler then
//! names every place that has to handle it.

use std::time::Duration;

use lvp_api::{Checksum, Cloning, Expand, ImageType, JobKind, VolumeName};

use crate::source::url::RequestedUrl;

/// What was requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Write an image to a volume, and cache it on the way.
    Provision {
        /// The image.
        image: ImageRequest,
        /// The volume.
        volume: VolumeRequest,
    },
    /// Fetch an image into the cache.
    Fetch {
        /// The image.
        image: ImageRequest,
    },
    /// Write an image to a golden volume, from which others will be cloned.
    Golden {
        /// The image.
        image: ImageRequest,
    },
    /// Read a volume, and compare it with what was written to it.
    Verify {
        /// The volume.
        volume: VolumeName,
    },
}

/// The image that a job reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRequest {
    /// Its URL, as it was requested.
    pub url: RequestedUrl,
    /// Its declared type.
    pub image_type: ImageType,
    /// The digest that it must have.
    pub checksum: Option<Checksum>,
}

/// The volume that a job writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRequest {
    /// Its name.
    pub name: VolumeName,
    /// The requested size.
    pub size_bytes: u64,
    /// Whether an existing volume may be written that is not marked as this program's.
    pub adopt: bool,
    /// Whether it is cloned where that can be done.
    pub clone: Cloning,
    /// How long the job waits for room in the pool that volumes share, from its acceptance; it does not if this is
    /// None.
    pub room_wait: Option<Duration>,
    /// What is done to the guest's partition table, if the request says it.
    pub expand: Option<Expand>,
}

impl Work {
    /// The word for it.
    pub fn kind(&self) -> JobKind {
        match self {
            Self::Provision { .. } => JobKind::Provision,
            Self::Fetch { .. } => JobKind::Cache,
            Self::Golden { .. } => JobKind::Golden,
            Self::Verify { .. } => JobKind::Verify,
        }
    }

    /// The image that is read, if any.
    pub fn image(&self) -> Option<&ImageRequest> {
        match self {
            Self::Provision { image, .. } | Self::Fetch { image } | Self::Golden { image } => {
                Some(image)
            }
            Self::Verify { .. } => None,
        }
    }

    /// The image's URL as it may be shown; empty without one.
    pub fn image_url(&self) -> String {
        self.image()
            .map_or_else(String::new, |image| image.url.to_string())
    }

    /// The image, to change it.
    pub fn image_mut(&mut self) -> Option<&mut ImageRequest> {
        match self {
            Self::Provision { image, .. } | Self::Fetch { image } | Self::Golden { image } => {
                Some(image)
            }
            Self::Verify { .. } => None,
        }
    }

    /// The volume that is written or read, if any. No two unfinished jobs have the same one.
    pub fn volume_name(&self) -> Option<&VolumeName> {
        match self {
            Self::Provision { volume, .. } => Some(&volume.name),
            Self::Verify { volume } => Some(volume),
            Self::Fetch { .. } | Self::Golden { .. } => None,
        }
    }

    /// The volume that is written, if any.
    pub fn volume(&self) -> Option<&VolumeRequest> {
        match self {
            Self::Provision { volume, .. } => Some(volume),
            Self::Fetch { .. } | Self::Golden { .. } | Self::Verify { .. } => None,
        }
    }

    /// Whether a repeated request asks for the same thing. The signature in the image's URL may
    /// differ.
    pub fn is_same(&self, other: &Self) -> bool {
        let image = |work: &Self| {
            work.image().map(|image| {
                let identity = image.url.identity().to_owned();
                (identity, image.image_type, image.checksum)
            })
        };
        self.kind() == other.kind()
            && image(self) == image(other)
            && self.volume_name() == other.volume_name()
            && self.volume() == other.volume()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(url: &str) -> ImageRequest {
        ImageRequest {
            url: RequestedUrl::new(url),
            image_type: ImageType::Raw,
            checksum: None,
        }
    }

    fn provision(url: &str, adopt: bool) -> Work {
        Work::Provision {
            image: image(url),
            volume: VolumeRequest {
                name: "vm".parse().expect("a name"),
                size_bytes: 1 << 30,
                adopt,
                clone: Cloning::Auto,
                room_wait: None,
                expand: None,
            },
        }
    }

    #[test]
    fn a_repeat_is_recognised_by_what_it_asks_for_and_not_by_its_signature() {
        let signed = |signature: &str| format!("https://host/a?X-Amz-Signature={signature}");
        let first = provision(&signed("1"), false);
        assert!(first.is_same(&provision(&signed("2"), false)));
        assert!(!first.is_same(&provision(&signed("1"), true)));
        assert!(!first.is_same(&provision("https://host/b", false)));
        let fetch = Work::Fetch {
            image: image(&signed("1")),
        };
        assert!(!first.is_same(&fetch));
        assert!(fetch.is_same(&fetch.clone()));
        let golden = Work::Golden {
            image: image(&signed("1")),
        };
        assert!(!golden.is_same(&fetch));
        let mut required = first.clone();
        if let Work::Provision { volume, .. } = &mut required {
            volume.clone = Cloning::Require;
        }
        assert!(!required.is_same(&first));
    }
}
