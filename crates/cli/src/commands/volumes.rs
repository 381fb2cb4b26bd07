//! Volumes: list them, hand them over, and write a libvirt storage volume's content.

use std::path::Path;

use lvp_api::units::ByteSize;
use lvp_api::{VolumeInfo, VolumeKind, VolumeName};

use super::Context;
use crate::args::UploadArgs;
use crate::config::cannot_read;
use crate::exit::{Exit, Failure};
use crate::output::{self, Format, say};

pub(super) async fn list(context: &Context) -> Result<Exit, Failure> {
    let list = context.client.volumes().await?;
    match context.format {
        Format::Json => output::print_json(&list)?,
        Format::Name => {
            for volume in &list.volumes {
                output::print_line(volume.name.as_str())?;
            }
        }
        Format::Table if list.volumes.is_empty() => say("No volumes"),
        Format::Table => {
            let rows: Vec<_> = list.volumes.iter().map(row).collect();
            let header = ["NAME", "SIZE", "KIND", "STATE", "IMAGE", "PATH"];
            output::print(&output::table(header, &rows))?;
        }
    }
    Ok(Exit::Success)
}

/// Hands volumes over one by one. What was done is shown even when a later one fails.
pub(super) async fn adopt(context: &Context, names: &[VolumeName]) -> Result<Exit, Failure> {
    for name in names {
        let volume = context.client.adopt(name).await?;
        match context.format {
            Format::Json => output::print_json_line(&volume)?,
            Format::Name => output::print_line(volume.name.as_str())?,
            Format::Table => {
                let line = format!("{} {}", volume.name, volume.state);
                output::print_line(&output::clean(&line))?;
            }
        }
    }
    Ok(Exit::Success)
}

pub(super) async fn upload(context: &Context, args: &UploadArgs) -> Result<Exit, Failure> {
    let (file, size_bytes) = open(&args.file).await?;
    let answer = context
        .client
        .upload(file, size_bytes, &args.volume, &args.pool)
        .await?;
    match context.format {
        Format::Json => output::print_json(&answer)?,
        Format::Name => output::print_line(&args.volume)?,
        Format::Table => output::print_line(&format!(
            "{} written to {} in pool {}",
            ByteSize(size_bytes),
            args.volume,
            args.pool
        ))?,
    }
    Ok(Exit::Success)
}

/// Opens a regular file: only its size can be told before its bytes are sent.
async fn open(path: &Path) -> Result<(tokio::fs::File, u64), Failure> {
    let file = tokio::fs::File::open(path)
        .await
        .map_err(|error| cannot_read(path, &error))?;
    let metadata = file
        .metadata()
        .await
        .map_err(|error| cannot_read(path, &error))?;
    if !metadata.is_file() {
        return Err(Failure::usage(format!(
            "{} is not a regular file",
            path.display()
        )));
    }
    Ok((file, metadata.len()))
}

fn row(volume: &VolumeInfo) -> [String; 6] {
    // Twelve digits tell images apart for a person; -o json has them all.
    let digest = volume.image_digest.as_deref();
    let image = digest.map_or("-".to_owned(), |digest| digest.chars().take(12).collect());
    [
        volume.name.to_string(),
        ByteSize(volume.size_bytes).to_string(),
        volume.kind.map_or("-", VolumeKind::as_str).to_owned(),
        volume.state.clone(),
        image,
        volume.path.clone(),
    ]
}
