//! Golden volumes, from which others are cloned.

use lvp_api::units::ByteSize;
use lvp_api::{CacheFetchRequest, GoldenVolume, Sha256Digest};

use super::{Context, wait};
use crate::args::WaitArgs;
use crate::exit::{Exit, Failure};
use crate::output::{self, Format, say};

pub(super) async fn list(context: &Context) -> Result<Exit, Failure> {
    let list = context.client.golden().await?;
    match context.format {
        Format::Json => output::print_json(&list)?,
        Format::Name => {
            for volume in &list.volumes {
                output::print_line(&output::clean(&volume.key))?;
            }
        }
        Format::Table if list.volumes.is_empty() => match &list.unavailable {
            Some(why) => say(&format!("Volumes cannot be cloned: {}", output::clean(why))),
            None => say("No golden volumes"),
        },
        Format::Table => {
            let rows: Vec<_> = list.volumes.iter().map(row).collect();
            let header = [
                "KEY",
                "TYPE",
                "DISK",
                "SPACE",
                "CLONES",
                "LAST USED",
                "STATE",
                "IMAGE",
            ];
            output::print(&output::table(header, &rows))?;
        }
    }
    Ok(Exit::Success)
}

pub(super) async fn make(
    context: &Context,
    request: &CacheFetchRequest,
    wait: &WaitArgs,
) -> Result<Exit, Failure> {
    let accepted = context.client.make_golden(request).await?;
    wait::accepted(context, &accepted, wait).await
}

/// Removes golden volumes one by one. Each removed one is shown even if a later removal fails.
pub(super) async fn remove(context: &Context, keys: &[Sha256Digest]) -> Result<Exit, Failure> {
    for key in keys {
        super::show_deleted(context, &context.client.delete_golden(key).await?)?;
    }
    Ok(Exit::Success)
}

fn row(volume: &GoldenVolume) -> [String; 8] {
    let size =
        |bytes: Option<u64>| bytes.map_or("-".to_owned(), |bytes| ByteSize(bytes).to_string());
    let state = match (&volume.flaw, volume.in_use) {
        (_, true) => "in use".to_owned(),
        (Some(flaw), false) => flaw.clone(),
        (None, false) => "ready".to_owned(),
    };
    [
        volume.key.clone(),
        volume.image_type.to_string(),
        size(volume.disk_bytes),
        size(volume.own_bytes),
        volume.clones.to_string(),
        volume.last_used.clone().unwrap_or_else(|| "-".to_owned()),
        state,
        volume.image_url.clone(),
    ]
}
