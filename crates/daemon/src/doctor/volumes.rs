//! Volumes that are not marked as this program's.

use super::Finding;
use crate::config::Config;
use crate::error::chain;
use crate::serve;
use crate::volume::VolumeState;

/// How many are named: a host may have hundreds.
const SHOWN: usize = 20;

pub(super) async fn check(config: &Config) -> Finding {
    const CHECK: &str = "volumes.adopted";
    let listed = match serve::volumes(config, None) {
        Ok(volumes) => volumes.list().await.map_err(|error| chain(&error)),
        Err(error) => Err(format!("{error:#}")),
    };
    let volumes = match listed {
        Ok(volumes) => volumes,
        Err(error) => {
            let remedy = "See the other checks of the back end";
            return Finding::fail(CHECK, error, remedy);
        }
    };
    let unmarked: Vec<_> = volumes
        .iter()
        .filter(|volume| volume.state == VolumeState::Untagged)
        .map(|volume| volume.name.as_str())
        .collect();
    if unmarked.is_empty() {
        return Finding::ok(CHECK, "Every volume has this program's tags or record");
    }
    let mut names = unmarked[..unmarked.len().min(SHOWN)].join(", ");
    if unmarked.len() > SHOWN {
        names.push_str(", ...");
    }
    let count = unmarked.len();
    if config.volumes.adopt_untagged {
        let message = format!(
            "{count} volumes are not marked as this program's, and any request may rewrite them: {names}"
        );
        let remedy = "Hand over those that jobs may rewrite ('lvpctl volumes adopt NAME'), then \
            set volumes.adopt_untagged: false";
        return Finding::warn(CHECK, message, remedy);
    }
    Finding::ok(
        CHECK,
        format!(
            "{count} volumes are not marked as this program's, and requests for them are refused: {names}; \
             'lvpctl volumes adopt NAME' hands one over, 'libvirt-volume-provisioner db \
             adopt-go-volumes' those of the Go program"
        ),
    )
}
