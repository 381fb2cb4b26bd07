//! The places where volumes were kept before `volumes.dir`, `volumes.backend` or `lvm.volume_group` was
//! changed.
//!
//! A job goes on where volumes are kept now. What it had begun elsewhere says `populating` for ever, and
//! nobody would look there again: so each start does, and says what it finds until nothing is left.

use std::time::Duration;

use crate::clock;
use crate::config::Config;
use crate::error::chain;
use crate::store::{Store, StoreError};
use crate::volume::{self, Place, Volume, VolumeError, VolumeState};

/// How long a look at a place may take that nobody needs now.
const LOOK_TIMEOUT: Duration = Duration::from_secs(60);

/// How many volumes are named in one line.
const NAMED: usize = 20;

/// Notes where volumes are kept now, and says what is unfinished where they were before.
pub async fn report(store: &Store, config: &Config) -> Result<(), StoreError> {
    let now = volume::place(config);
    for place in store.use_place(now, clock::now_text()).await? {
        let Place { backend, location } = &place;
        let looked = tokio::time::timeout(LOOK_TIMEOUT, unfinished(&place, config)).await;
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

fn unknown(place: &Place, error: &str) {
    let Place { backend, location } = place;
    tracing::warn!(
        component = "provisioner",
        backend,
        location,
        error,
        "Volumes were kept elsewhere before; whether some there are unfinished cannot be told"
    );
}

async fn unfinished(place: &Place, config: &Config) -> Result<Vec<Volume>, VolumeError> {
    let mut found = volume::at(place, config)?.list().await?;
    found.retain(|volume| matches!(volume.state, VolumeState::Populating { .. }));
    Ok(found)
}
