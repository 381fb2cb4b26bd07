//! `lvpctl log`: what was logged about a job.

use std::time::Duration;

use lvp_api::{JobId, LogLine};

use super::Context;
use crate::exit::{Exit, Failure};
use crate::output::{self, Format, say};

/// How often a log is read again while it is followed.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

pub(super) async fn print(context: &Context, id: JobId, follow: bool) -> Result<Exit, Failure> {
    let client = &context.client;
    let mut after = None;
    loop {
        // Before the lines: those that come after this are read in the next round.
        let has_ended = !follow || client.job(id).await?.status.is_terminal();
        let log = client.log(id, after).await?;
        if context.format == Format::Json && !follow {
            output::print_json(&log)?;
            return Ok(Exit::Success);
        }
        for line in &log.lines {
            let expected = after.map_or(0, |number| number + 1);
            if line.number > expected {
                say(&format!(
                    "{} lines were cut here: a job keeps its first lines and its last",
                    line.number - expected
                ));
            }
            after = Some(line.number);
            match context.format {
                Format::Json => output::print_json_line(line)?,
                Format::Table | Format::Name => output::print_line(&text(line))?,
            }
        }
        if has_ended {
            return Ok(Exit::Success);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn text(line: &LogLine) -> String {
    let LogLine {
        time,
        level,
        component,
        text,
        ..
    } = line;
    output::clean(&format!(
        "{time} [{}] {component}: {text}",
        level.to_uppercase()
    ))
}
