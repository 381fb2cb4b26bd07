//! The places where volumes were kept before `volumes.dir`, `volumes.backend` or `lvm.volume_group` was
//! changed.
//!
//! A job goes on where volumes are kept now. What it had begun elsewhere says `populating` for ever, and
//! nobody would look there again: so each start does, and says what it finds until nothing is left.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::error::chain;
use crate::store::{PlaceRow, Store, StoreError};
use crate::volume::{
    NoLibvirt, Volume, VolumeError, VolumeErrorKind, VolumeState, Volumes, dir, lvm,
};

/// How long a look at a place may take that nobody needs now.
const LOOK_TIMEOUT: Duration = Duration::from_secs(60);

/// How many volumes are named in one line.
const NAMED: usize = 20;

/// Notes that volumes are kept in `now`, and says what is unfinished where they were before. `group` has
/// the settings for a volume group, whatever its name.
pub async fn report(
    store: &Store,
    now: PlaceRow,
    group: impl Fn(String) -> lvm::Settings,
) -> Result<(), StoreError> {
    for place in store.use_place(now, clock::now_text()).await? {
        let PlaceRow { backend, location } = &place;
        let looked = tokio::time::timeout(LOOK_TIMEOUT, unfinished(&place, &group)).await;
        match looked {
            Ok(Ok(volumes)) if volumes.is_empty() => store.forget_place(place).await?,
            Ok(Ok(volumes)) => {
                let count = volumes.len();
                let names: Vec<_> = volumes
                    .iter()
                    .take(NAMED)
                    .map(|v| v.name.as_str())
                    .collect();
                tracing::warn!(
                    component = "provisioner",
                    backend,
                    location,
                    count,
                    volumes = names.join(", "),
                    "Volumes were kept elsewhere before, and some there are unfinished: nothing here \
                     finishes or removes them. Set the former place again to have that done, or remove \
                     them there"
                );
            }
            Ok(Err(error)) => unknown(&place, &chain(&error)),
            Err(_) => unknown(&place, "no answer in time"),
        }
    }
    Ok(())
}

fn unknown(place: &PlaceRow, error: &str) {
    let PlaceRow { backend, location } = place;
    tracing::warn!(
        component = "provisioner",
        backend,
        location,
        error,
        "Volumes were kept elsewhere before; whether some there are unfinished cannot be told"
    );
}

async fn unfinished(
    place: &PlaceRow,
    group: impl Fn(String) -> lvm::Settings,
) -> Result<Vec<Volume>, VolumeError> {
    let location = place.location.clone();
    let volumes: Box<dyn Volumes> = match place.backend.as_str() {
        "dir" => Box::new(dir::Dir::new(PathBuf::from(location), Arc::new(NoLibvirt))),
        _ => {
            let lvm = lvm::Lvm::new(group(location), Arc::new(NoLibvirt));
            Box::new(lvm.map_err(|error| {
                VolumeError::new(VolumeErrorKind::Internal, "It cannot be looked at")
                    .caused_by(error)
            })?)
        }
    };
    let mut found = volumes.list().await?;
    found.retain(|volume| matches!(volume.state, VolumeState::Populating { .. }));
    Ok(found)
}
