//! The measured space of volumes, pool, golden volumes and cache.

use std::borrow::Cow;

use super::{Metrics, float};
use crate::cache;
use crate::golden;
use crate::volume::{Capacity, PoolUsage};

impl Metrics {
    /// How many golden volumes there are, and the space that they use.
    pub fn golden_measured(&self, usage: golden::Usage) {
        self.golden_volumes.set(float(usage.volumes));
        self.golden_flawed.set(float(usage.flawed));
        self.golden_bytes.set(float(usage.bytes));
    }

    /// The result of the volumes' probe.
    pub fn volumes_measured(&self, backend: &'static str, capacity: Capacity) {
        let labels = [("backend", backend.into())];
        for (family, bytes) in [
            (&self.volumes_size, capacity.total_bytes),
            (&self.volumes_free, capacity.free_bytes),
        ] {
            family.get_or_create(&labels).set(float(bytes));
        }
    }

    /// The result of the last look at the pool; NaN for what is not known.
    pub fn pool_measured(&self, pool: &PoolUsage) {
        let name = || Cow::from(pool.name.clone());
        let of = |resource: &'static str| [("pool", name()), ("resource", resource.into())];
        let both = [
            (
                "data",
                pool.size_bytes,
                pool.data_ratio,
                pool.warn_ratios.0,
                pool.max_ratios.0,
            ),
            (
                "metadata",
                pool.metadata_size_bytes,
                pool.metadata_ratio,
                pool.warn_ratios.1,
                pool.max_ratios.1,
            ),
        ];
        for (resource, bytes, used, warn, max) in both {
            self.pool_size
                .get_or_create(&of(resource))
                .set(float(bytes));
            let used = used.unwrap_or(f64::NAN);
            self.pool_used.get_or_create(&of(resource)).set(used);
            for (level, ratio) in [("warn", warn), ("max", max)] {
                let [pool, resource] = of(resource);
                let labels = [pool, resource, ("level", level.into())];
                self.pool_limit.get_or_create(&labels).set(ratio);
            }
        }
        let labels = [("pool", name())];
        let reserved = float(pool.reserved_bytes);
        self.pool_reserved.get_or_create(&labels).set(reserved);
        let promised = float(pool.virtual_bytes);
        self.pool_virtual.get_or_create(&labels).set(promised);
        let sound = i64::from(pool.flaw.is_none());
        self.pool_sound.get_or_create(&labels).set(sound);
    }

    /// The cache's content.
    pub fn cache_measured(&self, usage: cache::Usage, free_bytes: u64) {
        self.cache_size.set(float(usage.size_bytes));
        self.cache_images.set(float(usage.images));
        self.unpacked.images.set(float(usage.unpacked));
        self.unpacked.bytes.set(float(usage.unpacked_bytes));
        self.cache_free.set(float(free_bytes));
    }
}
