//! `lvpctl fleet status` and `watch`.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lvp_api::units::duration_text;
use lvp_fleet::standing::{Facts, HostState, Line, Outcome, Standing, standing};
use lvp_fleet::{Action, Order, OrderId, OrderKind};
use serde::Serialize;

use super::{Fleet, unix_now};
use crate::exit::{Exit, Failure};
use crate::output::{self, Format, say};
use crate::progress::can_draw;

/// How often an order is looked at that is watched.
const LOOK: Duration = Duration::from_secs(2);

/// Hosts that are listed by name in a table; all are in the JSON.
const LISTED: usize = 10;

/// How an order stands, with what the table shows.
#[derive(Debug, Serialize)]
struct View {
    order: OrderId,
    revision: u64,
    action: Action,
    kind: OrderKind,
    issuer: String,
    deadline: u64,
    outcome: Outcome,
    counts: BTreeMap<HostState, usize>,
    /// Seconds until the last host has ended, if it goes on as until now.
    eta_seconds: Option<u64>,
    hosts: Vec<Line>,
}

pub(super) fn unknown(id: &OrderId) -> Failure {
    Failure::new(
        Exit::NotFound,
        format!("There is no order {id}: it was never issued, or its 30 days are over"),
    )
}

async fn view(fleet: &Fleet, id: &OrderId) -> Result<View, Failure> {
    let documents = fleet.documents(id).await?;
    let orders: Vec<Order> = documents
        .into_iter()
        .filter_map(|(_, order)| order)
        .collect();
    let hosts = fleet.hosts().await?;
    let hosts = hosts
        .into_iter()
        .map(|(name, (heard, _))| (name, heard))
        .collect();
    let reports = fleet.reports(id).await?;
    let now = unix_now();
    let facts = Facts {
        orders: &orders,
        hosts: &hosts,
        reports: &reports,
        now,
    };
    let Some(last) = orders.iter().max_by_key(|order| order.revision) else {
        return Err(unknown(id));
    };
    let Standing { outcome, hosts } = standing(&facts);
    let mut counts = BTreeMap::new();
    for line in &hosts {
        *counts.entry(line.state).or_insert(0) += 1;
    }
    Ok(View {
        order: id.clone(),
        revision: last.revision,
        action: last.action,
        kind: last.kind,
        issuer: last.issuer.clone(),
        deadline: last.deadline,
        outcome,
        counts,
        eta_seconds: eta(last, &hosts, now),
        hosts,
    })
}

fn has_ended(line: &Line) -> bool {
    line.report
        .as_ref()
        .is_some_and(|report| report.state.is_final())
}

/// By how many hosts have ended since the order was issued.
fn eta(order: &Order, hosts: &[Line], now: u64) -> Option<u64> {
    let ended = hosts.iter().filter(|line| has_ended(line)).count() as u64;
    let left = (hosts.len() as u64).saturating_sub(ended);
    let elapsed = now.saturating_sub(order.issued_at);
    (left > 0 && ended > 0).then(|| elapsed.saturating_mul(left) / ended)
}

fn exit(outcome: Outcome) -> Exit {
    match outcome {
        Outcome::Done => Exit::Success,
        Outcome::Failed => Exit::Failed,
        Outcome::Overdue => Exit::Timeout,
        Outcome::Unfinished => Exit::Unfinished,
    }
}

pub(super) async fn show(fleet: &Fleet, id: &OrderId) -> Result<Exit, Failure> {
    let view = view(fleet, id).await?;
    print(fleet, &view)?;
    Ok(exit(view.outcome))
}

fn print(fleet: &Fleet, view: &View) -> Result<(), Failure> {
    match fleet.format {
        Format::Json => output::print_json(view),
        Format::Name => {
            for line in view.hosts.iter().filter(|line| !has_ended(line)) {
                output::print_line(line.host.as_str())?;
            }
            Ok(())
        }
        Format::Table => output::print(&table(view)),
    }
}

fn counted(view: &View) -> String {
    let counts = view
        .counts
        .iter()
        .map(|(state, count)| format!("{count} {state}"));
    counts.collect::<Vec<_>>().join(", ")
}

fn table(view: &View) -> String {
    let eta = view
        .eta_seconds
        .map(|seconds| duration_text(Duration::from_secs(seconds)));
    let action = match view.action {
        Action::Follow => String::new(),
        Action::Cancel => ", cancelled".to_owned(),
    };
    let mut text = output::details(&[
        ("Order", Some(view.order.to_string())),
        (
            "Kind",
            Some(format!("{}, revision {}{action}", view.kind, view.revision)),
        ),
        ("Issuer", Some(view.issuer.clone())),
        ("Outcome", Some(view.outcome.to_string())),
        (
            "Hosts",
            Some(format!("{}: {}", view.hosts.len(), counted(view))),
        ),
        ("ETA", eta),
    ]);
    let failures = failures(&view.hosts);
    if !failures.is_empty() {
        text.push('\n');
        text.push_str(&output::table(
            ["HOSTS", "STATE", "ERROR", "REASON", "FOR EXAMPLE"],
            &failures,
        ));
    }
    let mut left: Vec<&Line> = view.hosts.iter().filter(|line| !has_ended(line)).collect();
    // Those that have least of their bytes are what the order waits for.
    left.sort_by_key(|line| {
        line.report
            .as_ref()
            .map_or(0, |report| 1 + percent(line) + report.jobs_ended)
    });
    let rows: Vec<_> = left.iter().take(LISTED).map(|line| row(line)).collect();
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&output::table(
            ["SLOWEST", "STATE", "DONE", "HEARD", "REASON"],
            &rows,
        ));
        if left.len() > LISTED {
            text.push_str(&format!("and {} more\n", left.len() - LISTED));
        }
    }
    text
}

fn percent(line: &Line) -> u64 {
    let report = line.report.as_ref().filter(|report| report.bytes_total > 0);
    report.map_or(0, |report| {
        (report.bytes.saturating_mul(100) / report.bytes_total).min(100)
    })
}

fn row(line: &Line) -> [String; 5] {
    let report = line.report.as_ref();
    let heard = line
        .silent_seconds
        .map(|seconds| duration_text(Duration::from_secs(seconds)));
    [
        line.host.to_string(),
        line.state.to_string(),
        format!("{} %", percent(line)),
        heard.map_or_else(|| "never".to_owned(), |heard| format!("{heard} ago")),
        report
            .and_then(|report| report.reason.clone())
            .unwrap_or_default(),
    ]
}

/// Hosts that have not done it, by state, error and reason; the most frequent first.
fn failures(hosts: &[Line]) -> Vec<[String; 5]> {
    let mut groups: BTreeMap<(HostState, String, String), Vec<&Line>> = BTreeMap::new();
    for line in hosts {
        let Some(report) = line
            .report
            .as_ref()
            .filter(|report| report.state.is_final() && !report.state.is_good())
        else {
            continue;
        };
        let error = report.error_type.clone().unwrap_or_default();
        let reason = report.reason.clone().unwrap_or_default();
        groups
            .entry((line.state, error, reason))
            .or_default()
            .push(line);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, lines)| std::cmp::Reverse(lines.len()));
    let row = |((state, error, reason), lines): ((HostState, String, String), Vec<&Line>)| {
        let example = lines
            .first()
            .map(|line| line.host.to_string())
            .unwrap_or_default();
        [
            lines.len().to_string(),
            state.to_string(),
            error,
            reason,
            example,
        ]
    };
    groups.into_iter().map(row).collect()
}

pub(super) async fn watch(fleet: &Fleet, id: &OrderId) -> Result<Exit, Failure> {
    let limit = async {
        match fleet.timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = follow(fleet, id) => ended,
        () = limit => {
            Err(Failure::new(Exit::Timeout, format!("Order {id} has not ended within --timeout; it goes on")))
        }
        Ok(()) = tokio::signal::ctrl_c() => {
            say(&format!("Order {id} goes on: see `lvpctl fleet status {id}`"));
            Ok(Exit::Interrupted)
        }
    }
}

async fn follow(fleet: &Fleet, id: &OrderId) -> Result<Exit, Failure> {
    let bar = can_draw(&std::io::stderr()).then(|| {
        let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
        match ProgressStyle::with_template("{prefix} [{wide_bar}] {pos}/{len} {msg}") {
            Ok(style) => bar.with_style(style.progress_chars("=> ")),
            Err(_) => bar,
        }
    });
    let mut last = String::new();
    loop {
        let view = match view(fleet, id).await {
            Ok(view) => view,
            // The order goes on meanwhile.
            Err(failure) if failure.is_temporary() => {
                say(&format!("warning: {failure}; trying again"));
                tokio::time::sleep(LOOK).await;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        let text = counted(&view);
        match &bar {
            Some(bar) => {
                bar.set_length(view.hosts.len() as u64);
                bar.set_position(view.hosts.iter().filter(|line| has_ended(line)).count() as u64);
                bar.set_prefix(id.to_string());
                bar.set_message(text);
            }
            None if fleet.format == Format::Json => {}
            None if text != last => {
                say(&text);
                last = text;
            }
            None => {}
        }
        if view.outcome != Outcome::Unfinished {
            if let Some(bar) = &bar {
                bar.finish_and_clear();
            }
            print(fleet, &view)?;
            return Ok(exit(view.outcome));
        }
        tokio::time::sleep(LOOK).await;
    }
}
