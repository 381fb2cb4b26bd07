//! Commands for volumes: list, hand over, verify, and upload to a libvirt storage volume.

use std::path::Path;

use lvp_api::units::ByteSize;
use lvp_api::{Priority, VerifiedVolume, VolumeInfo, VolumeKind, VolumeName};

use super::{Context, wait};
use crate::args::{ReconnectArgs, UploadArgs};
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

/// Hands volumes over one by one. Each is shown even if a later one fails.
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

/// Verifies volumes one by one, and continues after one that differs.
pub(super) async fn verify(
    context: &Context,
    names: &[VolumeName],
    priority: Option<Priority>,
    reconnect: &ReconnectArgs,
) -> Result<Exit, Failure> {
    let mut exit = Exit::Success;
    for name in names {
        let verified = verified(context, name, priority, reconnect).await?;
        if !verified.matches {
            exit = Exit::Failed;
        }
        match context.format {
            Format::Json => output::print_json_line(&verified)?,
            Format::Name if verified.matches => output::print_line(verified.name.as_str())?,
            Format::Name => {}
            Format::Table => output::print_line(&output::clean(&sentence(&verified)))?,
        }
    }
    Ok(exit)
}

/// Waits for the job that verifies a volume. A daemon that does not do that as a job does it while it is asked.
async fn verified(
    context: &Context,
    name: &VolumeName,
    priority: Option<Priority>,
    reconnect: &ReconnectArgs,
) -> Result<VerifiedVolume, Failure> {
    let Some(accepted) = context.client.verify_as_job(name, priority).await? else {
        return context.client.verify(name).await;
    };
    let id = accepted.job_id;
    let status = wait::completed(context, id, reconnect).await?;
    status.verification.ok_or_else(|| {
        let message = format!("Job {id} has completed, and its status has no result");
        Failure::new(Exit::Failed, message)
    })
}

fn sentence(verified: &VerifiedVolume) -> String {
    let VerifiedVolume {
        name,
        image_digest,
        differences,
        has_more,
        ..
    } = verified;
    if verified.matches {
        return format!("{name} holds image {image_digest}");
    }
    let parts = differences
        .iter()
        .map(|part| format!("{} bytes at {}", part.length, part.offset));
    let parts: Vec<_> = parts.collect();
    let told = match (parts.is_empty(), has_more) {
        (true, _) => "its digest is different".to_owned(),
        (false, true) => format!("{} and more", parts.join(", ")),
        (false, false) => parts.join(", "),
    };
    format!("{name} no longer holds image {image_digest} as it was written: {told}")
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

/// Opens a regular file: other files do not have a size that could be sent first.
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
    // Twelve digits are enough for people; -o json has the whole digest.
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
