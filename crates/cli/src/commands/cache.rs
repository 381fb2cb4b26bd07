//! The image cache.

use lvp_api::units::ByteSize;
use lvp_api::{CacheFetchRequest, CachedImage, Sha256Digest};

use super::{Context, wait};
use crate::args::WaitArgs;
use crate::client::Page;
use crate::exit::{Exit, Failure};
use crate::output::{self, Format, say};

pub(super) async fn list(context: &Context, page: Page) -> Result<Exit, Failure> {
    let list = context.client.cached_images(page).await?;
    match context.format {
        Format::Json => output::print_json(&list)?,
        Format::Name => {
            for image in &list.images {
                output::print_line(&image.key)?;
            }
        }
        Format::Table if list.images.is_empty() => say("No cached images"),
        Format::Table => {
            let rows: Vec<_> = list.images.iter().map(row).collect();
            let header = [
                "KEY",
                "SIZE",
                "UNPACKED",
                "IN USE",
                "GOLDEN",
                "LAST USED",
                "IMAGE",
            ];
            output::print(&output::table(header, &rows))?;
        }
    }
    if let Some(next) = list.next_offset
        && context.format != Format::Json
    {
        say(&format!("There are more; use --offset {next} to see them"));
    }
    Ok(Exit::Success)
}

pub(super) async fn fetch(
    context: &Context,
    request: &CacheFetchRequest,
    wait: &WaitArgs,
) -> Result<Exit, Failure> {
    let accepted = context.client.fetch_into_cache(request).await?;
    wait::accepted(context, &accepted, wait).await
}

/// Removes images one by one. Each removed image is shown even if a later removal fails.
pub(super) async fn remove(context: &Context, keys: &[Sha256Digest]) -> Result<Exit, Failure> {
    for key in keys {
        super::show_deleted(context, &context.client.delete_cached(key).await?)?;
    }
    Ok(Exit::Success)
}

fn row(image: &CachedImage) -> [String; 7] {
    let word = |is: bool| if is { "yes" } else { "no" }.to_owned();
    [
        image.key.clone(),
        ByteSize(image.size).to_string(),
        match image.unpacked_bytes {
            0 => "-".to_owned(),
            bytes => ByteSize(bytes).to_string(),
        },
        word(image.in_use),
        word(image.golden),
        image.last_used.clone(),
        image.image_url.clone(),
    ]
}
