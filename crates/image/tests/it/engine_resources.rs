//! The resources of a copy: its rate, its memory, and the page cache.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use lvp_image::copy::{Copier, CopyOptions, Engine, RateLimiter, TailPolicy};
use lvp_image::format::ImageType;

use crate::engine_copy::{file_target, planner};
use crate::engine_support::{noise, text};
use crate::parser_support::{require, run};

const MIB: usize = 1 << 20;

#[test]
fn the_write_rate_holds() {
    let directory = tempfile::tempdir().unwrap();
    let (image, target) = (
        directory.path().join("image"),
        directory.path().join("target"),
    );
    std::fs::write(&image, noise(7, 24 * MIB)).unwrap();
    let mut options = CopyOptions::new(&Engine::new(), TailPolicy::Zero);
    let rate = std::num::NonZeroU64::new(32 * MIB as u64).unwrap();
    options.limiter = Some(Arc::new(RateLimiter::new(rate)));
    let start = Instant::now();
    let body = Copier::copy_file(
        planner(&image, ImageType::Raw),
        file_target(&target),
        options.clone(),
    )
    .unwrap();
    // Each worker's last write is let through when its time has come, not when it is paid for.
    let unpaid = (options.workers * 2 * MIB) as f64;
    let written = options.counters.written_bytes.load(Ordering::Relaxed) as f64;
    let least = (written - unpaid) / rate.get() as f64;
    let elapsed = start.elapsed().as_secs_f64();
    assert!(elapsed >= least * 0.95, "{elapsed} s instead of {least} s");
    body.commit().unwrap();
}

/// Set in the process that measures its own memory.
const MEASURE: &str = "LVP_TEST_MEASURE_MEMORY";

#[test]
fn memory_stays_flat_and_the_page_cache_does_not_grow() {
    if std::env::var_os(MEASURE).is_none() {
        // Other tests of this process would be measured too: run this one alone.
        let this = std::env::current_exe().unwrap();
        let name = "engine_resources::memory_stays_flat_and_the_page_cache_does_not_grow";
        let setting = format!("{MEASURE}=1");
        run(
            "env",
            &[&setting, text(&this), "--exact", name, "--nocapture"],
        );
        return;
    }
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (image, target) = (
        directory.path().join("image"),
        directory.path().join("target"),
    );
    let file = std::fs::File::create(&image).unwrap();
    for megabyte in 0..384 {
        std::os::unix::fs::FileExt::write_all_at(
            &file,
            &noise(megabyte, MIB),
            megabyte * MIB as u64,
        )
        .unwrap();
    }
    file.sync_all().unwrap();
    // The image is cold, so that what a copy leaves in the page cache shows.
    run(
        "dd",
        &[
            &format!("of={}", text(&image)),
            "oflag=nocache",
            "conv=notrunc,fdatasync",
            "count=0",
            "status=none",
        ],
    );
    let mut options = CopyOptions::new(&Engine::new(), TailPolicy::Zero);
    options.workers = 8;
    let before = peak_memory_bytes();
    let body = Copier::copy_file(
        planner(&image, ImageType::Raw),
        file_target(&target),
        options,
    );
    let summary = body.unwrap().commit().unwrap();
    let grown = peak_memory_bytes() - before;
    assert!(grown < 40 * MIB, "peak memory grew by {grown} bytes");
    if summary.direct && require("fincore", &["fincore"]) {
        for file in [&image, &target] {
            let cached = run(
                "fincore",
                &["--bytes", "--noheadings", "--output", "RES", text(file)],
            );
            let cached: usize = cached.trim().parse().unwrap();
            assert!(
                cached < 8 * MIB,
                "{cached} bytes of {} are cached",
                file.display()
            );
        }
    }
}

fn peak_memory_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<usize>().unwrap() << 10
}
