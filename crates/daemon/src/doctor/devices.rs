//! Which disks LVM looks at: judges `lvm.conf`'s filters and devices file by their effect.
//!
//! Two mistakes are common. A filter (or a devices file that was made before a disk was added) hides
//! the volume group, so that nothing can be provisioned. Or LVM scans the volumes that belong to
//! guests (`scan_lvs`): then a guest's own volume group appears on the host, where it may be
//! activated, and the guest's volume is refused because it is in use.

use super::Finding;

const CHECK: &str = "lvm.devices";

/// The settings in `lvmconfig`'s output that decide which disks LVM looks at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LvmConf {
    /// Patterns that apply to the disks of every LVM command; the first that matches decides.
    pub(super) global_filter: Vec<String>,
    /// The same, for commands only.
    pub(super) filter: Vec<String>,
    /// Only disks in the devices file are used.
    pub(super) use_devicesfile: bool,
    /// Logical volumes are scanned as disks.
    pub(super) scan_lvs: bool,
}

/// A physical volume that LVM sees.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub(super) struct PhysicalVolume {
    pub(super) pv_name: String,
    pub(super) vg_name: String,
}

impl LvmConf {
    /// Parses `lvmconfig`'s output: one `name=value` a line, in the form of lvm.conf(5).
    pub(super) fn parse(text: &str) -> Self {
        let mut settings = Self::default();
        for line in text.lines() {
            let Some((name, value)) = line.trim().split_once('=') else {
                continue;
            };
            match name {
                "global_filter" => settings.global_filter = strings(value),
                "filter" => settings.filter = strings(value),
                "use_devicesfile" => settings.use_devicesfile = value == "1",
                "scan_lvs" => settings.scan_lvs = value == "1",
                _ => {}
            }
        }
        settings
    }

    fn has_filter(&self) -> bool {
        let narrows = |patterns: &[String]| patterns.iter().any(|pattern| pattern.starts_with('r'));
        narrows(&self.global_filter) || narrows(&self.filter)
    }
}

/// The strings in a list such as `["r|^/dev/vg0/|","a|.*|"]`, or a single string.
fn strings(value: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut current: Option<String> = None;
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match (&mut current, character) {
            (None, '"') => current = Some(String::new()),
            (None, _) => {}
            (Some(text), '\\') => text.extend(characters.next()),
            (Some(_), '"') => found.extend(current.take()),
            (Some(text), other) => text.push(other),
        }
    }
    found
}

/// Judges what LVM sees with these settings.
pub(super) fn judge(settings: &LvmConf, group: &str, seen: &[PhysicalVolume]) -> Vec<Finding> {
    let ours = seen.iter().any(|disk| disk.vg_name == group);
    let mapper = format!("/dev/mapper/{}-", group.replace('-', "--"));
    let directory = format!("/dev/{group}/");
    let guests: Vec<_> = seen
        .iter()
        .filter(|disk| disk.pv_name.starts_with(&directory) || disk.pv_name.starts_with(&mapper))
        .collect();
    let hide = format!(
        "Set devices/scan_lvs = 0 in lvm.conf, or devices/global_filter = [ \"r|^{directory}|\", \
         \"r|^{mapper}|\", \"a|.*|\" ]"
    );
    let mut findings = Vec::new();
    for guest in &guests {
        let PhysicalVolume { pv_name, vg_name } = guest;
        let what = match vg_name.as_str() {
            "" => "a physical volume of a guest".to_owned(),
            name => format!("a disk of a guest's volume group {name}"),
        };
        findings.push(Finding::warn(
            CHECK,
            format!("LVM sees {what} on {pv_name}: the host could activate or change it"),
            hide.clone(),
        ));
    }
    if !ours && (settings.use_devicesfile || settings.has_filter()) {
        let (what, remedy) = if settings.use_devicesfile {
            (
                "the devices file lists which disks LVM looks at",
                format!(
                    "Add its disks with 'lvmdevices --adddev /dev/DISK' or 'vgimportdevices {group}'"
                ),
            )
        } else {
            (
                "a filter in lvm.conf hides disks",
                "Check devices/global_filter and devices/filter: 'lvmconfig devices/global_filter'"
                    .to_owned(),
            )
        };
        let message = format!("LVM sees no disk of {group}, and {what}");
        findings.push(Finding::fail(CHECK, message, remedy));
    }
    if settings.scan_lvs && guests.is_empty() {
        findings.push(Finding::warn(
            CHECK,
            "devices/scan_lvs is 1: volume groups that guests create on their disks will be visible on this host",
            hide,
        ));
    }
    if findings.is_empty() {
        let by = match (settings.use_devicesfile, settings.has_filter()) {
            (true, _) => "by the devices file",
            (false, true) => "through a filter",
            (false, false) => "without a filter",
        };
        let message = format!("Disks are selected {by}; guests' volumes are not scanned");
        findings.push(Finding::ok(CHECK, message));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    fn disks(pairs: &[(&str, &str)]) -> Vec<PhysicalVolume> {
        let disk = |&(pv_name, vg_name): &(&str, &str)| PhysicalVolume {
            pv_name: pv_name.to_owned(),
            vg_name: vg_name.to_owned(),
        };
        pairs.iter().map(disk).collect()
    }

    #[test]
    fn the_output_of_lvmconfig_is_parsed() {
        let text = "global_filter=[\"r|^/dev/vg0/|\",\"a|.*|\"]\nfilter=[\"a|.*|\"]\n\
                    use_devicesfile=0\nscan_lvs=1\ndevicesfile=\"system.devices\"\n";
        let settings = LvmConf::parse(text);
        let expected = LvmConf {
            global_filter: vec!["r|^/dev/vg0/|".to_owned(), "a|.*|".to_owned()],
            filter: vec!["a|.*|".to_owned()],
            use_devicesfile: false,
            scan_lvs: true,
        };
        assert_eq!(settings, expected);
        assert_eq!(strings(r#""a|\"x\\|""#), [r#"a|"x\|"#]);
        assert_eq!(LvmConf::parse("nonsense"), LvmConf::default());
    }

    #[test]
    fn a_sound_set_up_is_ok_with_and_without_filters() {
        let seen = disks(&[("/dev/sda3", "vg0"), ("/dev/sdb", "data")]);
        for text in [
            "global_filter=[\"a|.*|\"]\nscan_lvs=0",
            "global_filter=[\"r|^/dev/vg0/|\",\"a|.*|\"]",
            "use_devicesfile=1",
        ] {
            let findings = judge(&LvmConf::parse(text), "vg0", &seen);
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert_eq!(findings[0].status, Status::Ok, "{text}: {findings:?}");
        }
    }

    #[test]
    fn a_guests_volume_group_on_the_host_is_reported_by_name() {
        for path in ["/dev/vg-0/web", "/dev/mapper/vg--0-web"] {
            let seen = disks(&[("/dev/sda3", "vg-0"), (path, "rootvg")]);
            let findings = judge(&LvmConf::parse("scan_lvs=1"), "vg-0", &seen);
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert_eq!(findings[0].status, Status::Warn);
            assert!(findings[0].message.contains("rootvg"), "{findings:?}");
            let remedy = findings[0].remedy.as_deref().unwrap_or_default();
            assert!(remedy.contains("r|^/dev/mapper/vg--0-|"), "{remedy}");
        }
        // Another group whose name begins the same way is not a guest's.
        let seen = disks(&[("/dev/sda3", "vg0"), ("/dev/mapper/vg01-x", "other")]);
        let findings = judge(&LvmConf::default(), "vg0", &seen);
        assert_eq!(findings[0].status, Status::Ok, "{findings:?}");
    }

    #[test]
    fn scanning_volumes_is_reported_before_a_guest_makes_a_group() {
        let seen = disks(&[("/dev/sda3", "vg0")]);
        let findings = judge(&LvmConf::parse("scan_lvs=1"), "vg0", &seen);
        assert_eq!(findings[0].status, Status::Warn, "{findings:?}");
    }

    #[test]
    fn what_hides_the_volume_group_is_reported() {
        for (text, expected) in [
            ("use_devicesfile=1", "lvmdevices --adddev"),
            ("filter=[\"r|/dev/sd|\"]", "global_filter"),
        ] {
            let findings = judge(&LvmConf::parse(text), "vg0", &[]);
            assert_eq!(findings[0].status, Status::Fail, "{findings:?}");
            let remedy = findings[0].remedy.as_deref().unwrap_or_default();
            assert!(remedy.contains(expected), "{remedy}");
        }
        // If the group is absent for another reason, the check of the volume group reports it.
        let findings = judge(&LvmConf::default(), "vg0", &[]);
        assert_eq!(findings[0].status, Status::Ok, "{findings:?}");
    }
}
