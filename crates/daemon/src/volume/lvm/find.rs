//! Which volume has a name, and what LVM says of it.

use std::path::PathBuf;

use lvp_api::{JobId, VolumeKind, VolumeName};

use super::super::clones::WAITING_PREFIX;
use super::super::{Identity, Volume, VolumeError, VolumeErrorKind, VolumeState};
use super::report::LvRow;
use super::tags::{self, Tags};
use super::{Lvm, rules};

/// A volume with everything that LVM says of it.
pub(super) struct Found {
    pub(super) volume: Volume,
    pub(super) row: LvRow,
    pub(super) tags: Tags,
}

impl Found {
    /// Whether it is a finished clone that waits for this name.
    pub(super) fn is_getting(&self, name: &VolumeName) -> bool {
        self.row.lv_name.starts_with(WAITING_PREFIX)
            && self.tags.waits_for.as_ref() == Some(name)
            && matches!(self.volume.state, VolumeState::Ready { .. })
    }

    /// What a repeat of the making of a volume returns.
    pub(super) fn if_made_by(self, job: JobId, size_bytes: u64) -> Result<Volume, VolumeError> {
        let same = VolumeState::Populating { job, created: true };
        if self.volume.state == same && self.volume.size_bytes == size_bytes {
            return Ok(self.volume);
        }
        let path = self.row.lv_path_or_dm();
        let message = format!("The volume {path} exists already");
        Err(VolumeError::new(VolumeErrorKind::AlreadyExists, message))
    }
}

impl Lvm {
    /// The volume of this name, or the clone that is getting it ([`super::swap`]).
    pub(super) async fn find(&self, name: &VolumeName) -> Result<Option<Found>, VolumeError> {
        let rows = self.select(&self.selection_of(name)).await?;
        Ok(pick(name, rows))
    }

    /// What selects the rows that [`pick`] finds a volume in.
    pub(super) fn selection_of(&self, name: &VolumeName) -> String {
        let by_name = format!("lv_name=\"{name}\"");
        match self.settings.pool {
            Some(_) => format!("{by_name} || lv_tags={{\"{}\"}}", tags::waits_for(name)),
            None => by_name,
        }
    }

    /// The volume of this name, by LVM's word alone.
    pub(super) async fn find_exactly(
        &self,
        name: &VolumeName,
    ) -> Result<Option<Found>, VolumeError> {
        let rows = self.select(&format!("lv_name=\"{name}\"")).await?;
        let row = rows.into_iter().find(|row| row.lv_name == name.as_str());
        Ok(row.map(|row| found(name, row)))
    }

    /// The volume as it is now, if it is still the same one.
    pub(super) async fn find_again(&self, volume: &Volume) -> Result<Found, VolumeError> {
        match self.find(&volume.name).await? {
            Some(now) if now.volume.identity == volume.identity => Ok(now),
            _ => Err(VolumeError::new(
                VolumeErrorKind::NotFound,
                format!(
                    "The volume {} was removed or replaced by somebody else: repeat the request",
                    volume.path.display()
                ),
            )),
        }
    }

    pub(super) async fn just_made(&self, name: &VolumeName) -> Result<Found, VolumeError> {
        self.find(name).await?.ok_or_else(|| {
            let message = format!("The new volume {name} was removed by somebody else");
            VolumeError::new(VolumeErrorKind::NotFound, message)
        })
    }
}

/// The volume of this name among these, or the clone that is getting it.
pub(super) fn pick(name: &VolumeName, mut rows: Vec<LvRow>) -> Option<Found> {
    let exact = rows.iter().position(|row| row.lv_name == name.as_str());
    if let Some(at) = exact {
        return Some(found(name, rows.swap_remove(at)));
    }
    let mut clones = rows.into_iter().map(|row| found(name, row));
    clones.find(|clone| clone.is_getting(name))
}

pub(super) fn found(name: &VolumeName, row: LvRow) -> Found {
    let tags = Tags::parse(&row.lv_tags);
    let volume = Volume {
        name: name.clone(),
        path: PathBuf::from(row.lv_path_or_dm()),
        size_bytes: row.lv_size,
        state: tags.state,
        last_ended: tags.last_ended,
        kind: kind(&row, &tags),
        content: tags
            .content
            .filter(|_| matches!(tags.state, VolumeState::Ready { .. })),
        expanded: tags.expanded,
        signer: tags.signer.clone(),
        identity: Identity::Lvm {
            uuid: row.lv_uuid.clone(),
        },
    };
    Found { volume, row, tags }
}

/// What a volume is made of; of what is never written here that is not said.
fn kind(row: &LvRow, tags: &Tags) -> Option<VolumeKind> {
    match rules::is_thin(row) {
        true if tags.clone_of.is_some() => Some(VolumeKind::Clone),
        true => Some(VolumeKind::Thin),
        false => rules::is_plain(row).then_some(VolumeKind::Linear),
    }
}
