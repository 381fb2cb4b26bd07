//! `lvpctl explain`: what bounded a job, and when its stages ran.

use std::fmt::Write as _;

use lvp_api::{Bound, Cause, JobId, Timeline};

use super::Context;
use crate::exit::{Exit, Failure};
use crate::output::{self, Format};

/// Characters of the widest bar.
const BAR: f64 = 40.0;

pub(super) async fn show(context: &Context, id: JobId) -> Result<Exit, Failure> {
    let timeline = context.client.timeline(id).await?;
    match context.format {
        Format::Json => output::print_json(&timeline)?,
        Format::Name => {
            let word = timeline.bound.map(|bound| bound.by.as_str());
            output::print_line(word.unwrap_or("unknown"))?;
        }
        Format::Table => output::print(&text(&timeline))?,
    }
    Ok(Exit::Success)
}

/// The report for people.
fn text(timeline: &Timeline) -> String {
    let mut text = String::new();
    match (&timeline.bound, &timeline.explanation) {
        (Some(bound), Some(explanation)) => {
            writeln!(text, "{}.", output::clean(explanation)).ok();
            if let Some(advice) = &timeline.advice {
                writeln!(text, "To make it faster: {}.", output::clean(advice)).ok();
            }
            text.push('\n');
            text.push_str(&shares(bound));
            if let requests @ 1.. = timeline.requests {
                writeln!(text, "\nRequests to the object store: {requests}").ok();
            }
        }
        _ => {
            text.push_str("Nothing was measured of this job: it was made by an earlier release.\n");
        }
    }
    if !timeline.stages.is_empty() {
        let rows: Vec<_> = timeline
            .stages
            .iter()
            .map(|time| {
                let end = time.end_sec.map(|end| format!("{end:.1}"));
                let took = time
                    .end_sec
                    .map(|end| format!("{:.1}", end - time.begin_sec));
                [
                    time.stage.to_string(),
                    format!("{:.1}", time.begin_sec),
                    end.unwrap_or_else(|| "-".to_owned()),
                    took.unwrap_or_else(|| "-".to_owned()),
                ]
            })
            .collect();
        text.push('\n');
        text.push_str(&output::table(["STAGE", "FROM S", "TO S", "TOOK S"], &rows));
    }
    text
}

fn shares(bound: &Bound) -> String {
    let mut text = String::new();
    for cause in Cause::ALL {
        let share = bound.share(cause);
        let bar = "#".repeat(bar(share));
        let line = format!("{:<8} {share:5.1} %  {bar}", cause.as_str());
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the bar before"
)]
fn bar(share: f64) -> usize {
    (share / 100.0 * BAR).round().clamp(0.0, BAR) as usize
}

#[cfg(test)]
mod tests {
    use lvp_api::{Lane, LaneTime};

    use super::*;

    #[test]
    fn the_report_says_what_bounded_the_job_what_to_do_and_when_its_stages_ran() {
        let timeline = Timeline {
            job_id: JobId::random(),
            created_at: String::new(),
            stages: vec![
                LaneTime {
                    stage: Lane::Queued,
                    begin_sec: 0.0,
                    end_sec: Some(0.25),
                },
                LaneTime {
                    stage: Lane::Downloading,
                    begin_sec: 0.25,
                    end_sec: None,
                },
            ],
            rates: None,
            bound: Some(Bound {
                by: Cause::Network,
                network: 75.0,
                cpu: 20.0,
                device: 5.0,
                limit: 0.0,
                queue: 0.0,
                guests: 0.0,
            }),
            explanation: Some("75 % of the job's time went to the network".to_owned()),
            requests: 9,
            advice: Some("Do \u{1b}[2J this".to_owned()),
        };
        insta::assert_snapshot!(text(&timeline), @r"
        75 % of the job's time went to the network.
        To make it faster: Do  [2J this.

        network   75.0 %  ##############################
        cpu       20.0 %  ########
        device     5.0 %  ##
        limit      0.0 %
        queue      0.0 %
        guests     0.0 %

        Requests to the object store: 9

        STAGE         FROM S   TO S   TOOK S
        queued        0.0      0.2    0.2
        downloading   0.2      -      -
        ");
    }
}
