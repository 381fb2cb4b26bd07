//! What provisioning would do.

use lvp_api::plan::{CacheState, Plan};
use lvp_api::units::ByteSize;

use super::Context;
use crate::args::PlanArgs;
use crate::exit::{Exit, Failure};
use crate::output::{self, Format};

pub(super) async fn show(context: &Context, args: PlanArgs) -> Result<Exit, Failure> {
    let plan = context.client.plan(&args.what.request()).await?;
    match context.format {
        Format::Json => output::print_json(&plan)?,
        Format::Name => output::print_line(&plan.volume_name)?,
        Format::Table => output::print(&describe(&plan))?,
    }
    Ok(match plan.fits {
        true => Exit::Success,
        false => Exit::Conflict,
    })
}

fn describe(plan: &Plan) -> String {
    let size = |bytes: u64| ByteSize(bytes).to_string();
    let cache = plan.cache.map(|cache| match cache {
        CacheState::Hit => "hit: nothing is fetched".to_owned(),
        CacheState::Miss => format!("miss: {} are fetched", size(plan.bytes_to_fetch)),
        CacheState::Fetching => "another job is fetching it".to_owned(),
    });
    let old = plan.overwrites.as_ref();
    let old = old.map(|old| format!("{} ({}, {})", old.path, old.state, size(old.size_bytes)));
    let digest = plan.expected_digest.as_ref();
    let seconds = plan.expected_seconds;
    let ahead = match plan.jobs_ahead {
        0 => None,
        1 => Some("1 job that begins before it".to_owned()),
        more => Some(format!("{more} jobs that begin before it")),
    };
    let mut fields = vec![
        (
            "Fits",
            Some(if plan.fits { "yes" } else { "no" }.to_owned()),
        ),
        ("Image", Some(plan.image_url.clone())),
        ("Format", plan.format.clone()),
        ("Object", plan.object_bytes.map(size)),
        ("Disk", plan.virtual_bytes.map(size)),
        ("Digest", digest.cloned()),
        ("Cache", cache),
        ("Made by", plan.method.map(|method| method.to_string())),
        ("Writes", plan.bytes_to_write.map(size)),
        ("Volume", Some(plan.volume_name.clone())),
        ("Size", Some(size(plan.volume_bytes))),
        ("Overwrites", old),
        ("Waits for", ahead),
        (
            "Takes about",
            seconds.map(|seconds| format!("{seconds:.1} s")),
        ),
    ];
    let problems = plan
        .problems
        .iter()
        .map(|text| ("Problem", Some(text.clone())));
    let warnings = plan
        .warnings
        .iter()
        .map(|text| ("Warning", Some(text.clone())));
    fields.extend(problems.chain(warnings));
    output::details(&fields)
}
