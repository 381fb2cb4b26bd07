//! The metrics that are served are those of the catalogue, in the formats that scrapers read.

use super::*;

#[tokio::test]
async fn every_metric_of_the_catalogue_is_served_with_its_type_and_labels_and_no_other() {
    let world = World::new().await;
    // Of a mirror that is down there are all counts.
    let world = world.with("MINIO_MIRRORS", "http://127.0.0.1:9");
    let daemon = world.start();
    // Metrics that have no series before their first event.
    rusqlite::Connection::open(world.home.path().join("jobs.db"))
        .and_then(|database| database.execute_batch("ALTER TABLE measurements RENAME TO gone"))
        .expect("the table can be renamed");
    let url = world.put("a.qcow2", &image(32 * MIB, 10, 16).build());
    run(&daemon, &url, "vm").await;
    let scrape = Scrape::of(&daemon).await;
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    for line in scrape.text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type line has a type");
            types.insert(name, kind);
        }
    }
    let mut expected = BTreeMap::new();
    for entry in CATALOGUE {
        // Only a daemon with certificates or with a thin pool has them; they have tests of their own.
        if is_elsewhere(entry.name) {
            continue;
        }
        let name = entry.full_name();
        let labels = labels_of(&scrape, &name, entry.kind);
        let declared: BTreeSet<String> = entry.labels.iter().map(ToString::to_string).collect();
        assert_eq!(labels, declared, "{name}");
        expected.insert(name, entry.kind.as_str());
    }
    let served: BTreeMap<String, &str> = types
        .into_iter()
        .filter(|(name, _)| !is_elsewhere(name.strip_prefix(PREFIX).unwrap_or(name)))
        .map(|(name, kind)| (name.to_owned(), kind))
        .collect();
    assert_eq!(served, expected);
}

fn is_elsewhere(name: &str) -> bool {
    name == "certificate_expiry_timestamp_seconds" || name.starts_with("pool_")
}

fn labels_of(scrape: &Scrape, name: &str, kind: Kind) -> BTreeSet<String> {
    let name = match kind {
        Kind::Histogram => format!("{name}_count"),
        _ => name.to_owned(),
    };
    let series = scrape.series.keys().find(|series| {
        let rest = series.strip_prefix(&name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
    });
    let series = series.unwrap_or_else(|| panic!("{name} has no series:\n{}", scrape.text));
    let labels = series[name.len()..].trim_matches(['{', '}']);
    labels
        .split("\",")
        .filter_map(|label| label.split_once("=\""))
        .map(|(label, _)| label.to_owned())
        .collect()
}

/// The guide's own table, word for word: existing dashboards rely on it.
#[test]
fn the_metrics_of_the_guide_have_its_names_types_and_labels() {
    let table: Vec<String> = CATALOGUE[..OF_THE_GUIDE]
        .iter()
        .map(|entry| {
            let (name, kind) = (entry.full_name(), entry.kind.as_str());
            format!("{name} {kind} {}", entry.labels.join(", "))
        })
        .collect();
    let guide = "\
requests_total counter method, endpoint, status
request_duration_seconds histogram method, endpoint
active_jobs gauge 
jobs_total counter status
job_duration_seconds histogram status
cache_hits_total counter 
cache_misses_total counter 
cache_hit_ratio gauge 
images_downloaded_total counter 
image_download_size_bytes histogram image_type
image_errors_total counter operation, error_type
storage_operations_total counter operation, result
storage_errors_total counter operation, error_type
stage_duration_seconds histogram stage
stage_throughput_bytes_per_second gauge stage
health_status gauge 
dependencies_up gauge dependency";
    let guide: Vec<String> = guide
        .lines()
        .map(|line| format!("{PREFIX}{line}"))
        .collect();
    assert_eq!(table, guide);
}

#[tokio::test]
async fn histograms_have_the_documented_buckets() {
    let world = World::new().await;
    let daemon = world.start();
    let url = world.put("a.qcow2", &image(32 * MIB, 10, 17).build());
    run(&daemon, &url, "vm").await;
    let scrape = Scrape::of(&daemon).await;
    for (name, buckets) in [
        (
            "request_duration_seconds",
            "0.005 0.01 0.025 0.05 0.1 0.25 0.5 1.0 2.5 5.0 10.0 +Inf",
        ),
        (
            "job_duration_seconds",
            "1.0 5.0 10.0 30.0 60.0 120.0 300.0 600.0 1800.0 3600.0 +Inf",
        ),
        (
            "stage_duration_seconds",
            "0.1 0.5 1.0 5.0 10.0 30.0 60.0 120.0 300.0 600.0 +Inf",
        ),
        (
            "image_download_size_bytes",
            "1048576.0 4194304.0 16777216.0 67108864.0 268435456.0 1073741824.0 4294967296.0 \
             17179869184.0 68719476736.0 +Inf",
        ),
    ] {
        let mut found: Vec<&str> = Vec::new();
        for line in scrape.text.lines() {
            let bucket = line
                .strip_prefix(&format!("{PREFIX}{name}_bucket{{"))
                .and_then(|rest| rest.split_once("le=\"")?.1.split_once('"'));
            if let Some((bucket, _)) = bucket
                && !found.contains(&bucket)
            {
                found.push(bucket);
            }
        }
        assert_eq!(found.join(" "), buckets, "{name}");
    }
}

#[tokio::test]
async fn promtool_accepts_the_metrics() {
    if !require("promtool") {
        return;
    }
    let world = World::new().await;
    let daemon = world.start();
    let url = world.put("a.qcow2", &image(32 * MIB, 10, 18).build());
    run(&daemon, &url, "vm").await;
    let text = text(&daemon, None).await;
    let mut promtool = command("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    promtool
        .stdin
        .take()
        .expect("it has an input")
        .write_all(text.as_bytes())
        .expect("it reads");
    let output = promtool.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
}

#[tokio::test]
async fn open_metrics_is_served_on_request() {
    let world = World::new().await;
    let daemon = world.start();
    let text = text(&daemon, Some("application/openmetrics-text; version=1.0.0")).await;
    assert!(text.ends_with("# EOF\n"), "{text}");
    assert!(
        text.contains("# TYPE libvirt_volume_provisioner_jobs counter\n"),
        "{text}"
    );
}

#[test]
fn the_docs_hold_every_metric() {
    let table = provisioner::telemetry::metrics::catalogue::markdown();
    lvp_testkit::docs::check_section("docs/monitoring.md", "metrics", &table);
}
