//! What a job would do, without doing any of it: nothing is reserved or marked, and only the image's metadata
//! is fetched.

use lvp_api::plan::{CacheState, Plan};
use lvp_api::{Cloning, Expand, Method, VolumeName};
use lvp_image::format::Format;
use lvp_image::plan::{ImageInfo, Planner};
use lvp_image::source::FileSource;
use tokio_util::sync::CancellationToken;

use super::Services;
use super::steps::{cached, format_of, in_place};
use crate::cache::Peek;
use crate::error::chain;
use crate::job::admission::Refusal;
use crate::job::error::JobError;
use crate::job::kind::JobErrorKind;
use crate::job::record::NewJob;
use crate::job::work::{VolumeRequest, Work};
use crate::source::{ObjectMeta, Want};
use crate::telemetry::metrics::TimedStage;
use crate::threads::blocking;
use crate::volume::{self, GoldenKey};

/// Looks at the image, the cache and the volume of a request.
pub async fn plan(services: &Services, new: &NewJob) -> Result<Plan, JobError> {
    let work = &new.spec.work;
    let mut plan = Plan {
        fits: true,
        problems: Vec::new(),
        warnings: Vec::new(),
        image_url: work.image_url(),
        format: None,
        object_bytes: None,
        expected_digest: None,
        virtual_bytes: None,
        cache: None,
        method: None,
        expand: None,
        bytes_to_fetch: 0,
        bytes_to_write: None,
        priority: new.spec.priority,
        jobs_ahead: 0,
        volume_name: String::new(),
        volume_bytes: 0,
        overwrites: None,
        expected_seconds: None,
    };
    let looked = match look_at_clone(services, work, &mut plan).await {
        Ok(can_clone) => look_at_image(services, new, can_clone, &mut plan).await,
        Err(error) => Err(error),
    };
    if let Err(error) = looked {
        plan.problems.push(chain(&error));
    }
    if let Work::Provision { volume, .. } = work
        && let Err(error) = look_at_volume(services, volume, &mut plan).await
    {
        plan.problems.push(chain(&error));
    }
    plan.fits = plan.problems.is_empty();
    if plan.fits {
        plan.expected_seconds = expected_seconds(services, &plan).await?;
    }
    Ok(plan)
}

/// Whether the volume would be a clone, whatever its image is.
async fn look_at_clone(
    services: &Services,
    work: &Work,
    plan: &mut Plan,
) -> Result<bool, JobError> {
    let Some(request) = work.volume() else {
        return Ok(false);
    };
    if request.clone == Cloning::Never {
        return Ok(false);
    }
    let clones = services.volumes.clones().await;
    let why_not = match (services.why_no_clones().await, clones) {
        (Some(why), _) | (None, Err(why)) => Some(why),
        (None, Ok(clones)) => {
            let found = services.volumes.lookup(&request.name).await?;
            let found = found.filter(|found| !clones.is_replaceable(found));
            found.as_ref().map(in_place)
        }
    };
    match (&why_not, request.clone) {
        (Some(why), Cloning::Require) => {
            let problem = format!("The volume cannot be cloned: {why}");
            plan.problems.push(problem);
        }
        (Some(why), _) => plan.warnings.push(format!("Not cloned: {why}")),
        (None, _) => {}
    }
    Ok(why_not.is_none())
}

async fn look_at_image(
    services: &Services,
    new: &NewJob,
    can_clone: bool,
    plan: &mut Plan,
) -> Result<(), JobError> {
    let (Some(image), Some(location)) = (new.spec.work.image(), &new.location) else {
        return Ok(());
    };
    let source = &services.source.for_one_use();
    let found = source.find(location, image.checksum, Want::Version);
    let (object, checksums) = found.await?;
    plan.object_bytes = Some(object.size);
    let sidecar = checksums.sha256.as_ref().map(|announced| announced.digest);
    plan.expected_digest = sidecar.map(|digest| digest.to_string());
    if checksums.is_empty() {
        source.ask_no_mirror();
        let url = &plan.image_url;
        if services.settings.require_checksum {
            let problem = format!(
                "There is no {url}.sha256 and no other checksum, and cache.require_checksum is on"
            );
            plan.problems.push(problem);
        } else {
            let warning = format!(
                "There is no {url}.sha256 and no other checksum: the image cannot be verified"
            );
            plan.warnings.push(warning);
        }
    }
    if can_clone {
        plan.method = Some(Method::Clone);
        let known = services.cache.known_digest(&object, sidecar).await?;
        if let Some(digest) = known {
            let image_type = image.image_type;
            let key = GoldenKey { digest, image_type };
            if let Some(held) = services.golden.find(&key).await? {
                let content = held.golden().content;
                plan.virtual_bytes = content.map(|content| content.size_bytes);
                plan.bytes_to_write = Some(0);
                return Ok(());
            }
        }
    }
    let declared = format_of(image.image_type);
    // The process that looks into a compressed image ends with this.
    let decoders = services.engine.for_job().decoders().clone();
    let opened = match services.cache.peek(&object, sidecar).await? {
        Peek::Hit(pin) => {
            plan.cache = Some(CacheState::Hit);
            plan.method.get_or_insert(Method::Copy);
            blocking(move || {
                let file = pin.file().try_clone().and_then(FileSource::new);
                let file = file.map_err(|error| cached(&pin, "cannot be opened").because(error))?;
                Ok::<_, JobError>(
                    Planner::open_with(file, declared, &decoders)?
                        .info()
                        .clone(),
                )
            })
            .await?
        }
        found => {
            let is_fetched = matches!(found, Peek::Fetching);
            let method = match is_fetched {
                true => Method::Copy,
                false => Method::Stream,
            };
            plan.method.get_or_insert(method);
            plan.cache = Some(match is_fetched {
                true => CacheState::Fetching,
                false => CacheState::Miss,
            });
            if !is_fetched {
                plan.bytes_to_fetch = object.size;
                check_cache_room(services, &object, plan).await?;
            }
            // Reading is cancelled when the caller no longer waits.
            let cancel = CancellationToken::new();
            let _ended = cancel.clone().drop_guard();
            let reader = source.reader(&object, cancel);
            blocking(move || {
                let planner = Planner::open_with(reader, declared, &decoders)?;
                Ok::<_, JobError>(planner.info().clone())
            })
            .await?
        }
    };
    match opened {
        Ok(info) => show(&info, plan),
        // The image inside is known only once the object has been fetched and unpacked.
        Err(error) if error.kind() == JobErrorKind::Image(lvp_image::ErrorKind::Packed) => {
            plan.warnings.push(chain(&error));
            if plan.method == Some(Method::Stream) {
                plan.method = Some(Method::Copy);
            }
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

fn show(info: &ImageInfo, plan: &mut Plan) {
    plan.format = Some(match &info.format {
        Format::Qcow2(_) => "qcow2".to_owned(),
        Format::Raw => "raw".to_owned(),
        Format::RawStream(codec) => format!("raw in {codec}"),
        Format::Vmdk(layout) => format!("vmdk ({})", layout.subformat),
        Format::Vhd(layout) => format!("vhd ({})", layout.subformat),
        Format::Vhdx(layout) => format!("vhdx ({})", layout.subformat),
        Format::Vdi(layout) => format!("vdi ({})", layout.subformat),
    });
    plan.virtual_bytes = info.virtual_size;
    plan.bytes_to_write = info.virtual_size.map(|_| info.allocated_bytes);
}

/// Checks whether the cache can take the image, and what would be evicted for it.
async fn check_cache_room(
    services: &Services,
    object: &ObjectMeta,
    plan: &mut Plan,
) -> Result<(), JobError> {
    if let Some(limit) = services.cache.max_size_bytes()
        && object.size > limit
    {
        plan.problems.push(format!(
            "The image has {} bytes, and the cache may hold {limit} (cache.max_size_bytes)",
            object.size
        ));
    }
    let free = services.cache.free_bytes().await?;
    let usable = free.saturating_sub(services.cache.min_free_bytes());
    let evictable = services.cache.usage().await?.size_bytes;
    if object.size > usable.saturating_add(evictable) {
        plan.problems.push(format!(
            "The image has {} bytes, and the cache's file system has {free} bytes free, of which \
             {} must stay free (cache.min_free_bytes); evicting cached images would free \
             {evictable}",
            object.size,
            services.cache.min_free_bytes()
        ));
    } else if object.size > usable {
        plan.warnings.push(format!(
            "The cache's file system has {free} bytes free, and the image has {}: older images \
             would be evicted",
            object.size
        ));
    }
    Ok(())
}

async fn look_at_volume(
    services: &Services,
    request: &VolumeRequest,
    plan: &mut Plan,
) -> Result<(), JobError> {
    let volumes = &services.volumes;
    plan.volume_name = request.name.to_string();
    plan.volume_bytes = request.size_bytes;
    let needed = plan.virtual_bytes.unwrap_or(0);
    plan.expand = (services.settings.expands(request)).then_some(Expand::Gpt);
    check_holder(services, &request.name, plan).await?;
    let found = volumes.lookup(&request.name).await?;
    let size_bytes = found
        .as_ref()
        .map_or(request.size_bytes, |found| found.size_bytes);
    if plan.expand.is_some() && plan.virtual_bytes == Some(size_bytes) {
        plan.expand = None;
        plan.warnings.push(
            "The volume is as large as the image's disk, so its backup GPT would stay where it is"
                .to_owned(),
        );
    }
    let Some(existing) = found else {
        if request.size_bytes < needed {
            plan.problems.push(format!(
                "The image's disk has {needed} bytes, the volume would have {}",
                request.size_bytes
            ));
        }
        let capacity = volumes.probe().await?;
        if request.size_bytes > capacity.free_bytes {
            let text = format!(
                "The volume would have {} bytes, and {} are free",
                request.size_bytes, capacity.free_bytes
            );
            // A sparse file takes up space only as it is written.
            match capacity.is_sparse {
                true => plan.warnings.push(text),
                false => plan.problems.push(text),
            }
        }
        return Ok(());
    };
    let unmarked = services.settings.unmarked(request);
    if let Err(error) = volumes.check_writable(&existing, unmarked).await {
        plan.problems.push(chain(&error));
    }
    if let Err(error) = volume::fits(existing.size_bytes, request.size_bytes, needed) {
        plan.problems.push(chain(&error));
    }
    plan.warnings.push(format!(
        "Volume {} exists: its content would be lost",
        existing.name
    ));
    plan.overwrites = Some(existing.info());
    Ok(())
}

/// A volume that another job is writing is refused.
async fn check_holder(
    services: &Services,
    name: &VolumeName,
    plan: &mut Plan,
) -> Result<(), JobError> {
    if let Some(holder) = services.store.holder(name.clone()).await? {
        let volume = name.clone();
        plan.problems
            .push(Refusal::VolumeBusy { volume, holder }.to_string());
    }
    Ok(())
}

/// Smaller transfers measure latency rather than throughput, and are not used for rates.
const MEASURED_MIN_BYTES: u64 = 64 << 20; // 64 MiB

/// Fetching and writing overlap, so the slower of them counts. None if the rates or the sizes are not known.
async fn expected_seconds(services: &Services, plan: &Plan) -> Result<Option<f64>, JobError> {
    let store = &services.store;
    let fetch = store
        .rate_of(TimedStage::Download.as_str(), MEASURED_MIN_BYTES)
        .await?;
    let write = store
        .rate_of(TimedStage::Convert.as_str(), MEASURED_MIN_BYTES)
        .await?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "an estimate, of sizes far below 2^53"
    )]
    let seconds = |bytes: u64, rate: Option<f64>| match bytes {
        0 => Some(0.0),
        bytes => rate.map(|rate| bytes as f64 / rate),
    };
    let fetched = seconds(plan.bytes_to_fetch, fetch);
    // In one pass, writing is not measured separately, and does not take longer.
    let written = match plan.bytes_to_fetch {
        0 => plan.bytes_to_write.and_then(|bytes| seconds(bytes, write)),
        _ => Some(0.0),
    };
    Ok(fetched
        .zip(written)
        .map(|(fetched, written)| fetched.max(written)))
}
