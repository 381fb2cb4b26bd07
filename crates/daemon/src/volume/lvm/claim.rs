//! The claim of a volume: every check, then the device for this process alone.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::super::{Unmarked, Volume, VolumeError, VolumeErrorKind};
use super::device::{self, Purpose, Refused};
use super::find::Found;
use super::report::LvRow;
use super::{Lvm, rules};

impl Lvm {
    pub(super) async fn check_no_domain_uses(&self, row: &LvRow) -> Result<(), VolumeError> {
        let mut paths = vec![
            PathBuf::from(row.lv_path_or_dm()),
            PathBuf::from(&row.lv_dm_path),
        ];
        if let Some((_, minor)) = row.device() {
            paths.push(PathBuf::from(format!("/dev/dm-{minor}")));
        }
        match self.in_use.user_of(&paths).await? {
            None => Ok(()),
            Some(user) => Err(VolumeError::in_use(Path::new(row.lv_path_or_dm()), &user)),
        }
    }

    /// Every check, then the device, claimed for this process. Waits by the back-off for those who
    /// have it open for a moment only.
    pub(super) async fn claim(
        &self,
        volume: &Volume,
        purpose: Purpose,
        unmarked: Unmarked,
    ) -> Result<(Found, File), VolumeError> {
        let mut pauses = self.pauses();
        loop {
            let mut now = self.find_again(volume).await?;
            if let Some(refusal) = rules::refusal(&now.row, &now.tags, unmarked, self.pool_name()) {
                return Err(refusal);
            }
            self.check_no_domain_uses(&now.row).await?;
            if now.row.lv_active.is_empty() {
                self.change("lvchange", &["-a", "y"], &now).await?;
                now = self.find_again(volume).await?;
            }
            if now.row.lv_permissions != "writeable" {
                let path = &now.row.lv_path;
                let message = format!("{path} is read-only: 'lvchange -p rw {path}' changes that");
                return Err(VolumeError::new(VolumeErrorKind::NotOurs, message));
            }
            let row = now.row.clone();
            let claimed = self
                .blocking(move || Ok(device::claim(&row, purpose)))
                .await?;
            let busy = match claimed {
                Ok(file) if self.open_count(&now.row).await? == 1 => return Ok((now, file)),
                // Somebody opened it between LVM's report and the claim.
                Ok(_) => "another process".to_owned(),
                Err(Refused::Busy(user)) => user,
                Err(Refused::Error(error)) => return Err(error),
            };
            if !pauses.wait("the volume is open", &busy).await {
                return Err(VolumeError::in_use(&volume.path, &busy));
            }
        }
    }
}
