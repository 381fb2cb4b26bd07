//! Which logical volumes may be written at all, by what LVM says of them.

use super::super::clones::is_reserved;
use super::super::{Unmarked, VolumeError, VolumeErrorKind, VolumeState, how_to_adopt};
use super::report::LvRow;
use super::tags::Tags;

/// Layouts that are a plain disk to whoever writes to it. Everything else is refused: a pool is no
/// disk, and of what is unknown nothing is known. A thin volume may fill its pool; those of the
/// configured one are written, as that pool is watched.
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

/// What a thin volume may be to others: its snapshots and its origin share what neither has written
/// since, and see nothing of what it writes.
const THIN_ROLES: [&str; 6] = [
    "public",
    "snapshot",
    "thinsnapshot",
    "origin",
    "thinorigin",
    "multithinorigin",
];

/// Says why a volume must not be written, if so. `unmarked`: what becomes of volumes that carry no
/// tags at all. `pool`: the one that may be written to.
pub(super) fn refusal(
    row: &LvRow,
    tags: &Tags,
    unmarked: Unmarked,
    pool: Option<&str>,
) -> Option<VolumeError> {
    let reason = match is_thin(row) {
        true => of_another_pool(row, pool),
        false => part_of_another(row).or_else(|| of_another_layout(row)),
    };
    let reason = reason
        .or_else(|| of_clones(row, tags))
        .or_else(|| of_somebody_else(row, tags, unmarked))?;
    let message = format!(
        "The volume {} is not written: {reason}",
        row.lv_path_or_dm()
    );
    Some(VolumeError::new(VolumeErrorKind::NotOurs, message))
}

/// Says why a volume with tags of ours must not be removed, if so.
pub(super) fn foreign(row: &LvRow, tags: &Tags) -> Option<VolumeError> {
    let tag = tags.of_another_tool()?;
    let message = format!(
        "The volume {} is not removed: its tag {tag:?} says that another tool manages it",
        row.lv_path_or_dm()
    );
    Some(VolumeError::new(VolumeErrorKind::NotOurs, message))
}

/// Whether it is a thin volume.
pub(super) fn is_thin(row: &LvRow) -> bool {
    let has = |layout: &str| row.lv_layout.iter().any(|has| has == layout);
    has("thin") && !has("pool")
}

/// Whether it has a disk's layout and is nothing to others.
pub(super) fn is_plain(row: &LvRow) -> bool {
    part_of_another(row).is_none() && of_another_layout(row).is_none()
}

fn of_another_pool(row: &LvRow, pool: Option<&str>) -> Option<String> {
    let (role, of) = (row.lv_role.join(","), &row.pool_lv);
    let is_known = |role: &String| THIN_ROLES.contains(&role.as_str());
    if !row.lv_role.iter().all(is_known) || row.lv_role.is_empty() {
        return Some(format!(
            "other volumes depend on it or it on them ({role}); choose another name"
        ));
    }
    match pool {
        Some(pool) if pool == of => None,
        Some(pool) => Some(format!(
            "it is thin, in the pool {of}, and only {pool} is watched (lvm.thin_pool); choose another name"
        )),
        None => Some(format!(
            "it is thin, in the pool {of}, which nobody watches: set lvm.thin_pool to {of}, or choose another name"
        )),
    }
}

/// Golden volumes and what waits for a name are the clones' own.
fn of_clones(row: &LvRow, tags: &Tags) -> Option<String> {
    let is_being_made = matches!(tags.state, VolumeState::Populating { created: true, .. })
        && !tags.of_making.is_empty();
    let is_reserved = row.lv_name.parse().is_ok_and(|name| is_reserved(&name));
    (is_reserved && !is_being_made).then(|| {
        "its name is one of those that golden volumes and clones have for themselves; choose another name".to_owned()
    })
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
            lv_skip_activation: String::new(),
            pool_lv: String::new(),
            data_percent: None,
        }
    }

    fn reason(row: &LvRow, tags: &[&str], unmarked: Unmarked) -> Option<String> {
        let tags: Vec<_> = tags.iter().map(|tag| (*tag).to_owned()).collect();
        refusal(row, &Tags::parse(&tags), unmarked, Some("pool0")).map(|error| {
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
    fn thin_volumes_are_written_in_the_configured_pool_alone_and_whatever_snapshots_they_have() {
        let thin = |role: &str, pool: &str| LvRow {
            pool_lv: pool.to_owned(),
            ..row("thin,sparse", role)
        };
        for role in [
            "public",
            "public,snapshot,thinsnapshot",
            "public,origin,thinorigin",
            "public,origin,multithinorigin,snapshot,thinsnapshot",
        ] {
            assert_eq!(
                reason(&thin(role, "pool0"), &["lvp"], Unmarked::Refuse),
                None,
                "{role}"
            );
            let other = reason(&thin(role, "pool1"), &["lvp"], Unmarked::Refuse).unwrap();
            assert!(other.contains("only pool0 is watched"), "{other}");
            let tags = Tags::parse(&["lvp".to_owned()]);
            assert!(refusal(&thin(role, "pool0"), &tags, Unmarked::Refuse, None).is_some());
        }
        for role in ["public,origin,externalorigin", "private,thin,pool,data", ""] {
            assert!(
                reason(&thin(role, "pool0"), &["lvp"], Unmarked::Adopt).is_some(),
                "{role}"
            );
        }
        // Unmarked ones are somebody's, as ever.
        assert!(reason(&thin("public", "pool0"), &[], Unmarked::Refuse).is_some());
    }

    #[test]
    fn what_is_called_like_a_golden_volume_or_a_clone_in_the_making_is_written_by_its_maker_alone()
    {
        for name in ["lvp-golden-77-raw", "lvp-new-1", "lvp-old-1"] {
            let named = LvRow {
                lv_name: name.to_owned(),
                ..row("linear", "public")
            };
            for unmarked in [Unmarked::Refuse, Unmarked::Adopt] {
                assert!(reason(&named, &["lvp"], unmarked).is_some(), "{name}");
            }
            let mut making = populating(JobId::random(), true);
            making.push("lvp.for=vm-1".to_owned());
            let making: Vec<_> = making.iter().map(String::as_str).collect();
            assert_eq!(reason(&named, &making, Unmarked::Refuse), None, "{name}");
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
