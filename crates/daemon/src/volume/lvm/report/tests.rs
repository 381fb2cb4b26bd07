use std::path::Path;

use lvp_testkit::loopdev::LoopDevice;
use lvp_testkit::require::{command, require};

use super::*;

// Captured from LVM 2.03.16, shortened to a few volumes.
const LVS: &str = r#"  {
  "report": [
      {
          "lv": [
              {"lv_name":"a", "lv_uuid":"dGBsvz-mi7g-s2QV-ZA6P-U31D-44ku-chuYgQ", "vg_uuid":"tEAdv2-Su9K-pGfR-DP3J-0JVM-m6Vd-ydLBzj", "lv_size":"8388608", "lv_tags":"lvp,lvp.created=1111,lvp.job=1111,lvp.state=populating", "lv_path":"/dev/vg0/a", "lv_dm_path":"/dev/mapper/vg0-a", "lv_kernel_major":"254", "lv_kernel_minor":"0", "lv_layout":"linear", "lv_role":"public", "lv_active":"active", "lv_device_open":"open", "lv_permissions":"writeable", "lv_skip_activation":"", "pool_lv":"", "data_percent":""},
              {"lv_name":"[pool_tdata]", "lv_uuid":"2TyKUl-g0UV-0mep-NEjN-cyfO-j5zc-gSZ4uW", "vg_uuid":"tEAdv2-Su9K-pGfR-DP3J-0JVM-m6Vd-ydLBzj", "lv_size":"33554432", "lv_tags":"", "lv_path":"", "lv_dm_path":"/dev/mapper/vg0-pool_tdata", "lv_kernel_major":"254", "lv_kernel_minor":"5", "lv_layout":"linear", "lv_role":"private,thin,pool,data", "lv_active":"active", "lv_device_open":"open", "lv_permissions":"writeable", "lv_skip_activation":"", "pool_lv":"", "data_percent":""},
              {"lv_name":"tsnap", "lv_uuid":"xHAvUJ-umzC-MQgC-tdN6-A5nD-Jk30-DzkeCp", "vg_uuid":"tEAdv2-Su9K-pGfR-DP3J-0JVM-m6Vd-ydLBzj", "lv_size":"16777216", "lv_tags":"", "lv_path":"/dev/vg0/tsnap", "lv_dm_path":"/dev/mapper/vg0-tsnap", "lv_kernel_major":"-1", "lv_kernel_minor":"-1", "lv_layout":"thin,sparse", "lv_role":"public,snapshot,thinsnapshot", "lv_active":"", "lv_device_open":"unknown", "lv_permissions":"unknown", "lv_skip_activation":"skip activation", "pool_lv":"pool", "data_percent":""}
          ]
      }
  ]
  }
"#;

const VGS: &str = r#"  {
  "report": [
      {
          "vg": [
              {"vg_name":"vg0", "vg_uuid":"CWeK7h-MyMD-h0KY-DR8H-A93f-N2dL-C9hrN9", "vg_size":"1069547520", "vg_free":"1069547520", "vg_extent_size":"4194304", "vg_permissions":"writeable", "vg_exported":"", "vg_missing_pv_count":"0"}
          ]
      }
  ]
  ,
  "log": [
      {"log_seq_num":"1", "log_type":"status", "log_context":"processing", "log_object_type":"vg", "log_object_name":"vg0", "log_message":"success", "log_errno":"0", "log_ret_code":"1"}
  ]
  }
"#;

const NOTHING: &str = r#"  {
  "report": [
      {
          "lv": [
          ]
      }
  ]
  }
"#;

#[test]
fn a_report_of_volumes_is_parsed() {
    let volumes = parse_lvs(LVS.as_bytes()).unwrap();
    assert_eq!(volumes.len(), 3);
    let first = &volumes[0];
    assert_eq!(first.lv_size, 8 << 20);
    let tags = [
        "lvp",
        "lvp.created=1111",
        "lvp.job=1111",
        "lvp.state=populating",
    ];
    assert_eq!(first.lv_tags, tags);
    assert_eq!(first.device(), Some((254, 0)));
    // As `dmsetup info -c -o uuid` and /sys/dev/block/254:0/dm/uuid show it.
    assert_eq!(
        first.dm_uuid(),
        "LVM-tEAdv2Su9KpGfRDP3J0JVMm6VdydLBzjdGBsvzmi7gs2QVZA6PU31D44kuchuYgQ"
    );
    assert_eq!(volumes[1].lv_role, ["private", "thin", "pool", "data"]);
    assert_eq!(volumes[2].device(), None);
}

#[test]
fn a_report_of_a_volume_group_is_parsed_also_with_a_log_beside_it() {
    let groups = parse_vgs(VGS.as_bytes()).unwrap();
    assert_eq!(groups.len(), 1);
    assert_eq!(groups[0].vg_free, 1_069_547_520);
    assert_eq!(groups[0].vg_extent_size, 4 << 20);
}

/// What hosts may have set, each of which has a say in the form of reports.
const SETTINGS: [&str; 18] = [
    "",
    "report { prefixes=1 }",
    "report { prefixes=1 quoted=0 }",
    "report { quoted=0 }",
    "report { columns_as_rows=1 }",
    "report { headings=0 }",
    "report { compact_output=1 }",
    "report { compact_output_cols=\"vg_exported,vg_permissions\" }",
    "report { binary_values_as_numeric=1 }",
    "report { output_format=\"json_std\" }",
    "report { output_format=\"basic\" }",
    "report { aligned=0 buffered=0 }",
    "report { separator=\"|\" list_item_separator=\";\" }",
    "report { mark_hidden_devices=0 two_word_unknown_device=1 }",
    "report { time_format=\"%s\" }",
    "log { report_command_log=1 }",
    "global { units=\"h\" }",
    "global { units=\"s\" suffix=1 }",
];

/// Reports need no device-mapper: a group on a loop device will do.
#[test]
fn no_setting_of_the_host_changes_what_is_read_from_a_real_report() {
    if !require("loop") || !Path::new("/usr/sbin/vgs").exists() {
        return;
    }
    let device = LoopDevice::new(64 << 20).expect("a loop device");
    let home = tempfile::tempdir().expect("there is room");
    let group = format!("lvp-report-{}", std::process::id());
    let run = |tool: &str, setting: &str, args: &[&str]| {
        let devices = format!(
            "devices {{ use_devicesfile=0 filter=[\"a|^{}$|\",\"r|.*|\"] }}\nbackup {{ backup=0 archive=0 }}\n{setting}\n",
            device.path().display()
        );
        std::fs::write(home.path().join("lvm.conf"), devices).expect("it is written");
        let output = command(format!("/usr/sbin/{tool}"))
            .args(args)
            .env("LVM_SYSTEM_DIR", home.path())
            .env("LC_ALL", "C")
            .output()
            .expect("it starts");
        assert!(output.status.success(), "{tool} {setting}: {output:?}");
        output.stdout
    };
    run(
        "vgcreate",
        "",
        &[&group, &device.path().display().to_string()],
    );
    let selection = format!("vg_name=\"{group}\"");
    let args = super::super::commands::report_args(VG_FIELDS, &selection);
    for setting in SETTINGS {
        let report = run("vgs", setting, &args);
        let shown = String::from_utf8_lossy(&report).into_owned();
        let groups =
            parse_vgs(&report).unwrap_or_else(|error| panic!("{setting}: {error}: {shown}"));
        assert_eq!(groups.len(), 1, "{setting}: {shown}");
        assert_eq!(groups[0].vg_name, group, "{setting}: {shown}");
        assert_eq!(groups[0].vg_free, 60 << 20, "{setting}: {shown}");
        assert_eq!(groups[0].vg_exported, "", "{setting}: {shown}");
        assert_eq!(groups[0].vg_permissions, "writeable", "{setting}: {shown}");
    }
    run("vgremove", "", &["--force", &group]);
}

#[test]
fn no_volumes_are_no_error() {
    assert_eq!(parse_lvs(NOTHING.as_bytes()).unwrap(), []);
}

#[test]
fn a_report_that_is_cut_or_has_no_number_is_an_error() {
    assert!(parse_lvs(&LVS.as_bytes()[..LVS.len() - 20]).is_err());
    assert!(parse_lvs(b"").is_err());
    assert!(parse_lvs(LVS.replace("\"8388608\"", "\"8.00m\"").as_bytes()).is_err());
    assert!(parse_lvs(LVS.replace("\"lv_role\":\"public\", ", "").as_bytes()).is_err());
}

#[test]
fn the_disks_of_a_group_are_those_that_are_there() {
    let json = r#"{"report": [{"pv": [{"pv_name":"/dev/sda2"}, {"pv_name":"[unknown]"}]}]}"#;
    let found = parse_pvs(json.as_bytes()).unwrap();
    assert_eq!(found, [Path::new("/dev/sda2")]);
    assert!(
        parse_pvs(br#"{"report": [{"pv": []}]}"#)
            .unwrap()
            .is_empty()
    );
}
