//! The thin pool of new volumes.

use lvp_api::VolumeName;

use super::{ConfigError, Settings};

/// The keys `lvm.thin_pool` and `lvm.pool_*`.
#[derive(Debug, Clone)]
pub struct ThinPool {
    /// Its name in the volume group.
    pub name: VolumeName,
    /// When its data are warned of, and how full they may become, in percent.
    pub data_percent: (u8, u8),
    /// The same of its metadata.
    pub metadata_percent: (u8, u8),
    /// Most that the volumes' sizes may add up to, in percent of the pool's.
    pub overcommit_percent_max: Option<u64>,
}

/// The pool, if one is configured.
pub(super) fn pool(settings: &Settings) -> Result<Option<ThinPool>, ConfigError> {
    let Some(name) = settings.optional_text("lvm.thin_pool") else {
        return Ok(None);
    };
    let name = name.parse::<VolumeName>();
    let name = name.map_err(|error| ConfigError::Invalid {
        key: "lvm.thin_pool",
        reason: format!("is no name of a thin pool (write it without the volume group): {error}"),
    })?;
    // Nobody is refused without having been warned.
    let marks = |warn, max| {
        let (warn, max): (u8, u8) = (settings.integer(warn)?, settings.integer(max)?);
        Ok((warn.min(max), max))
    };
    let overcommit: u64 = settings.integer("lvm.pool_overcommit_percent_max")?;
    Ok(Some(ThinPool {
        name,
        data_percent: marks("lvm.pool_data_percent_warn", "lvm.pool_data_percent_max")?,
        metadata_percent: marks(
            "lvm.pool_metadata_percent_warn",
            "lvm.pool_metadata_percent_max",
        )?,
        overcommit_percent_max: (overcommit > 0).then_some(overcommit),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(keys: &[(&str, &str)]) -> Result<Option<ThinPool>, ConfigError> {
        let mut settings = Settings::load("/no/config.yaml".as_ref(), false, |_| None)?;
        for (key, value) in keys {
            settings.set(key, value)?;
        }
        pool(&settings)
    }

    #[test]
    fn without_a_name_there_is_no_pool_and_with_one_its_marks_have_defaults() {
        assert!(load(&[]).expect("nothing is wrong").is_none());
        let pool = load(&[("lvm.thin_pool", "pool0")]).expect("it is one");
        let pool = pool.expect("it is configured");
        assert_eq!(pool.name.as_str(), "pool0");
        assert_eq!(
            (pool.data_percent, pool.metadata_percent),
            ((70, 80), (60, 75))
        );
        assert_eq!(pool.overcommit_percent_max, None);
    }

    #[test]
    fn what_cannot_be_a_pool_s_name_is_refused_by_the_key() {
        for name in ["vg0/pool", "-pool", "pool_tmeta", "snapshot1", "a b"] {
            let refused = load(&[("lvm.thin_pool", name)]);
            assert!(
                matches!(&refused, Err(ConfigError::Invalid { key, .. }) if *key == "lvm.thin_pool"),
                "{name}: {refused:?}"
            );
        }
    }

    #[test]
    fn nobody_is_refused_without_having_been_warned() {
        let keys = [("lvm.thin_pool", "p"), ("lvm.pool_data_percent_max", "60")];
        let pool = load(&keys).expect("it can be used").expect("a pool");
        assert_eq!(pool.data_percent, (60, 60));
        let keys = [
            ("lvm.thin_pool", "p"),
            ("lvm.pool_metadata_percent_max", "101"),
        ];
        assert!(load(&keys).is_err());
    }
}
