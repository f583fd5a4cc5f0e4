//! `jetlane record`: what a live queue is given, as a trace that the simulator replays.
//!
//! Completions say it all: when a task was submitted, how long it waited and ran. A task without a run
//! has no size and is left out.
//!
//! # Layout
//! - `rows`: what was recorded, within bounds

mod rows;

use crate::args::Record;
use crate::dev::interrupted;
use crate::output::{Exit, Failure, Output, grouped};
use crate::reach::{self, Nats};
use crate::result::NO_STREAMS;
use jetlane::{Bus, Completion, Priority, QueueName, TaskId, TaskType};
use jetlane_bus::flows::{Durable, From};
use jetlane_bus::{Delivery, Error, Pulled, Puller, clock, pull};
use jetlane_schemas::subject::STREAM_DONE;
use jetlane_schemas::{Micros, header};
use jetlane_simulator::{Arrivals, trace};
use rows::Rows;
use std::fs::Permissions;
use std::io::BufWriter;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;
use tempfile::NamedTempFile;
use tokio::time::{Instant, MissedTickBehavior};

/// Completions that are asked for ahead.
const AHEAD: usize = 512;
/// How long the server waits for an answer to a completion.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// When the server forgets a recorder that is gone.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);
/// How often is looked whether all that was kept has been read.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// When a recording ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// With the number of tasks, or a signal.
    Open,
    /// At this moment.
    At(Instant),
    /// Once all that was kept has been read.
    CaughtUp,
}

/// Records until the end that was asked for, and writes what there is.
pub(crate) async fn run(nats: &Nats, args: &Record, output: &Output) -> Result<Exit, Failure> {
    let queue = QueueName::new(args.queue.as_str()).map_err(|error| Failure::of(Exit::Usage, &error))?;
    let to_stdout = args.to == Path::new("-");
    if to_stdout && output.is_json() {
        return Err(Failure::new(Exit::Usage, "the trace is CSV: with -o json, say a file with --to"));
    }
    // A file that cannot be written is told before anything is waited for; until the end it has another
    // name, so that a recording that comes to nothing leaves what was there.
    let file = if to_stdout { None } else { Some(beside(&args.to).map_err(|error| unwritable(args, &error))?) };
    let client = reach::client(nats).await?;
    let bus = client.bus();
    let failed = |error: Error| Failure::of(Exit::Error, &error).help(NO_STREAMS);
    let durable = durable(args.since);
    bus.ensure_durable(STREAM_DONE, &durable).await.map_err(failed)?;
    let puller = bus.puller(STREAM_DONE, &durable.name).await.map_err(failed)?;
    let end = match (args.follow, args.since) {
        (Some(time), _) => End::At(Instant::now() + time),
        (None, Some(_)) => End::CaughtUp,
        (None, None) => End::Open,
    };
    if end != End::CaughtUp {
        output.say(format_args!("Recording what completes in the queue {queue}; Ctrl-C ends it."));
    }
    let of_queue = |task_type: &TaskType| client.task_type(task_type).is_some_and(|entry| entry.queue == queue);
    let mut rows = Rows::new(args.anonymous);
    let recording = Recording { bus, durable: &durable, most: args.tasks as usize };
    let recorded = recording.run(puller, end, |completion, stored_at| {
        let is_ours =
            completion.queue.as_ref().map_or_else(|| of_queue(&completion.task_type), |named| *named == queue);
        if is_ours {
            rows.take(completion, stored_at);
        }
        rows.tasks.len()
    });
    recorded.await.map_err(failed)?;
    bus.delete_durable(STREAM_DONE, &durable.name).await.map_err(failed)?;
    write(rows, args, file, output)
}

fn durable(since: Option<Duration>) -> Durable {
    let from = since.map_or(From::Now, |since| {
        let ago = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        From::Time(Micros(clock::now().0.saturating_sub(ago)))
    });
    Durable {
        name: format!("record-{}", TaskId::generate()),
        filters: Vec::new(),
        from,
        ack_wait: ACK_WAIT,
        held_max: 2 * AHEAD as i64,
        forgotten_after: Some(FORGOTTEN_AFTER),
    }
}

/// A recording that goes on.
struct Recording<'a> {
    bus: &'a Bus,
    durable: &'a Durable,
    most: usize,
}

impl Recording<'_> {
    /// Hands over completions until the end; `take` says how many tasks there are.
    async fn run(
        &self,
        mut puller: Puller,
        end: End,
        mut take: impl FnMut(&Completion, Micros) -> usize,
    ) -> Result<(), Error> {
        let until = match end {
            End::At(at) => at,
            // Far beyond every recording.
            End::Open | End::CaughtUp => Instant::now() + Duration::from_secs(60 * 60 * 24 * 365),
        };
        let mut over = std::pin::pin!(tokio::time::sleep_until(until));
        let mut stop = std::pin::pin!(interrupted());
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if puller.outstanding() <= AHEAD / 2 {
                puller.ask(AHEAD - puller.outstanding(), None).await?;
            }
            tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                () = &mut over => return Ok(()),
                pulled = puller.next() => match pulled {
                    Pulled::Delivery(delivery) => {
                        let count = read(&delivery).map_or(0, |(completion, at)| take(&completion, at));
                        delivery.ack.settle().await?;
                        if count >= self.most {
                            return Ok(());
                        }
                    }
                    Pulled::Room => {}
                    Pulled::Refused(_) => tokio::time::sleep(pull::REFUSED_PAUSE).await,
                    Pulled::Gone => self.bus.ensure_durable(STREAM_DONE, self.durable).await?,
                    Pulled::Closed => return Ok(()),
                },
                _ = look.tick(), if end == End::CaughtUp => {
                    let backlog = self.bus.backlog(STREAM_DONE, &self.durable.name).await?.unwrap_or_default();
                    if backlog.pending == 0 && backlog.unanswered == 0 {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// A completion and the time at which its task ended, by the clock of who ran it.
fn read(delivery: &Delivery) -> Option<(Completion, Micros)> {
    let headers = delivery.headers();
    let completion = Completion::from_message(&delivery.subject, &headers, &[]).ok()?;
    let ended = match headers.get(header::TIMES) {
        Some(_) => Some(completion.finished_at),
        None => headers.get(header::CE_TIME).and_then(clock::parse_rfc3339),
    };
    Some((completion, ended.unwrap_or(delivery.facts.stored_at)))
}

/// A file in the same folder, gone unless it is kept.
fn beside(path: &Path) -> std::io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new();
    file.prefix(".trace-").permissions(Permissions::from_mode(0o666)).tempfile_in(folder)
}

fn unwritable(args: &Record, error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Error, format!("{} cannot be written: {error}", args.to.display()))
}

fn write(rows: Rows, args: &Record, file: Option<NamedTempFile>, output: &Output) -> Result<Exit, Failure> {
    let (without_run, left_out) = (rows.without_run, rows.left_out);
    if rows.tasks.is_empty() {
        return Err(Failure::new(Exit::NotFound, format!("no task of the queue {} completed meanwhile", args.queue))
            .help("A trace has the tasks that ran and completed; `jetlane watch` shows them as they come."));
    }
    let arrivals = rows.arrivals().map_err(|error| Failure::of(Exit::Error, &error))?;
    match file {
        Some(file) => {
            trace::write(&arrivals, BufWriter::new(&file)).map_err(|error| unwritable(args, &error))?;
            file.persist(&args.to).map_err(|error| unwritable(args, &error))?;
        }
        None => trace::write(&arrivals, BufWriter::new(std::io::stdout().lock()))
            .map_err(|error| unwritable(args, &error))?,
    }
    let tasks = arrivals.tasks();
    let span_s = tasks.last().map_or(0.0, |last| last.arrival.0 as f64 / 1e6);
    let told = serde_json::json!({
        "queue": args.queue,
        "tasks": tasks.len(),
        "without_run": without_run,
        "left_out": left_out,
        "arrivals_span_s": span_s,
        "mean_size_s": arrivals.mean_size(),
        "file": args.to,
    });
    let line = || summary(&arrivals, without_run + left_out, span_s, args);
    // With the trace on stdout, the summary is talk.
    if args.to == Path::new("-") {
        output.say(line())
    } else {
        output.data(&told, line)
    }
    Ok(Exit::Ok)
}

fn summary(arrivals: &Arrivals, passed_over: u64, span_s: f64, args: &Record) -> String {
    let count = |priority| arrivals.tasks().iter().filter(|task| task.priority == priority).count();
    let priorities = Priority::ALL.map(|priority| format!("{priority} {}", grouped(count(priority) as u64)));
    let tasks = grouped(arrivals.tasks().len() as u64);
    let mean_ms = arrivals.mean_size() * 1_000.0;
    let place = args.to.display();
    let head = format!("{tasks} tasks that arrived within {span_s:.1} s, mean run time {mean_ms:.1} ms: {place}");
    let over = if passed_over > 0 {
        format!("\n{} that never ran are not in it.", grouped(passed_over))
    } else {
        String::new()
    };
    format!("{head}\n{}{over}\nReplay it: jetlane simulate --trace {place} --policy all", priorities.join(", "))
}
