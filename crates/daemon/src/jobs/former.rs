//! The places where volumes were kept before `volumes.dir`, `volumes.backend` or `lvm.volume_group` was
//! changed.
//!
//! A job continues in the place where volumes are kept now. A volume that it had begun elsewhere would stay
//! `populating` for ever without anybody noticing. So each start looks there, and logs what it finds until
//! nothing is left.

use std::time::Duration;

use crate::clock;
use crate::config::Config;
use crate::error::chain;
use crate::store::{Store, StoreError};
use crate::volume::{self, Place, Volume, VolumeError, VolumeState};

/// How long listing a former place may take: nothing depends on it.
const LOOK_TIMEOUT: Duration = Duration::from_secs(60);

/// How many volumes are named in one log line.
const NAMED: usize = 20;

/// Records where volumes are kept now, and logs what is unfinished in former places.
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
                    "Volumes were kept elsewhere before, and some there are unfinished: the \
                     daemon does not finish or remove them. Configure the former place again to \
                     have that done, or remove them there by hand"
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
        "Volumes were kept elsewhere before, and it is unknown whether some there are unfinished"
    );
}

async fn unfinished(place: &Place, config: &Config) -> Result<Vec<Volume>, VolumeError> {
    let mut found = volume::at(place, config)?.list().await?;
    found.retain(|volume| matches!(volume.state, VolumeState::Populating { .. }));
    Ok(found)
}
