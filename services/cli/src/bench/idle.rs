//! What the whole system costs while nothing is to be done: messages that the broker sees, and processor
//! time of every process. Beside it the bare loop, which waits as well.

use super::latency::ratio;
use super::plot::{Panel, Picture};
use super::processes::{Messages, Processes};
use super::report::{self, tell};
use super::ruler;
use super::services;
use super::services::connect;
use super::usage::{Usage, megabytes};
use crate::args::Idle;
use crate::output::{Exit, Failure, Output, table};
use futures::{StreamExt as _, TryStreamExt as _};
use jetlane::{Bus, QueueEntry, QueueName, TaskType, TypeEntry};
use jetlane_bus::floor::{Floor, Shape};
use jetlane_executor::probe::Echo;
use jetlane_schemas::subject::{self, BUCKET_LEASES, BUCKET_REGISTRY};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What is left of the start passes before anything is counted.
const SETTLE: Duration = Duration::from_secs(3);
/// What the bare loop is called: its hops run in this process.
const LOOP: &str = "hops";
/// How many announcements are written at once.
const ANNOUNCED_AT_ONCE: usize = 128;
/// How often it is looked whether all queues are led, and for how long.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const LED_WITHIN: Duration = Duration::from_secs(300);

/// All figures. The names are a contract.
#[derive(Debug, Serialize)]
struct Report {
    seconds: u64,
    /// Announced beside those of the services.
    queues: u16,
    types: u16,
    #[serde(flatten)]
    ours: Cost,
    /// Messages a second over the bare loop's.
    messages_ratio: f64,
    floor: Cost,
}

/// What was used while nothing happened.
#[derive(Debug, Serialize)]
struct Cost {
    /// Of clients to the server and back.
    messages_per_s: f64,
    received_per_s: f64,
    sent_per_s: f64,
    /// Of one core, all processes together.
    cpu_percent: f64,
    processes: BTreeMap<&'static str, Process>,
}

#[derive(Debug, Serialize)]
struct Process {
    cpu_percent: f64,
    rss_mb: f64,
}

/// Measures and reports.
pub(super) async fn run(args: &Idle, output: &Output) -> Result<Exit, Failure> {
    let time = Duration::from_secs(args.seconds);
    output.say(format_args!("the bare broker's loop, idle for {} s", args.seconds));
    let processes = Processes::start(Vec::new()).await?;
    let floor = Box::pin(bare(&processes, time)).await;
    processes.stop().await;
    let floor = floor?;
    output.say(format_args!("dispatcher, executor, callback service and server, idle for {} s", args.seconds));
    let mut processes = Processes::start(Vec::new()).await?;
    let ours = Box::pin(system(&mut processes, args, time)).await;
    processes.stop().await;
    let ours = ours?;
    let messages_ratio = ratio(ours.messages_per_s, floor.messages_per_s);
    tell(
        &Report { seconds: args.seconds, queues: args.queues, types: args.types, ours, messages_ratio, floor },
        &args.told,
        output,
    )
}

async fn bare(processes: &Processes, time: Duration) -> Result<Cost, Failure> {
    let mut floor = ruler::within(Floor::start(&processes.server.url(), Shape::default())).await?;
    ruler::within(floor.latencies(1)).await?;
    let cost = watch(processes, &[(LOOP, std::process::id())], time).await?;
    ruler::within(floor.end()).await?;
    Ok(cost)
}

async fn system(processes: &mut Processes, args: &Idle, time: Duration) -> Result<Cost, Failure> {
    for service in crate::stack::SERVICES {
        processes.run(service, &["run", service])?;
    }
    // What has been seen to work; its connection then goes, since an idle system has no submitter.
    let client = connect(&processes.server.url(), "bench-probe").await?;
    services::first(|| client.submit(Echo::of(&Value::Null))).await?;
    let led = tokio::time::timeout(LED_WITHIN, announce(client.bus(), args)).await;
    let late = |_| Failure::new(Exit::Error, format!("not all queues were led within {} s", LED_WITHIN.as_secs()));
    led.map_err(late)?.map_err(|error| Failure::of(Exit::Error, &error))?;
    drop(client);
    watch(processes, &[], time).await
}

/// Announces queues and types, and waits until all queues are led.
async fn announce(bus: &Bus, args: &Idle) -> Result<(), jetlane_bus::Error> {
    let registry = bus.bucket(BUCKET_REGISTRY).await?;
    let names = (0..args.queues).filter_map(|n| QueueName::new(format!("bench-{n}")).ok());
    let names: Vec<_> = names.collect();
    let queues = futures::stream::iter(&names)
        .map(async |queue| registry.put(&subject::registry_queue(queue), &QueueEntry::default()).await);
    queues.buffer_unordered(ANNOUNCED_AT_ONCE).try_collect::<()>().await?;
    let types = (0..args.types).filter_map(|n| TaskType::new(format!("bench.t{n}")).ok()).zip(names.iter().cycle());
    let types = futures::stream::iter(types).map(async |(task_type, queue)| {
        registry.put(&subject::registry_type(&task_type), &TypeEntry::new(queue.clone())).await
    });
    types.buffer_unordered(ANNOUNCED_AT_ONCE).try_collect::<()>().await?;
    let (stream, leases) = (format!("KV_{BUCKET_LEASES}"), subject::kv(BUCKET_LEASES, ">"));
    while bus.subject_counts(&stream, &leases).await?.len() < names.len() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Counts for so long, once the start is over.
async fn watch(processes: &Processes, others: &[(&'static str, u32)], time: Duration) -> Result<Cost, Failure> {
    tokio::time::sleep(SETTLE).await;
    let ids = || processes.ids().into_iter().chain(others.iter().copied());
    let usages = || ids().map(|(name, pid)| (name, Usage::of(pid))).collect::<Vec<_>>();
    let (begun, used, seen) = (Instant::now(), usages(), processes.messages().await?);
    tokio::time::sleep(time).await;
    let (seen, uses, took) = (processes.messages().await? - seen, usages(), begun.elapsed());
    Ok(cost(seen, &used, &uses, took))
}

fn cost(seen: Messages, before: &[(&'static str, Usage)], after: &[(&'static str, Usage)], took: Duration) -> Cost {
    let seconds = took.as_secs_f64().max(f64::MIN_POSITIVE);
    let per_s = |messages: u64| (messages as f64 / seconds * 100.0).round() / 100.0;
    let processes: BTreeMap<_, _> = before
        .iter()
        .zip(after)
        .map(|((name, before), (_, after))| {
            let used = after.cpu.saturating_sub(before.cpu).as_secs_f64();
            let cpu_percent = (used / seconds * 1e4).round() / 100.0;
            (*name, Process { cpu_percent, rss_mb: megabytes(after.resident_kb) })
        })
        .collect();
    let cpu: f64 = processes.values().map(|process| process.cpu_percent).sum();
    Cost {
        messages_per_s: per_s(seen.received + seen.sent),
        received_per_s: per_s(seen.received),
        sent_per_s: per_s(seen.sent),
        cpu_percent: (cpu * 100.0).round() / 100.0,
        processes,
    }
}

impl Report {
    fn rows(&self) -> impl Iterator<Item = (String, &Process)> {
        let of = |system: &'static str, cost: &'static str| format!("{system}: {cost}");
        let bare = self.floor.processes.iter().map(move |(name, process)| (of("bare loop", name), process));
        let ours = self.ours.processes.iter().map(move |(name, process)| (of("pipeline", name), process));
        bare.chain(ours)
    }
}

impl report::Report for Report {
    const NAME: &'static str = "idle";

    fn table(&self) -> String {
        let row = |name: &str, of: &Cost| {
            [
                name.to_owned(),
                format!("{:.1}", of.messages_per_s),
                format!("{:.1}", of.received_per_s),
                format!("{:.1}", of.sent_per_s),
                format!("{:.2}", of.cpu_percent),
            ]
        };
        let costs = table(
            ["system", "messages/s", "received/s", "sent/s", "% of a core"],
            [row("bare loop", &self.floor), row("pipeline", &self.ours)],
        );
        let rows = self.rows();
        let rows = rows.map(|(name, of)| [name, format!("{:.2}", of.cpu_percent), format!("{:.1}", of.rss_mb)]);
        let processes = table(["process", "% of a core", "resident MB"], rows);
        format!("{costs}\n\n{processes}\n\n{} s idle each, after {} s to settle", self.seconds, SETTLE.as_secs())
    }

    fn picture(&self) -> Picture {
        let messages = [("bare loop", &self.floor), ("pipeline", &self.ours)];
        let panels = vec![
            Panel::Bars {
                title: "Messages a second while idle".into(),
                bars: messages.map(|(name, of)| (name.to_owned(), of.messages_per_s)).to_vec(),
            },
            Panel::Bars {
                title: "Processor time while idle, % of a core".into(),
                bars: self.rows().map(|(name, of)| (name, of.cpu_percent)).collect(),
            },
        ];
        let settings = format!("{} s each; dispatcher, executor, callback service and server", self.seconds);
        Picture { title: "What nothing costs".into(), settings, panels }
    }

    fn exit(&self) -> Exit {
        Exit::Ok
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_told_a_second_and_in_parts_of_a_core() {
        let usage = |ms| [("dispatcher", Usage { cpu: Duration::from_millis(ms), ..Usage::default() })];
        let seen = Messages { received: 30, sent: 10 };
        let cost = cost(seen, &usage(500), &usage(700), Duration::from_secs(20));
        assert_eq!((cost.messages_per_s, cost.received_per_s, cost.sent_per_s), (2.0, 1.5, 0.5));
        assert_eq!(cost.processes["dispatcher"].cpu_percent, 1.0);
    }
}
