//! Other pools, the fullness of the configured one, and its settings.

use super::super::Status;
use super::*;

fn statuses(findings: &[Finding]) -> Vec<Status> {
    findings.iter().map(|found| found.status).collect()
}

#[test]
fn other_pools_are_judged_by_what_is_fuller() {
    let json = r#"{"report":[{"lv":[
        {"lv_name":"a","lv_layout":"thin,pool","data_percent":"34.10","metadata_percent":"12.00"},
        {"lv_name":"b","lv_layout":"thin,pool","data_percent":"10.00","metadata_percent":"91.50"},
        {"lv_name":"c","lv_layout":"thin,pool","data_percent":"","metadata_percent":""},
        {"lv_name":"d","lv_layout":"linear","data_percent":"99.00","metadata_percent":""}]}]}"#;
    let report: Report = serde_json::from_str(json).expect("LVM's form");
    let rows: Vec<_> = report.report.into_iter().flat_map(|part| part.lv).collect();
    assert_eq!(
        statuses(&others(&rows, None)),
        [Status::Ok, Status::Warn, Status::Ok]
    );
    assert_eq!(
        statuses(&others(&rows, Some(&pool("b")))),
        [Status::Ok, Status::Ok]
    );
    assert_eq!(others(&[], None)[0].message, "There are none");
}

fn pool(name: &str) -> ThinPool {
    ThinPool {
        name: name.parse().expect("a name"),
        data_percent: (70, 80),
        metadata_percent: (60, 75),
        overcommit_percent_max: None,
    }
}

fn usage(data: f64, metadata: f64, flaw: Option<&str>) -> PoolUsage {
    PoolUsage {
        name: "p".to_owned(),
        size_bytes: 1 << 30,
        metadata_size_bytes: 1 << 22,
        data_ratio: Some(data),
        metadata_ratio: Some(metadata),
        reserved_bytes: 0,
        virtual_bytes: 1 << 32,
        warn_ratios: (0.7, 0.6),
        max_ratios: (0.8, 0.75),
        flaw: flaw.map(str::to_owned),
    }
}

#[test]
fn a_pool_is_warned_of_before_it_is_full_and_fails_when_jobs_do() {
    for (data, metadata, flaw, status) in [
        (0.1, 0.1, None, Status::Ok),
        (0.7, 0.1, None, Status::Warn),
        (0.1, 0.6, None, Status::Warn),
        (0.81, 0.1, None, Status::Fail),
        (0.1, 0.76, None, Status::Fail),
        (0.1, 0.1, Some("needs a check"), Status::Fail),
    ] {
        let found = fullness(&usage(data, metadata, flaw));
        assert_eq!(found.status, status, "{found:?}");
    }
}

#[test]
fn every_setting_that_makes_trouble_has_its_remedy() {
    let sound = || Row {
        lv_name: "p".to_owned(),
        lv_layout: "thin,pool".to_owned(),
        lv_size: (1_u64 << 30).to_string(),
        lv_metadata_size: (4 << 20).to_string(),
        chunk_size: (64 << 10).to_string(),
        discards: "passdown".to_owned(),
        lv_when_full: "queue".to_owned(),
        seg_monitor: "monitored".to_owned(),
        vg_free: (1_u64 << 30).to_string(),
        ..Row::default()
    };
    let spare = || Row {
        lv_role: "private,pool,spare".to_owned(),
        lv_size: (4 << 20).to_string(),
        ..Row::default()
    };
    let host = |threshold, timeout| Host {
        autoextend_threshold: Some(threshold),
        no_space_timeout: Some(timeout),
        tools_version: Some("0.9.0".to_owned()),
    };
    let look =
        |row: &Row, rows: &[Row], host: &Host| settings("vg0/p", &pool("p"), row, rows, host);
    let fine = look(&sound(), &[spare()], &host(80, 60));
    assert_eq!(statuses(&fine), [Status::Ok], "{fine:?}");
    let odd = |change: fn(&mut Row)| {
        let mut row = sound();
        change(&mut row);
        row
    };
    for (row, rows, host, expected) in [
        (
            sound(),
            vec![spare()],
            host(100, 60),
            "not extended by itself",
        ),
        (
            sound(),
            vec![spare()],
            host(70, 60),
            "LVM itself makes no volumes",
        ),
        (sound(), vec![], host(80, 60), "no spare metadata volume"),
        (sound(), vec![spare()], host(80, 0), "wait for ever"),
        (
            odd(|row| row.seg_monitor = "not monitored".to_owned()),
            vec![spare()],
            host(80, 60),
            "does not monitor",
        ),
        (
            odd(|row| row.chunk_size = (1 << 20).to_string()),
            vec![spare()],
            host(80, 60),
            "copies all of it",
        ),
        (
            odd(|row| row.discards = "ignore".to_owned()),
            vec![spare()],
            host(80, 60),
            "ignores discards",
        ),
        (
            odd(|row| row.vg_free = "0".to_owned()),
            vec![spare()],
            host(80, 60),
            "left to extend",
        ),
    ] {
        let found = look(&row, &rows, &host);
        assert_eq!(
            statuses(&found),
            [Status::Warn, Status::Ok],
            "{expected}: {found:?}"
        );
        assert!(found[0].message.contains(expected), "{expected}: {found:?}");
    }
    let none = look(&sound(), &[spare()], &Host::default());
    assert_eq!(statuses(&none), [Status::Fail]);
}
