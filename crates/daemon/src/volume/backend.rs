//! Which back ends there are: the only place that distinguishes them.

use std::path::PathBuf;
use std::sync::Arc;

use super::dir::Dir;
use super::lvm::{BadVolumeGroup, Lvm};
use super::{InUse, NoLibvirt, VolumeError, Volumes, lvm};
use crate::config::{Backend, BackendKind, Config};

/// A place that holds volumes: a volume group or a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `lvm` or `dir`.
    pub backend: String,
    /// The group's name, or the directory with links resolved.
    pub location: String,
}

/// Creates the configured back end. Nothing is accessed yet: the place may be unavailable for now.
pub fn open(config: &Config, in_use: Arc<dyn InUse>) -> Result<Arc<dyn Volumes>, BadVolumeGroup> {
    Ok(match &config.volumes.backend {
        Backend::Lvm => Arc::new(Lvm::new((&config.lvm).into(), in_use)?),
        Backend::Dir(directory) => Arc::new(Dir::new(directory.clone(), in_use)),
    })
}

/// Where the configured back end keeps volumes.
pub fn place(config: &Config) -> Place {
    let location = match &config.volumes.backend {
        Backend::Lvm => config.lvm.volume_group.clone(),
        // A missing directory cannot be resolved.
        Backend::Dir(dir) => {
            let real = dir.canonicalize().unwrap_or_else(|_| dir.clone());
            real.display().to_string()
        }
    };
    Place {
        backend: config.volumes.backend.kind().to_string(),
        location,
    }
}

/// The volumes of a place that may no longer be the configured one.
pub fn at(place: &Place, config: &Config) -> Result<Box<dyn Volumes>, VolumeError> {
    let cannot = || VolumeError::internal("The place of the volumes cannot be accessed");
    let location = place.location.clone();
    let kind = place.backend.parse::<BackendKind>();
    Ok(match kind.map_err(|error| cannot().caused_by(error))? {
        BackendKind::Dir => Box::new(Dir::new(PathBuf::from(location), Arc::new(NoLibvirt))),
        BackendKind::Lvm => {
            let settings = lvm::LvmSettings {
                volume_group: location,
                ..(&config.lvm).into()
            };
            let lvm = Lvm::new(settings, Arc::new(NoLibvirt));
            Box::new(lvm.map_err(|error| cannot().caused_by(error))?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn config(keys: &[(&str, &str)]) -> Config {
        let mut settings = Settings::load("/no/config.yaml".as_ref(), false, |_| None).unwrap();
        let needed = [("minio.endpoint", "http://s3"), ("cache.dir", "/cache")];
        for (key, value) in needed.iter().chain(keys) {
            settings.set(key, value).unwrap();
        }
        Config::from_settings(&settings).unwrap()
    }

    #[test]
    fn every_back_end_can_be_configured_and_is_found_again_by_its_place() {
        for kind in BackendKind::ALL {
            let keys = [
                ("volumes.backend", kind.as_str()),
                ("volumes.dir", "/no/volumes"),
                ("lvm.volume_group", "vg7"),
            ];
            let config = config(&keys);
            let opened = open(&config, Arc::new(NoLibvirt)).unwrap();
            assert_eq!(opened.backend(), kind.as_str());
            let place = place(&config);
            assert_eq!(place.backend, kind.as_str());
            assert!(["/no/volumes", "vg7"].contains(&&*place.location));
            assert_eq!(at(&place, &config).unwrap().backend(), kind.as_str());
        }
    }

    #[test]
    fn a_place_of_an_unknown_back_end_is_an_error_and_not_a_volume_group() {
        let place = Place {
            backend: "zfs".to_owned(),
            location: "tank".to_owned(),
        };
        let error = at(&place, &config(&[])).unwrap_err();
        let text = crate::error::chain(&error);
        assert!(
            text.contains("\"zfs\" is not a known back end of volumes"),
            "{text}"
        );
    }
}
