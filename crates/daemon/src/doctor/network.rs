//! Whether downloads can step aside for others on the network.

use super::Finding;
use crate::config::{Config, ReadRate};
use crate::error::chain;
use crate::guests::links::Links;
use crate::guests::network::store_address;

const CHECK: &str = "minio.network";

/// Looks for the links; only with `minio.max_read_bytes_per_sec: auto`.
pub(super) async fn check(config: &Config) -> Option<Finding> {
    if config.minio.max_read_bytes_per_sec != ReadRate::Auto {
        return None;
    }
    Some(match store_address(config).await {
        Ok(store) => judge(Links::of_host().towards(store), |links| {
            Links::of_host().speed(links)
        }),
        Err(error) => cannot(&chain(&error)),
    })
}

fn judge(
    links: std::io::Result<Vec<String>>,
    speed: impl FnOnce(&[String]) -> std::io::Result<u64>,
) -> Finding {
    let found = links.and_then(|links| Ok((speed(&links)?, links)));
    match found {
        Ok((speed, links)) => Finding::ok(
            CHECK,
            format!(
                "Downloads step aside for others on {} ({} Mbit/s)",
                links.join(", "),
                speed / 125_000
            ),
        ),
        Err(error) => cannot(&chain(&error)),
    }
}

fn cannot(why: &str) -> Finding {
    Finding::warn(
        CHECK,
        format!(
            "Downloads run at full speed: what others receive from the network cannot be measured: {why}"
        ),
        "Set minio.max_read_bytes_per_sec to what jobs may take of the network, instead of auto",
    )
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn links_are_named_with_their_speed_and_what_is_not_measured_with_the_remedy() {
        let links = || Ok(vec!["eth0".to_owned(), "eth1".to_owned()]);
        let found = judge(links(), |_| Ok(2_500_000_000));
        assert_eq!(found.status, Status::Ok);
        assert!(
            found.message.ends_with("eth0, eth1 (20000 Mbit/s)"),
            "{found:?}"
        );
        for found in [
            judge(links(), |_| Err(std::io::Error::other("no speed"))),
            judge(Err(std::io::Error::other("no speed")), |_| Ok(1)),
        ] {
            assert_eq!(found.status, Status::Warn);
            assert!(found.message.ends_with("measured: no speed"), "{found:?}");
        }
    }
}
