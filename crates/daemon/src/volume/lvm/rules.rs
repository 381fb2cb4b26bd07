//! Which logical volumes may be written at all, by what LVM says of them.

use super::super::{VolumeError, VolumeErrorKind};
use super::tags::Tags;
use crate::volume::report::LvRow;

/// Layouts that are a plain disk to whoever writes to it. Everything else is refused: a thin
/// volume may fill its pool, a pool is no disk, and of what is unknown nothing is known.
const PLAIN_LAYOUTS: [&str; 12] = [
    "linear",
    "striped",
    "mirror",
    "raid",
    "raid0",
    "raid0_meta",
    "raid1",
    "raid4",
    "raid5",
    "raid6",
    "raid10",
    "raid01",
];

/// Says why a volume must not be written, if so. `adopt_untagged`: take over volumes that carry
/// no tags at all.
pub(super) fn refusal(row: &LvRow, tags: &Tags, adopt_untagged: bool) -> Option<VolumeError> {
    let reason = part_of_another(row)
        .or_else(|| of_another_layout(row))
        .or_else(|| of_somebody_else(tags, adopt_untagged))?;
    let message = format!(
        "The volume {} is not written: {reason}",
        row.lv_path_or_dm()
    );
    Some(VolumeError::new(VolumeErrorKind::NotOurs, message))
}

fn part_of_another(row: &LvRow) -> Option<String> {
    if row.lv_role.iter().all(|role| role == "public") && !row.lv_role.is_empty() {
        return None;
    }
    let role = row.lv_role.join(",");
    let has = |name: &str| row.lv_role.iter().any(|role| role == name);
    Some(if has("snapshot") {
        format!("it is a snapshot ({role}); choose another name")
    } else if has("origin") {
        format!("snapshots depend on it ({role}); remove them first, or choose another name")
    } else {
        format!("it is a part of another volume ({role}); choose another name")
    })
}

fn of_another_layout(row: &LvRow) -> Option<String> {
    let is_plain = |layout: &String| {
        // raid5_ls, raid6_zr and so on are variants of their level.
        let level = layout.split('_').next().unwrap_or(layout);
        PLAIN_LAYOUTS.contains(&layout.as_str()) || PLAIN_LAYOUTS.contains(&level)
    };
    if row.lv_layout.iter().all(is_plain) && !row.lv_layout.is_empty() {
        return None;
    }
    let layout = row.lv_layout.join(",");
    Some(format!(
        "its layout is {layout:?}, and only plain volumes are; choose another name"
    ))
}

fn of_somebody_else(tags: &Tags, adopt_untagged: bool) -> Option<String> {
    if let Some(tag) = tags.of_another_tool() {
        return Some(format!("its tag {tag:?} says that another tool manages it"));
    }
    if tags.ours {
        return None;
    }
    if !tags.others.is_empty() {
        let others = tags.others.join(", ");
        return Some(format!(
            "it carries tags ({others}) and none of this program's, so somebody keeps track of \
             it; hand it over with 'lvchange --addtag lvp' if that is meant"
        ));
    }
    (!adopt_untagged).then(|| {
        "it was not made by this program, and lvm.adopt_untagged is off; hand it over with \
         'lvchange --addtag lvp' if that is meant"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use lvp_api::JobId;

    use super::super::tags::populating;
    use super::*;

    fn row(layout: &str, role: &str) -> LvRow {
        let list = |text: &str| text.split(',').map(str::to_owned).collect();
        LvRow {
            lv_name: "a".to_owned(),
            lv_uuid: "u".to_owned(),
            vg_uuid: "v".to_owned(),
            lv_size: 1 << 20,
            lv_tags: vec![],
            lv_path: "/dev/vg0/a".to_owned(),
            lv_dm_path: "/dev/mapper/vg0-a".to_owned(),
            lv_kernel_major: 254,
            lv_kernel_minor: 0,
            lv_layout: list(layout),
            lv_role: list(role),
            lv_active: "active".to_owned(),
            lv_device_open: String::new(),
            lv_permissions: "writeable".to_owned(),
        }
    }

    fn reason(row: &LvRow, tags: &[&str], adopt: bool) -> Option<String> {
        let tags: Vec<_> = tags.iter().map(|tag| (*tag).to_owned()).collect();
        refusal(row, &Tags::parse(&tags), adopt).map(|error| {
            assert_eq!(error.kind(), VolumeErrorKind::NotOurs);
            error.to_string()
        })
    }

    #[test]
    fn plain_public_volumes_are_written() {
        for layout in [
            "linear",
            "striped",
            "raid,raid1",
            "mirror",
            "raid,raid5,raid5_ls",
        ] {
            assert_eq!(reason(&row(layout, "public"), &[], true), None, "{layout}");
        }
    }

    #[test]
    fn parts_snapshots_and_origins_are_refused_even_with_our_tags() {
        let ours = populating(JobId::random(), true);
        let ours: Vec<_> = ours.iter().map(String::as_str).collect();
        for (layout, role) in [
            ("linear", "private,thin,pool,data"),
            ("linear", "private,raid,image"),
            ("linear", "private,pool,spare"),
            ("thin,pool", "private"),
            ("linear", "public,snapshot,thicksnapshot"),
            ("linear", "public,origin,thickorigin"),
            ("linear", "public,origin,multithickorigin"),
            ("thin,sparse", "public,snapshot,thinsnapshot"),
            ("thin,sparse", "public"),
            ("cache", "public"),
            ("vdo", "public"),
            ("", "public"),
            ("linear", ""),
            ("unheard-of", "public"),
        ] {
            assert!(
                reason(&row(layout, role), &ours, true).is_some(),
                "{layout} {role}"
            );
        }
    }

    #[test]
    fn untagged_volumes_are_taken_over_only_while_that_is_on() {
        let plain = row("linear", "public");
        assert_eq!(reason(&plain, &[], true), None);
        let refused = reason(&plain, &[], false).unwrap();
        assert!(refused.contains("adopt_untagged"), "{refused}");
        assert_eq!(reason(&plain, &["lvp"], false), None, "handed over by hand");
    }

    #[test]
    fn what_others_tagged_is_theirs() {
        let plain = row("linear", "public");
        assert!(reason(&plain, &["backup-daily"], true).is_some());
        assert_eq!(reason(&plain, &["lvp", "backup-daily"], true), None);
        for tag in ["ceph.osd_id=3", "pve-vm-100", "IU_4f2a", "MD_12"] {
            let refused = reason(&plain, &["lvp", tag], true).unwrap();
            assert!(refused.contains(tag), "{refused}");
        }
    }
}
