//! The policies on the wire: the arrivals and sizes of the simulator as `jetlane.sleep` tasks, through
//! the real services and a server of their own, beside what the simulator says of the same.

use super::services::{Services, connect};
use crate::args::Schedule;
use crate::output::{Exit, Failure, Output, table};
use crate::stack::start_server;
use jetlane::{Client, Completion, Outcome, Submit};
use jetlane_executor::probe::{Sleep, Slept};
use jetlane_schemas::registry::{Order, PolicyName};
use jetlane_schemas::subject::{self, BUCKET_REGISTRY};
use jetlane_schemas::{Micros, QueueEntry, QueueName};
use jetlane_simulator::{Arrivals, Figures, Lives, Load, Policy, Settings, Task, simulate};
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// The queue of the tasks.
const QUEUE: &str = "bench";
/// How long the services may take until a first task has gone all the way.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// How long after the last arrival the last task may end.
const ROUND_WITHIN: Duration = Duration::from_secs(120);
/// The first arrival comes so long after the start, so that all is set up by then.
const LEAD: Duration = Duration::from_millis(300);
/// A sleep stops at most this often to look whether it is to yield, in mean sizes: the simulator's quantum.
const QUANTUM: f64 = 0.25;
/// Policies whose simulated mean responses differ by less than this part are in no order.
const APART: f64 = 1.15;

#[derive(Debug, Serialize)]
struct Report {
    workload: String,
    rho: f64,
    sigma: f64,
    slots: u32,
    mean_ms: f64,
    tasks: usize,
    seed: u64,
    policies: Vec<Compared>,
    /// Pairs of policies whose simulated order the wire does not keep.
    out_of_order: Vec<(String, String)>,
    lost: usize,
}

/// A policy on the wire and in the simulator. Times in mean sizes.
#[derive(Debug, Serialize)]
struct Compared {
    #[serde(flatten)]
    measured: Figures,
    simulated: Figures,
    /// Mean response on the wire over the simulator's.
    response_ratio: f64,
    expired: usize,
    lost: usize,
}

/// Measures and reports. Fails where a task was lost, never on a time.
pub(super) async fn run(args: &Schedule, output: &Output) -> Result<Exit, Failure> {
    let load = Load {
        workload: args.workload,
        tasks: args.tasks,
        servers: args.slots,
        rho: args.rho,
        seed: args.seed,
        sigma: args.sigma,
        tenants: args.tenants,
        ..Load::default()
    };
    let arrivals = Arc::new(load.arrivals().map_err(|error| Failure::of(Exit::Usage, &error))?);
    let policies = match args.policy {
        Some(policy) => vec![policy],
        None => PolicyName::ALL.to_vec(),
    };
    let mut compared = Vec::with_capacity(policies.len());
    for policy in policies {
        output.say(format_args!("{policy}: {} tasks in about {:.0} s", args.tasks, seconds(&arrivals, args)));
        let wire = Wire::start(policy, args).await?;
        let ended = wire.play(&arrivals, args, policy).await;
        wire.stop().await;
        compared.push(compare(policy, &arrivals, args, &ended?)?);
    }
    let out_of_order = out_of_order(&compared);
    let lost = compared.iter().map(|policy| policy.lost).sum();
    let Schedule { rho, sigma, slots, mean_ms, tasks, seed, .. } = *args;
    let workload = args.workload.to_string();
    let report = Report { workload, rho, sigma, slots, mean_ms, tasks, seed, policies: compared, out_of_order, lost };
    if args.json {
        output.json(&report);
    } else {
        output.data(&report, || report.table());
    }
    Ok(if lost == 0 { Exit::Ok } else { Exit::Error })
}

fn seconds(arrivals: &Arrivals, args: &Schedule) -> f64 {
    arrivals.tasks().last().map_or(0.0, |last| last.arrival.0 as f64 / 1e6 * args.mean_ms / 1e3)
}

/// What became of a task on the wire.
struct Ended {
    number: u32,
    /// Since the start.
    at: Duration,
    completion: Option<Completion>,
}

/// A server with the services, and a client.
struct Wire {
    server: jetlane_bus::local::Server,
    client: Client,
    services: Services,
}

impl Wire {
    async fn start(policy: PolicyName, args: &Schedule) -> Result<Self, Failure> {
        let server = start_server(0, None).await?;
        let url = server.url();
        let mut services = Services::start(&url, jetlane_dispatcher::Config::default()).await?;
        let client = connect(&url, "bench-submitter").await?;
        announce(&client, policy).await?;
        let connected = connect(&url, "bench-executor").await?;
        let settings = jetlane_executor::Settings {
            queue: QUEUE.into(),
            slots: args.slots as usize,
            ..jetlane_executor::Settings::default()
        };
        let executor =
            jetlane_executor::executor(&connected, &settings).map_err(|error| Failure::of(Exit::Error, &error))?;
        // A task that waits at the executor is out of the policy's hands.
        services.serve(executor.prefetch(0).concurrency(jetlane::Concurrency::Fixed));
        services.first(|| client.submit(Sleep::of(Duration::ZERO))).await?;
        Ok(Self { server, client, services })
    }

    /// Submits every task when its time has come, and waits for all.
    async fn play(&self, arrivals: &Arc<Arrivals>, args: &Schedule, policy: PolicyName) -> Result<Vec<Ended>, Failure> {
        let mut under_way = JoinSet::new();
        let begun = Instant::now() + LEAD;
        for (number, task) in (0..).zip(arrivals.tasks()) {
            tokio::time::sleep_until(begun + on_the_wire(task.arrival, args)).await;
            let submit = self.submit(task, &arrivals.tenants()[task.tenant as usize], args);
            let submit = match start_by(task) {
                // Deadlines say until when a task must have started, and end what has not: only where they order.
                Some(at) if policy == PolicyName::Edf => {
                    let left = (begun + on_the_wire(at, args)).saturating_duration_since(Instant::now());
                    submit.deadline(SystemTime::now() + left)
                }
                _ => submit,
            };
            under_way.spawn(async move {
                let handle = submit.await;
                let completion = match handle {
                    Ok(mut handle) => handle.completion().await.ok(),
                    Err(_) => None,
                };
                Ended { number, at: begun.elapsed(), completion }
            });
        }
        let end = Instant::now() + ROUND_WITHIN;
        let mut ended = Vec::with_capacity(arrivals.tasks().len());
        while let Ok(Some(task)) = tokio::time::timeout_at(end, under_way.join_next()).await {
            ended.push(task.map_err(|error| Failure::new(Exit::Error, format!("a submission panicked: {error}")))?);
        }
        Ok(ended)
    }

    fn submit(&self, task: &Task, tenant: &str, args: &Schedule) -> Submit<Slept> {
        let ms = on_the_wire(task.size, args).as_secs_f64() * 1e3;
        let sleep = Sleep { ms, checkpoint_ms: Some(QUANTUM * args.mean_ms) };
        let estimate = on_the_wire(task.estimate.unwrap_or(task.size), args).max(Duration::from_micros(1));
        self.client.submit(sleep).priority(task.priority).tenant(tenant).estimate(estimate)
    }

    async fn stop(mut self) {
        self.services.stop().await;
        self.server.stop().await;
    }
}

/// Announces the queue under this policy, as soon as there is a registry.
async fn announce(client: &Client, policy: PolicyName) -> Result<(), Failure> {
    let queue = QueueName::new(QUEUE).map_err(|error| Failure::of(Exit::Error, &error))?;
    let entry = QueueEntry { order: Order::of(policy), ..QueueEntry::default() };
    let end = Instant::now() + READY_WITHIN;
    loop {
        let put =
            async { client.bus().bucket(BUCKET_REGISTRY).await?.put(&subject::registry_queue(&queue), &entry).await };
        match put.await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > end => return Err(Failure::of(Exit::Unreachable, &error)),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// The simulator's time, where a mean size is a second, on the wire.
fn on_the_wire(at: Micros, args: &Schedule) -> Duration {
    Duration::from_micros(at.0).mul_f64(args.mean_ms / 1e3)
}

/// A time on the wire in the simulator's.
fn simulated(time: Duration, args: &Schedule) -> Micros {
    Micros((time.as_secs_f64() * 1e6 / (args.mean_ms / 1e3)) as u64)
}

/// Until when a task must have started to end by its deadline.
fn start_by(task: &Task) -> Option<Micros> {
    task.due.map(|due| Micros(due.0.saturating_sub(task.estimate.unwrap_or(task.size).0)))
}

fn compare(policy: PolicyName, arrivals: &Arrivals, args: &Schedule, ended: &[Ended]) -> Result<Compared, Failure> {
    let mut lives = Lives::new(arrivals);
    let (mut done, mut expired) = (0, 0);
    for task in ended {
        let Some(completion) = &task.completion else { continue };
        match completion.outcome {
            Outcome::Succeeded => {
                let at = simulated(task.at, args);
                let ran = simulated(Duration::from_secs_f64(completion.run_ms.max(0.0) / 1e3), args);
                lives.ran(task.number, Micros(at.0.saturating_sub(ran.0)), at);
                lives.ended(task.number, at);
                done += 1;
            }
            Outcome::Expired => expired += 1,
            Outcome::Failed | Outcome::Cancelled | Outcome::Rejected => {}
        }
    }
    let measured = Figures::of(Policy::Queue(policy), arrivals, &lives, args.slots);
    let settings = Settings { servers: args.slots, quantum: QUANTUM, ..Settings::default() };
    let simulated = simulate(arrivals, Policy::Queue(policy), &settings).map_err(|e| Failure::of(Exit::Usage, &e))?;
    let response_ratio = measured.mean_response / simulated.mean_response;
    let lost = arrivals.tasks().len() - done - expired;
    Ok(Compared { measured, simulated, response_ratio, expired, lost })
}

/// The pairs that the simulator tells apart and the wire puts in another order.
fn out_of_order(policies: &[Compared]) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for quick in policies {
        for slow in policies {
            let is_told = slow.simulated.mean_response > APART * quick.simulated.mean_response;
            if is_told && slow.measured.mean_response < quick.measured.mean_response {
                pairs.push((quick.measured.policy.to_owned(), slow.measured.policy.to_owned()));
            }
        }
    }
    pairs
}

impl Report {
    fn table(&self) -> String {
        let rows = self.policies.iter().map(|policy| {
            let Compared { measured, simulated, response_ratio, expired, .. } = policy;
            [
                measured.policy.to_owned(),
                format!("{:.3}", measured.mean_response),
                format!("{:.3}", simulated.mean_response),
                format!("{response_ratio:.3}"),
                format!("{:.2}", measured.mean_slowdown),
                format!("{:.2}", simulated.mean_slowdown),
                format!("{:.1}", measured.p99_slowdown),
                format!("{:.1}", simulated.p99_slowdown),
                expired.to_string(),
            ]
        });
        let heads =
            ["policy", "response", "simulated", "ratio", "slowdown", "simulated", "p99", "simulated", "expired"];
        let order = match self.out_of_order.as_slice() {
            [] => "the simulated order is kept".to_owned(),
            pairs => format!("out of the simulated order: {pairs:?}"),
        };
        format!(
            "{}\n\n{} tasks a policy, {} slots, load {}, mean size {} ms (the unit of times); {order}; {} lost",
            table(heads, rows),
            self.tasks,
            self.slots,
            self.rho,
            self.mean_ms,
            self.lost
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(policy: &'static str, simulated: f64, measured: f64) -> Compared {
        let arrivals = Load { tasks: 100, ..Load::default() }.arrivals().expect("in range");
        let mut figures = simulate(&arrivals, Policy::IdealSrpt, &Settings::default()).expect("in range");
        figures.policy = policy;
        let simulated = Figures { mean_response: simulated, ..figures.clone() };
        let measured = Figures { mean_response: measured, ..figures };
        Compared { measured, simulated, response_ratio: 1.0, expired: 0, lost: 0 }
    }

    #[test]
    fn only_policies_that_the_simulator_tells_apart_can_be_out_of_order() {
        let kept = [compared("a", 1.0, 2.0), compared("b", 1.1, 1.0), compared("c", 3.0, 2.5)];
        assert_eq!(out_of_order(&kept), []);
        let broken = [compared("a", 1.0, 2.0), compared("c", 3.0, 1.5)];
        assert_eq!(out_of_order(&broken), [("a".to_owned(), "c".to_owned())]);
    }
}
