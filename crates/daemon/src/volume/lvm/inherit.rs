//! What a clone gets of the volume that it replaces: what somebody set on that one, and would find on it still if it
//! had been written in place.
//!
//! | property | a clone |
//! |---|---|
//! | tags of others, autoactivation, skipping of activation, allocation policy, read-ahead, metadata profile | gets it |
//! | read-only | is not made: the volume may not be written |
//! | persistent device number | is not made: both volumes are active for a moment, and one number has one device |

use super::super::{VolumeError, VolumeErrorKind};
use super::Lvm;
use super::commands::{bad_report, report_args};
use super::find::Found;
use super::report::{self, PropertyRow};

/// The unit in which `lvchange` takes a read-ahead: a sector.
const SECTOR_BYTES: u64 = 512;

impl Lvm {
    /// Gives the clone what was set on the volume.
    pub(super) async fn inherit(&self, old: &Found, clone: &Found) -> Result<(), VolumeError> {
        let rows = self.properties(&[old, clone]).await?;
        let of = |found: &Found| {
            let row = rows.iter().find(|row| row.lv_uuid == found.row.lv_uuid);
            row.cloned().unwrap_or_default()
        };
        let mut args = difference(&of(old), &of(clone));
        let missing = old.tags.others.iter();
        let missing = missing.filter(|tag| !clone.tags.others.contains(tag));
        args.extend(missing.flat_map(|tag| ["--addtag".to_owned(), tag.clone()]));
        if args.is_empty() {
            return Ok(());
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.change("lvchange", &args, clone).await
    }

    /// Fails if a volume has a property that a clone in its place cannot have.
    pub(super) async fn check_inheritable(&self, old: &Found) -> Result<(), VolumeError> {
        let rows = self.properties(&[old]).await?;
        if rows.iter().all(|row| row.lv_fixed_minor.is_empty()) {
            return Ok(());
        }
        let path = old.row.lv_path_or_dm();
        let message = format!(
            "{path} has a persistent device number, which a clone in its place cannot have: send clone: never, and it is \
             written in place, or 'lvchange -M n {path}'"
        );
        Err(VolumeError::new(VolumeErrorKind::NotOurs, message))
    }

    async fn properties(&self, of: &[&Found]) -> Result<Vec<PropertyRow>, VolumeError> {
        let uuids = of
            .iter()
            .map(|of| format!("lv_uuid=\"{}\"", of.row.lv_uuid));
        let selection = uuids.collect::<Vec<_>>().join(" || ");
        // All fields that this LVM knows: an older one fails if it is asked for one that it does not know.
        let mut args = report_args("lv_all", &selection);
        args.push(self.group_name());
        let json = self.run("lvs", &args).await;
        let json = json
            .map_err(|e| VolumeError::command("Asking for the properties of a volume failed", e))?;
        report::parse_properties(&json).map_err(bad_report)
    }
}

/// What gives the second volume the properties of the first.
fn difference(old: &PropertyRow, new: &PropertyRow) -> Vec<String> {
    let mut args = Vec::new();
    let mut set = |option: &str, value: String| args.extend([option.to_owned(), value]);
    let yes = |is: bool| if is { "y" } else { "n" }.to_owned();
    if old.lv_autoactivation != new.lv_autoactivation
        && let Some(word) = &old.lv_autoactivation
    {
        set("--setautoactivation", yes(!word.is_empty()));
    }
    if old.lv_skip_activation != new.lv_skip_activation {
        set(
            "--setactivationskip",
            yes(!old.lv_skip_activation.is_empty()),
        );
    }
    if old.lv_allocation_policy != new.lv_allocation_policy && !old.lv_allocation_policy.is_empty()
    {
        set("--alloc", old.lv_allocation_policy.clone());
    }
    if old.lv_read_ahead != new.lv_read_ahead {
        match old.lv_read_ahead.parse::<u64>() {
            Ok(0) => set("--readahead", "none".to_owned()),
            Ok(bytes) => set("--readahead", (bytes / SECTOR_BYTES).to_string()),
            Err(_) if old.lv_read_ahead == "auto" => set("--readahead", "auto".to_owned()),
            Err(_) => {}
        }
    }
    if old.lv_profile != new.lv_profile && !old.lv_profile.is_empty() {
        set("--metadataprofile", old.lv_profile.clone());
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_given_on_and_what_is_not_is_left_alone() {
        let usual = PropertyRow {
            lv_uuid: "1".to_owned(),
            lv_autoactivation: Some("enabled".to_owned()),
            lv_skip_activation: String::new(),
            lv_allocation_policy: "inherit".to_owned(),
            lv_fixed_minor: String::new(),
            lv_read_ahead: "auto".to_owned(),
            lv_profile: String::new(),
        };
        assert_eq!(difference(&usual, &usual), Vec::<String>::new());
        let set = PropertyRow {
            lv_autoactivation: Some(String::new()),
            lv_skip_activation: "skip activation".to_owned(),
            lv_allocation_policy: "cling".to_owned(),
            lv_read_ahead: "131072".to_owned(),
            lv_profile: "mine".to_owned(),
            ..usual.clone()
        };
        assert_eq!(
            difference(&set, &usual).join(" "),
            "--setautoactivation n --setactivationskip y --alloc cling --readahead 256 --metadataprofile mine"
        );
        let none = PropertyRow {
            lv_read_ahead: "0".to_owned(),
            // An LVM that does not know it.
            lv_autoactivation: None,
            ..usual.clone()
        };
        assert_eq!(difference(&none, &usual), ["--readahead", "none"]);
    }
}
