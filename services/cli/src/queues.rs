//! `jetlane queues`: the pools of executors and the order in which they are given work.
//!
//! # Layout
//! - `found`: what is known of every queue
//! - `change`: changing one while it runs

mod change;
pub(crate) mod found;

use crate::args::needs::written;
use crate::args::{Queues, QueuesAction};
use crate::output::{Exit, Failure, Output, grouped, table};
use crate::reach::{self, Nats};
use crate::result::NO_STREAMS;
use found::{Found, look};
use jetlane::{Bus, QueueEntry, QueueName, TaskType};
use jetlane_bus::Error;
use jetlane_schemas::registry::{Round, Weights};
use jetlane_schemas::subject::BUCKET_REGISTRY;
use jetlane_schemas::{FitEntry, PolicyName};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A queue as programs read it. The names are a contract.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    queue: &'a QueueName,
    announced: bool,
    policy: PolicyName,
    weights: Weights,
    round: Round,
    max_wait_ms: Option<u64>,
    paused: bool,
    fits: Vec<FitEntry>,
    types: &'a BTreeSet<TaskType>,
    waiting: u64,
    before_dispatch: u64,
    in_lanes: u64,
    leader: Option<&'a str>,
    executors: bool,
}

/// Lists queues, shows one or changes one.
pub(crate) async fn run(nats: &Nats, args: &Queues, output: &Output) -> Result<Exit, Failure> {
    let named = |queue: &str| QueueName::new(queue).map_err(|error| Failure::of(Exit::Usage, &error));
    match &args.action {
        QueuesAction::Ls => list(reach::client(nats).await?.bus(), output).await,
        QueuesAction::Show(shown) => {
            let queue = named(&shown.queue)?;
            show(reach::client(nats).await?.bus(), &queue, output).await
        }
        QueuesAction::Set(set) => {
            let queue = named(&set.queue)?;
            let wanted = change::Wanted::read(set)?;
            change::run(reach::client(nats).await?.bus(), &queue, &wanted, output).await
        }
    }
}

/// The error that failed, with its advice.
pub(crate) fn failed(error: &Error) -> Failure {
    match error {
        // It says itself what helps.
        Error::RegistryFull { .. } => Failure::of(Exit::Error, error),
        error => Failure::of(Exit::Error, error).help(NO_STREAMS),
    }
}

async fn found(bus: &Bus, output: &Output) -> Result<BTreeMap<QueueName, Found>, Failure> {
    let looked = look(bus).await.map_err(|error| failed(&error))?;
    for (key, why) in &looked.announced.unreadable {
        output.say(format_args!("{key} in {BUCKET_REGISTRY} is no announcement: {why}"));
    }
    Ok(looked.queues)
}

async fn list(bus: &Bus, output: &Output) -> Result<Exit, Failure> {
    let found = found(bus, output).await?;
    let listed: Vec<Listed<'_>> = found.iter().map(|(queue, found)| listed(queue, found)).collect();
    output.data(&serde_json::json!({ "queues": listed }), || rows(&listed));
    Ok(Exit::Ok)
}

async fn show(bus: &Bus, queue: &QueueName, output: &Output) -> Result<Exit, Failure> {
    let found = found(bus, output).await?;
    let Some(found) = found.get(queue) else {
        return Err(Failure::new(
            Exit::NotFound,
            format!("nobody has announced the queue {queue}, and nothing waits for it"),
        )
        .help("`jetlane queues ls` lists what is there."));
    };
    let listed = listed(queue, found);
    output.data(&listed, || page(&listed));
    Ok(Exit::Ok)
}

fn listed<'a>(queue: &'a QueueName, found: &'a Found) -> Listed<'a> {
    let QueueEntry { order, paused, .. } = found.entry.clone().unwrap_or_default();
    Listed {
        queue,
        announced: found.entry.is_some(),
        policy: order.policy,
        weights: order.weights,
        round: order.round,
        max_wait_ms: order.max_wait_ms,
        paused,
        fits: found.entry.clone().unwrap_or_default().all_fits(),
        types: &found.types,
        waiting: found.waiting(),
        before_dispatch: found.before_dispatch,
        in_lanes: found.in_lanes,
        leader: found.leader.as_deref(),
        executors: found.executors,
    }
}

fn rows(listed: &[Listed<'_>]) -> String {
    let rows = listed.iter().map(|one| {
        let fits: Vec<&str> = one.fits.iter().map(|fit| fit.name.as_str()).collect();
        [
            one.queue.to_string(),
            one.policy.to_string(),
            yes(one.paused),
            fits.join(" "),
            types(one.types, ROW_TYPES_MAX),
            grouped(one.waiting),
            leader(one),
            yes(one.executors),
        ]
    });
    table(["queue", "policy", "paused", "fits", "types", "waiting", "leader", "executors"], rows)
}

/// The most types that a row names.
const ROW_TYPES_MAX: usize = 3;

fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.into()
}

fn leader(one: &Listed<'_>) -> String {
    one.leader.map_or_else(|| "nobody".into(), crate::result::plain)
}

fn types(types: &BTreeSet<TaskType>, most: usize) -> String {
    let named: Vec<&str> = types.iter().take(most).map(TaskType::as_str).collect();
    let more = types.len() - named.len();
    match (named.is_empty(), more) {
        (true, _) => "-".into(),
        (false, 0) => named.join(" "),
        (false, more) => format!("{} and {more} more", named.join(" ")),
    }
}

fn page(one: &Listed<'_>) -> String {
    let waiting = format!(
        "{} ({} before dispatch, {} in lanes)",
        grouped(one.waiting),
        grouped(one.before_dispatch),
        grouped(one.in_lanes)
    );
    let mut lines = vec![("policy", one.policy.to_string()), ("weights", weights(one.weights))];
    lines.push(("round", round(one.round).into()));
    lines.push(("max wait", max_wait(one.max_wait_ms)));
    lines.push(("paused", yes(one.paused)));
    lines.push(("types", types(one.types, usize::MAX)));
    lines.push(("waiting", waiting));
    lines.push(("leader", leader(one)));
    lines.push(("executors", if one.executors { "pull from it" } else { "nobody pulls from it" }.into()));
    let head = if one.announced { one.queue.to_string() } else { format!("{} (nobody has announced it)", one.queue) };
    let lines: String = lines.iter().map(|(name, value)| format!("\n  {name:<10} {value}")).collect();
    let fits = one.fits.iter().map(|fit| {
        let covers = if fit.name == jetlane_schemas::Fit::default() { "no needs".into() } else { written(&fit.covers) };
        [fit.name.to_string(), covers]
    });
    format!("{head}{lines}\n\n{}", table(["fit", "covers"], fits))
}

/// Weights as `--weights` reads them.
fn weights(Weights(weights): Weights) -> String {
    weights.map(|weight| weight.to_string()).join(":")
}

fn round(round: Round) -> &'static str {
    match round {
        Round::Tenant => "tenant",
        Round::Type => "type",
    }
}

fn max_wait(ms: Option<u64>) -> String {
    let told = |ms| humantime::format_duration(Duration::from_millis(ms)).to_string();
    ms.map_or_else(|| "none: a multiple of the mean run time".into(), told)
}
