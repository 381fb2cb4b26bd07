//! libvirt and its pool. Nothing is defined or started.

use std::path::PathBuf;

use super::Finding;
use crate::config::Config;
use crate::error::chain;
use crate::libvirt::{self, Pool};

/// What was found, and the cache directory that follows from it.
pub(super) struct Checked {
    pub(super) findings: Vec<Finding>,
    /// None if it cannot be determined.
    pub(super) cache_dir: Option<PathBuf>,
}

pub(super) async fn check(config: &Config) -> Checked {
    const CHECK: &str = "libvirt.connection";
    let configured = config.cache.dir.clone();
    if !config.libvirt.enabled {
        return Checked {
            findings: vec![Finding::ok(CHECK, "Not used (libvirt.enabled is false)")],
            cache_dir: configured,
        };
    }
    let failed = |message: String| Checked {
        findings: vec![Finding::fail(
            CHECK,
            message,
            "Start libvirtd ('systemctl start libvirtd'), check libvirt.uri, or set libvirt.enabled \
             to false and cache.dir to a directory",
        )],
        cache_dir: configured.clone(),
    };
    let hypervisor = match libvirt::connect(&config.libvirt.uri) {
        Ok(hypervisor) => hypervisor,
        Err(error) => return failed(format!("{error:#}")),
    };
    if let Err(error) = hypervisor.probe().await {
        return failed(chain(&error));
    }
    let mut findings = vec![Finding::ok(
        CHECK,
        format!("{} answers", config.libvirt.uri),
    )];
    let pool = hypervisor.pool(&config.libvirt.pool).await;
    let mut cache_dir = configured.clone();
    match pool {
        Ok(pool) => {
            let pool_dir = pool.as_ref().and_then(|pool| pool.directory.clone());
            findings.push(judge(&config.libvirt.pool, pool, configured));
            cache_dir = cache_dir.or(pool_dir);
        }
        Err(error) => {
            let remedy = "See libvirtd's log";
            findings.push(Finding::fail("libvirt.pool", chain(&error), remedy));
        }
    }
    Checked {
        findings,
        cache_dir,
    }
}

fn judge(name: &str, pool: Option<Pool>, cache_dir: Option<PathBuf>) -> Finding {
    const CHECK: &str = "libvirt.pool";
    let Some(pool) = pool else {
        return match cache_dir {
            Some(dir) => Finding::ok(
                CHECK,
                format!(
                    "There is no pool {name}; the cache directory is {}",
                    dir.display()
                ),
            ),
            None => Finding::warn(
                CHECK,
                format!(
                    "There is no pool {name}: the daemon will create it below /var/lib/libvirt"
                ),
                format!(
                    "Or create it where there is room: 'virsh pool-define-as {name} dir --target DIR'"
                ),
            ),
        };
    };
    let Some(directory) = pool.directory else {
        let message = format!("The pool {name} is not a directory that images can be kept in");
        let remedy = "Set libvirt.pool to a pool of type dir, fs or netfs, or set cache.dir";
        return match cache_dir {
            Some(_) => Finding::ok(CHECK, format!("{message}; cache.dir is set")),
            None => Finding::fail(CHECK, message, remedy),
        };
    };
    let shown = directory.display();
    if let Some(cache) = cache_dir.filter(|cache| *cache != directory) {
        return Finding::warn(
            CHECK,
            format!(
                "The pool {name} is {shown} and cache.dir is {}: libvirt will not list cached images",
                cache.display()
            ),
            "Remove cache.dir from the configuration, unless this is intended",
        );
    }
    if !pool.is_active {
        return Finding::warn(
            CHECK,
            format!("The pool {name} ({shown}) is not active: the daemon will start it"),
            format!("Run 'virsh pool-start {name}' and 'virsh pool-autostart {name}'"),
        );
    }
    if !pool.starts_itself {
        return Finding::warn(
            CHECK,
            format!("The pool {name} ({shown}) is not set to autostart"),
            format!("Run 'virsh pool-autostart {name}'"),
        );
    }
    Finding::ok(
        CHECK,
        format!("The pool {name} is active; its directory is {shown}"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    fn pool(is_active: bool, starts_itself: bool, directory: Option<&str>) -> Option<Pool> {
        Some(Pool {
            is_active,
            starts_itself,
            directory: directory.map(PathBuf::from),
        })
    }

    #[test]
    fn a_pool_is_judged_by_what_the_daemon_will_find() {
        let srv = Some("/srv/images");
        for (found, cache_dir, expected) in [
            (pool(true, true, srv), None, Status::Ok),
            (pool(true, true, srv), srv, Status::Ok),
            (pool(true, true, srv), Some("/var/cache/x"), Status::Warn),
            (pool(true, false, srv), None, Status::Warn),
            (pool(false, true, srv), None, Status::Warn),
            (pool(true, true, None), None, Status::Fail),
            (pool(true, true, None), srv, Status::Ok),
            (None, None, Status::Warn),
            (None, srv, Status::Ok),
        ] {
            let judged = judge("images", found.clone(), cache_dir.map(PathBuf::from));
            assert_eq!(judged.status, expected, "{found:?}: {judged:?}");
            assert_eq!(judged.remedy.is_none(), expected == Status::Ok);
        }
    }

    #[cfg(feature = "libvirt")]
    #[tokio::test]
    async fn the_test_drivers_pool_is_found_and_a_missing_one_is_not_created() {
        use super::super::tests::config;
        let look = async |uri: &str, pool: &str| {
            let config = config(&[
                ("LIBVIRT_ENABLED", "true"),
                ("LIBVIRT_URI", uri),
                ("LIBVIRT_POOL", pool),
                ("CACHE_DIR", ""),
            ]);
            check(&config).await
        };
        let found = look("test:///default", "default-pool").await;
        assert_eq!(found.cache_dir, Some("/default-pool".into()));
        assert!(found.findings[1].message.contains("/default-pool"));
        for _ in 0..2 {
            let absent = look("test:///default", "absent").await;
            assert_eq!(
                absent.findings[1].status,
                Status::Warn,
                "{:?}",
                absent.findings
            );
            assert_eq!(absent.cache_dir, None);
        }
        let down = look("qemu+unix:///system?socket=/nonexistent/sock", "x").await;
        assert_eq!(down.findings.len(), 1);
        assert_eq!(down.findings[0].status, Status::Fail, "{:?}", down.findings);
    }
}
