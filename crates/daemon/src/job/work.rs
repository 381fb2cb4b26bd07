//! What a job is to do: one variant of [`Work`] for each kind, with what that kind needs and nothing else.
//!
//! A further kind (an image that is written to a volume of its own, a clone of a volume) is a further variant:
//! the compiler then names every place that has to know it.

use lvp_api::{Checksum, Cloning, ImageType, JobKind, VolumeName};

use crate::source::url::RequestedUrl;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// An image onto a volume, and on the way into the cache.
    Provision {
        /// The image.
        image: ImageRequest,
        /// The volume.
        volume: VolumeRequest,
    },
    /// An image into the cache.
    Fetch {
        /// The image.
        image: ImageRequest,
    },
    /// An image into a golden volume, from which others will be cloned.
    Golden {
        /// The image.
        image: ImageRequest,
    },
}

/// The image that a job reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRequest {
    /// Where it is, as it was requested.
    pub url: RequestedUrl,
    /// Its declared format.
    pub image_type: ImageType,
    /// What its bytes must be.
    pub checksum: Option<Checksum>,
}

/// The volume that a job writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRequest {
    /// Its name.
    pub name: VolumeName,
    /// The size that was asked for.
    pub size_bytes: u64,
    /// It may be one that nobody has marked as this program's.
    pub adopt: bool,
    /// Whether it is cloned where that can be done.
    pub clone: Cloning,
}

impl Work {
    /// The word for it.
    pub fn kind(&self) -> JobKind {
        match self {
            Self::Provision { .. } => JobKind::Provision,
            Self::Fetch { .. } => JobKind::Cache,
            Self::Golden { .. } => JobKind::Golden,
        }
    }

    /// The image that is read.
    pub fn image(&self) -> &ImageRequest {
        match self {
            Self::Provision { image, .. } | Self::Fetch { image } | Self::Golden { image } => image,
        }
    }

    /// The same, to change it.
    pub fn image_mut(&mut self) -> &mut ImageRequest {
        match self {
            Self::Provision { image, .. } | Self::Fetch { image } | Self::Golden { image } => image,
        }
    }

    /// The volume that is written, if one is. No two unfinished jobs have the same.
    pub fn volume(&self) -> Option<&VolumeRequest> {
        match self {
            Self::Provision { volume, .. } => Some(volume),
            Self::Fetch { .. } | Self::Golden { .. } => None,
        }
    }

    /// Whether a repeat of a request asks for the same, with whatever signature on the image's URL.
    pub fn is_same(&self, other: &Self) -> bool {
        let (mine, others) = (self.image(), other.image());
        self.kind() == other.kind()
            && mine.url.identity() == others.url.identity()
            && mine.image_type == others.image_type
            && mine.checksum == others.checksum
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
            },
        }
    }

    #[test]
    fn a_repeat_is_told_by_what_it_asks_for_and_not_by_its_signature() {
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
