//! One order on one host: when its jobs are made, what they come to, and what is said about it meanwhile.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lvp_api::{Checksum, Cloning, JobId, Priority};
use lvp_fleet::order::Volume;
use lvp_fleet::{Order, OrderKind, Report, ReportState};
use tokio_util::sync::CancellationToken;

use super::parts::{Part, found, have_ended, look, outcome};
use super::place::{Place, Turn};
use super::teller::{Figures, PROGRESS, Teller};
use super::{Inner, unix_now};
use crate::cache::CacheError;
use crate::clock;
use crate::error::chain;
use crate::job::admission::Refusal;
use crate::job::record::{JobSpec, NewJob};
use crate::job::work::{ImageRequest, VolumeRequest, Work};
use crate::jobs::SubmitError;
use crate::source::url::RequestedUrl;
use crate::volume::clones::is_reserved;

/// How often the jobs of an order are looked at.
pub(super) const LOOK: Duration = Duration::from_millis(500);

/// Pause before a job is requested again that could not be made.
const AGAIN: Duration = Duration::from_secs(5);

/// An order that is to be followed.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) order: Order,
    pub(super) traceparent: Option<String>,
    /// When it was recorded here.
    pub(super) received_at: String,
}

/// Why a job was not made.
enum NotMade {
    /// It may be made later.
    Later(String),
    /// It never will be.
    Never(ReportState, String),
}

/// What became of an order to evict.
enum Evicted {
    Later(String),
    Ended(ReportState, Option<String>),
}

/// Follows an order to its end, and returns the last report, and the place that is to be given back once that is recorded.
/// It does not return when it is told to stop: whoever tells it drops it.
pub(super) async fn follow(
    fleet: &Arc<Inner>,
    task: &Task,
    stop: &CancellationToken,
) -> (Report, Option<Place>) {
    let order = &task.order;
    let mut teller = Teller::new(fleet, order);
    teller.tell(ReportState::Seen, None, Figures::default());
    if let Some(report) = wait_for_moment(fleet, task, &mut teller).await {
        return (report, None);
    }
    let place = order
        .wave
        .map(|wave| Place::enter(fleet, order, wave, stop));
    let report = at_its_turn(fleet, task, &mut teller, place.as_ref()).await;
    if place.is_some() {
        // The place is held until no job goes on.
        while let Err(error) = stop_own(fleet, order).await {
            fleet.store_failed(&error).await;
        }
    }
    (report, place)
}

/// Cancels this order's jobs, and returns once all have ended: cancelling one that writes may take long.
async fn stop_own(fleet: &Inner, order: &Order) -> Result<(), crate::store::StoreError> {
    loop {
        let store = &fleet.services.store;
        let unfinished = store.unfinished_by_key(order.job_prefix()).await?;
        if unfinished.is_empty() {
            return Ok(());
        }
        for (job, _) in unfinished {
            fleet.jobs.cancel(job).await?;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits for this host's own moment within the jitter.
async fn wait_for_moment(fleet: &Inner, task: &Task, teller: &mut Teller<'_>) -> Option<Report> {
    let order = &task.order;
    let mut hasher = DefaultHasher::new();
    (
        fleet.settings.host.as_str(),
        order.id.as_str(),
        order.revision,
    )
        .hash(&mut hasher);
    let thousandths = hasher.finish() % 1000;
    let share = Duration::from_secs(order.jitter_seconds).mul_f64(thousandths as f64 / 1000.0);
    // A restart begins no new wait, and a clock that was set does not make it longer.
    let waited = clock::parsed(&task.received_at).map(|received| clock::now() - received);
    let waited = waited
        .and_then(|waited| Duration::try_from(waited).ok())
        .unwrap_or_default();
    let begins = Instant::now() + share.saturating_sub(waited);
    while Instant::now() < begins {
        if unix_now() >= order.deadline {
            return Some(teller.last(ReportState::Expired, Some(expired()), Figures::default()));
        }
        let left = begins.saturating_duration_since(Instant::now());
        let reason = format!("Begins in {} s, by its jitter", left.as_secs());
        teller.tell(ReportState::Waiting, Some(reason), Figures::default());
        tokio::time::sleep(left.min(PROGRESS)).await;
    }
    None
}

async fn at_its_turn(
    fleet: &Inner,
    task: &Task,
    teller: &mut Teller<'_>,
    place: Option<&Place>,
) -> Report {
    let order = &task.order;
    let targets = order.job_targets();
    let mut parts = found(fleet, order, &targets).await;
    let mut again = Instant::now();
    let mut reason = None;
    loop {
        let mut figures = look(fleet, &mut parts).await;
        let is_late = unix_now() >= order.deadline;
        // Before anything else: what has ended needs no turn.
        if have_ended(&parts, is_late) {
            return outcome(teller, order, &parts, figures);
        }
        if is_late {
            return teller.last(ReportState::Expired, Some(expired()), figures);
        }
        let turn = place.map_or(Turn::Held, Place::now);
        let mut is_new = false;
        match turn {
            Turn::Halted(failures) => {
                let why = format!(
                    "{failures} hosts have failed, which is more than the order allows: the other hosts do not begin"
                );
                return teller.last(ReportState::Cancelled, Some(why), figures);
            }
            Turn::Waiting => {
                let most = order.wave.map_or(0, |wave| wave.hosts_at_once);
                reason = Some(format!(
                    "Waits for its turn: at most {most} hosts work at once"
                ));
            }
            Turn::Held if order.kind == OrderKind::Evict => {
                if Instant::now() >= again {
                    match evict(fleet, order).await {
                        Evicted::Ended(state, why) => return teller.last(state, why, figures),
                        Evicted::Later(why) => reason = Some(why),
                    }
                    again = Instant::now() + AGAIN;
                }
            }
            Turn::Held => {
                if Instant::now() >= again {
                    reason = None;
                    for (part, target) in parts.iter_mut().zip(&targets) {
                        if !matches!(part, Part::Absent) {
                            continue;
                        }
                        match make(fleet, task, target).await {
                            Ok(job) => {
                                *part = Part::Made(job);
                                is_new = true;
                            }
                            Err(NotMade::Never(state, why)) => {
                                return teller.last(state, Some(why), figures);
                            }
                            Err(NotMade::Later(why)) => {
                                reason = Some(why);
                                again = Instant::now() + AGAIN;
                                break;
                            }
                        }
                    }
                }
            }
        }
        if is_new {
            figures = look(fleet, &mut parts).await;
        }
        let is_running = turn == Turn::Held && figures.made > 0;
        let state = match is_running {
            true => ReportState::Running,
            false => ReportState::Waiting,
        };
        teller.tell(state, reason.clone(), figures.clone());
        match place {
            Some(place) => drop(tokio::time::timeout(LOOK, place.changed()).await),
            None => tokio::time::sleep(LOOK).await,
        }
    }
}

fn expired() -> String {
    format!(
        "Its deadline has passed by this host's clock ({})",
        clock::now_text()
    )
}

/// Makes the job about a target, or finds the one that was made before.
async fn make(fleet: &Inner, task: &Task, target: &str) -> Result<JobId, NotMade> {
    let order = &task.order;
    let refused = |why: String| NotMade::Never(ReportState::Refused, why);
    let url = order.image.url.as_deref().unwrap_or_default();
    let location = fleet.services.source.parse_url(url);
    let location = location.map_err(|error| refused(chain(&error)))?;
    let image = ImageRequest {
        url: RequestedUrl::new(url),
        image_type: order.image.image_type,
        checksum: Some(Checksum::Sha256(order.image.sha256)),
    };
    let volume = order
        .volumes
        .iter()
        .find(|volume| volume.name.as_str() == target);
    let work = match (order.kind, volume) {
        (OrderKind::Provision, Some(volume)) => Work::Provision {
            image,
            volume: request(volume).map_err(refused)?,
        },
        _ => Work::Fetch { image },
    };
    let correlation: String = format!("fleet:{}:{}", order.id, order.revision);
    let new = NewJob {
        spec: JobSpec {
            work,
            correlation_id: Some(correlation.chars().take(128).collect()),
            idempotency_key: Some(order.job_key(target)),
            traceparent: task.traceparent.clone(),
            priority: match order.kind {
                OrderKind::Provision => Priority::Normal,
                // Nobody waits for what is fetched in advance.
                OrderKind::Prewarm | OrderKind::Evict => Priority::Low,
            },
        },
        location: Some(location),
    };
    fleet.jobs.submit(new).await.map_err(|error| match error {
        SubmitError::Refused(Refusal::KeyReused(_)) => {
            NotMade::Never(ReportState::Failed, error.to_string())
        }
        error => NotMade::Later(chain(&error)),
    })
}

fn request(volume: &Volume) -> Result<VolumeRequest, String> {
    if is_reserved(&volume.name) {
        return Err(format!(
            "Volume {}: the name is reserved for golden volumes and their clones",
            volume.name
        ));
    }
    Ok(VolumeRequest {
        name: volume.name.clone(),
        size_bytes: volume.size_bytes,
        adopt: false,
        clone: Cloning::Auto,
        room_wait: None,
        expand: None,
    })
}

async fn evict(fleet: &Inner, order: &Order) -> Evicted {
    match fleet.services.cache.delete(order.image.sha256).await {
        Ok(true) => {
            fleet.services.measure_cache().await;
            Evicted::Ended(ReportState::Done, None)
        }
        Ok(false) => Evicted::Ended(
            ReportState::Existing,
            Some("It was not in the cache".to_owned()),
        ),
        Err(error) if error.is_recoverable() || matches!(error, CacheError::InUse(_)) => {
            Evicted::Later(chain(&error))
        }
        Err(error) => Evicted::Ended(ReportState::Failed, Some(chain(&error))),
    }
}
