//! All jobs, live.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use lvp_api::{FeedEvent, JobId, JobStatus};

use super::Context;
use crate::args::ReconnectArgs;
use crate::client::Page;
use crate::exit::{Exit, Failure};
use crate::output::{self, Format, clean, say};
use crate::progress;

/// Pause between two attempts to reach the daemon.
const PAUSE: Duration = Duration::from_secs(1);

/// Most lines on a terminal; there may be more jobs than fit.
const LINES_MAX: usize = 40;

/// Follows all jobs until it is interrupted or the daemon is unreachable for too long.
pub(super) async fn run(context: &Context, reconnect: &ReconnectArgs) -> Result<Exit, Failure> {
    let mut view = View::new(context.format);
    let followed = follow(context, reconnect.reconnect_for, &mut view);
    let ended = tokio::select! {
        Err(failure) = followed => Err(failure),
        Ok(()) = tokio::signal::ctrl_c() => Ok(Exit::Success),
    };
    view.clear();
    ended
}

async fn follow(
    context: &Context,
    reconnect_for: Duration,
    view: &mut View,
) -> Result<std::convert::Infallible, Failure> {
    let mut last_id = String::new();
    let mut last_contact: Option<Instant> = None;
    let mut is_lost = false;
    loop {
        match context.client.all_events(&last_id).await {
            Ok(mut events) => {
                is_lost = false;
                while let Ok(event) = events.event().await {
                    last_contact = Some(Instant::now());
                    last_id = event.id;
                    match event.name.parse() {
                        Ok(FeedEvent::Reset) => list(context, view).await?,
                        Ok(FeedEvent::Job) => {
                            if let Ok(job) = serde_json::from_str(&event.data) {
                                view.show(&job)?;
                            }
                        }
                        // An event of a later daemon.
                        Err(_) => {}
                    }
                }
            }
            Err(failure) if failure.is_temporary() && last_contact.is_some() => {
                let away = last_contact.map_or(Duration::ZERO, |contact| contact.elapsed());
                if away >= reconnect_for {
                    return Err(failure);
                }
                if !is_lost {
                    is_lost = true;
                    view.say(&format!("{failure}; trying again"));
                }
            }
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Shows all unfinished jobs, as their next event may come late.
async fn list(context: &Context, view: &mut View) -> Result<(), Failure> {
    view.clear();
    let unended = [("status", Some("pending,running".to_owned()))];
    let page = Page {
        limit: Some(1000),
        offset: None,
    };
    let list = context.client.jobs(unended, page).await?;
    // Oldest first, as they run.
    for job in list.jobs.iter().rev() {
        view.show(job)?;
    }
    Ok(())
}

/// How jobs are shown.
enum View {
    /// Lines that are redrawn.
    Terminal {
        all: MultiProgress,
        bars: HashMap<JobId, ProgressBar>,
    },
    /// A line for each change.
    Lines {
        format: Format,
        last: HashMap<JobId, String>,
    },
}

impl View {
    fn new(format: Format) -> Self {
        if format == Format::Table && progress::can_draw(&std::io::stdout()) {
            let target = ProgressDrawTarget::stdout();
            return Self::Terminal {
                all: MultiProgress::with_draw_target(target),
                bars: HashMap::new(),
            };
        }
        Self::Lines {
            format,
            last: HashMap::new(),
        }
    }

    fn show(&mut self, job: &JobStatus) -> Result<(), Failure> {
        let is_ended = job.status.is_terminal();
        match self {
            Self::Terminal { all, bars } if is_ended => {
                if let Some(bar) = bars.remove(&job.job_id) {
                    all.remove(&bar);
                }
                // The terminal may be gone.
                all.println(line(job)).ok();
            }
            Self::Terminal { all, bars } => {
                if bars.len() >= LINES_MAX && !bars.contains_key(&job.job_id) {
                    return Ok(());
                }
                let bar = bars.entry(job.job_id).or_insert_with(|| {
                    let bar = all.add(ProgressBar::new(100));
                    if let Ok(style) = ProgressStyle::with_template("{msg}") {
                        bar.set_style(style);
                    }
                    bar
                });
                bar.set_message(line(job));
            }
            Self::Lines { format, last } => {
                let text = match format {
                    Format::Json => {
                        output::print_json_line(job)?;
                        return Ok(());
                    }
                    Format::Name => job.job_id.to_string(),
                    Format::Table => line(job),
                };
                let is_new = last.insert(job.job_id, text.clone()).as_ref() != Some(&text);
                if is_ended {
                    last.remove(&job.job_id);
                }
                if is_new {
                    output::print_line(&text)?;
                }
            }
        }
        Ok(())
    }

    fn say(&self, text: &str) {
        match self {
            Self::Terminal { all, .. } => all.suspend(|| say(text)),
            Self::Lines { .. } => say(text),
        }
    }

    fn clear(&mut self) {
        match self {
            Self::Terminal { all, bars } => {
                bars.clear();
                all.clear().ok();
            }
            Self::Lines { last, .. } => last.clear(),
        }
    }
}

/// `6c8a5b4e  running    vm-01  downloading  41.5 %, 1.6 GiB of 4 GiB, 12s left`
fn line(job: &JobStatus) -> String {
    let id: String = job.job_id.to_string().chars().take(8).collect();
    let volume = job.volume_name.as_deref().unwrap_or("-");
    let progress = job.progress.as_ref().filter(|_| !job.status.is_terminal());
    let what = match (progress, &job.error) {
        (Some(now), _) => {
            let text = progress::describe(now, job.status);
            format!("{}  {text}{}", now.stage, progress::waits(job))
        }
        (None, Some(error)) => clean(error),
        (None, None) => job.image_url.clone(),
    };
    format!("{id}  {:9}  {}  {what}", job.status, clean(volume))
}
