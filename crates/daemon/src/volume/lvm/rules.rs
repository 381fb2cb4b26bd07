//! Which logical volumes may be written at all, by what LVM says of them.

use super::super::{Unmarked, VolumeError, VolumeErrorKind, how_to_adopt};
use super::report::LvRow;
use super::tags::Tags;

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

/// Says why a volume must not be written, if so. `unmarked`: what becomes of volumes that carry no
/// tags at all.
pub(super) fn refusal(row: &LvRow, tags: &Tags, unmarked: Unmarked) -> Option<VolumeError> {
    let reason = part_of_another(row)
        .or_else(|| of_another_layout(row))
        .or_else(|| of_somebody_else(row, tags, unmarked))?;
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
        format!("it is a copy-on-write snapshot of another volume ({role}); choose another name")
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

fn of_somebody_else(row: &LvRow, tags: &Tags, unmarked: Unmarked) -> Option<String> {
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
    (unmarked == Unmarked::Refuse).then(|| how_to_adopt(&row.lv_name))
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

    fn reason(row: &LvRow, tags: &[&str], unmarked: Unmarked) -> Option<String> {
        let tags: Vec<_> = tags.iter().map(|tag| (*tag).to_owned()).collect();
        refusal(row, &Tags::parse(&tags), unmarked).map(|error| {
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
            let reason = reason(&row(layout, "public"), &[], Unmarked::Adopt);
            assert_eq!(reason, None, "{layout}");
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
                reason(&row(layout, role), &ours, Unmarked::Adopt).is_some(),
                "{layout} {role}"
            );
        }
    }

    #[test]
    fn untagged_volumes_are_taken_over_only_when_that_is_meant() {
        let plain = row("linear", "public");
        assert_eq!(reason(&plain, &[], Unmarked::Adopt), None);
        let refused = reason(&plain, &[], Unmarked::Refuse).unwrap();
        assert!(refused.contains("lvpctl volumes adopt a"), "{refused}");
        let handed_over = reason(&plain, &["lvp"], Unmarked::Refuse);
        assert_eq!(handed_over, None, "handed over by hand");
    }

    #[test]
    fn what_others_tagged_is_theirs() {
        let plain = row("linear", "public");
        assert!(reason(&plain, &["backup-daily"], Unmarked::Adopt).is_some());
        assert_eq!(
            reason(&plain, &["lvp", "backup-daily"], Unmarked::Refuse),
            None
        );
        for tag in ["ceph.osd_id=3", "pve-vm-100", "IU_4f2a", "MD_12"] {
            let refused = reason(&plain, &["lvp", tag], Unmarked::Adopt).unwrap();
            assert!(refused.contains(tag), "{refused}");
        }
    }
}
