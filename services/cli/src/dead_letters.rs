//! `jetlane dead-letters`: what failed for good, sent again or removed by choice.

use crate::args::{DeadLetters, DeadLettersAction, Which};
use crate::moment::when;
use crate::output::{Exit, Failure, Output, grouped, table};
use crate::reach::{self, Nats};
use crate::result::{NO_STREAMS, as_json, plain};
use futures::StreamExt;
use jetlane::{Bus, Client, Outcome, Priority, QueueName, TaskId, TaskType};
use jetlane_bus::letters::{Content, Letter, Resent};
use jetlane_bus::look::LOOK_MESSAGES_MAX;
use jetlane_bus::{Error, clock};
use jetlane_schemas::{Micros, Tenant, subject};
use serde::Serialize;
use serde_json::value::RawValue;

/// Letters that are sent again or removed at once.
const CHANGED_AT_ONCE: usize = 32;
/// Characters of a reason in a row.
const ROW_REASON_MAX: usize = 60;
/// The most letters of one id that are shown.
const SHOWN_MAX: usize = 100;

/// Which letters are meant, checked.
struct Wanted {
    filters: Vec<String>,
    limit: usize,
}

/// What is there.
struct Found {
    letters: Vec<Letter>,
    /// Whether more are beyond the limit.
    more: bool,
}

/// A dead letter as programs read it. The names are a contract.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    id: &'a TaskId,
    #[serde(rename = "type")]
    task_type: &'a TaskType,
    queue: Option<&'a QueueName>,
    tenant: &'a Tenant,
    priority: Priority,
    key: Option<&'a str>,
    outcome: Outcome,
    attempt: u32,
    reason: String,
    submitted_at: Option<String>,
    ended_at: Option<String>,
    kept_at: String,
    /// The callback's place among those of its task.
    #[serde(skip_serializing_if = "Option::is_none")]
    callback: Option<usize>,
    /// Whether parts of it were too large to be kept.
    cut: bool,
    bytes: usize,
    sequence: u64,
    /// The body as it was submitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Box<RawValue>>,
    #[serde(skip)]
    stored_at: Micros,
}

/// A letter by its name.
#[derive(Debug, Serialize)]
struct Named<'a> {
    id: &'a TaskId,
    #[serde(rename = "type")]
    task_type: &'a TaskType,
}

/// A letter that stays, and why.
#[derive(Debug, Serialize)]
struct Kept<'a> {
    #[serde(flatten)]
    letter: Named<'a>,
    reason: String,
}

/// What became of letters that were to be sent again. The names are a contract.
#[derive(Debug, Default, Serialize)]
struct Sent<'a> {
    resent: Vec<Named<'a>>,
    /// Their tasks have succeeded since; the letters are removed.
    succeeded_since: Vec<Named<'a>>,
    kept: Vec<Kept<'a>>,
    /// Whether more of them wait beyond the limit.
    more: bool,
}

/// Lists, shows, sends again or removes.
pub(crate) async fn run(nats: &Nats, args: &DeadLetters, output: &Output) -> Result<Exit, Failure> {
    match &args.action {
        DeadLettersAction::Ls(ls) => {
            let wanted = Wanted::read(&[], &ls.which)?;
            list(reach::client(nats).await?.bus(), &wanted, output).await
        }
        DeadLettersAction::Show(show) => {
            let which = Which {
                task_type: show.task_type.clone(),
                queue: None,
                callbacks: show.callbacks,
                limit: SHOWN_MAX as u64,
            };
            let wanted = Wanted::read(std::slice::from_ref(&show.id), &which)?;
            page(reach::client(nats).await?.bus(), &wanted, output).await
        }
        DeadLettersAction::Resend(change) => {
            let wanted = Wanted::read(&change.ids, &change.which)?;
            resend(&reach::client(nats).await?, &wanted, output).await
        }
        DeadLettersAction::Purge(change) => {
            let wanted = Wanted::read(&change.ids, &change.which)?;
            purge(reach::client(nats).await?.bus(), &wanted, output).await
        }
    }
}

impl Wanted {
    fn read(ids: &[String], which: &Which) -> Result<Self, Failure> {
        let wrong = |error| Failure::of(Exit::Usage, &error);
        let task_type = which.task_type.as_deref().map(TaskType::new).transpose().map_err(wrong)?;
        let queue = which.queue.as_deref().map(QueueName::new).transpose().map_err(wrong)?;
        let mut ids = ids.iter().map(|id| TaskId::new(id.as_str())).collect::<Result<Vec<_>, _>>().map_err(wrong)?;
        ids.sort();
        ids.dedup();
        let filters = |id: Option<&TaskId>| match which.callbacks {
            true => subject::dead_callbacks_matching(task_type.as_ref(), id),
            false => subject::dead_matching(queue.as_ref(), task_type.as_ref(), id),
        };
        let filters =
            if ids.is_empty() { filters(None) } else { ids.iter().flat_map(|id| filters(Some(id))).collect() };
        Ok(Self { filters, limit: usize::try_from(which.limit).unwrap_or(usize::MAX) })
    }

    async fn find(&self, bus: &Bus) -> Result<Found, Error> {
        let mut letters = Vec::new();
        for filter in &self.filters {
            let mut start = 1;
            loop {
                // One more than asked for tells whether there are more.
                let count = (self.limit + 1 - letters.len()).min(LOOK_MESSAGES_MAX);
                let (found, next) = bus.dead_letters(filter, start, count).await?;
                letters.extend(found);
                if letters.len() > self.limit {
                    letters.truncate(self.limit);
                    return Ok(Found { letters, more: true });
                }
                let Some(next) = next else { break };
                start = next;
            }
        }
        Ok(Found { letters, more: false })
    }
}

fn failed(error: &Error) -> Failure {
    Failure::of(Exit::Error, error).help(NO_STREAMS)
}

fn none() -> Failure {
    Failure::new(Exit::NotFound, "there is no such dead letter")
        .help("`jetlane dead-letters ls` lists what is kept. Each is kept for 30 days unless configured.")
}

fn say_more(output: &Output, found: &Found, done: &str) {
    if found.more {
        output.say(format_args!("More than {} are there: {done}", grouped(found.letters.len() as u64)));
    }
}

async fn list(bus: &Bus, wanted: &Wanted, output: &Output) -> Result<Exit, Failure> {
    let found = wanted.find(bus).await.map_err(|error| failed(&error))?;
    let listed: Vec<Listed<'_>> = found.letters.iter().map(|letter| listed(letter, None)).collect();
    output.data(&serde_json::json!({ "dead_letters": listed, "more": found.more }), || rows(&listed));
    say_more(output, &found, "--limit lists more.");
    Ok(Exit::Ok)
}

async fn page(bus: &Bus, wanted: &Wanted, output: &Output) -> Result<Exit, Failure> {
    let found = wanted.find(bus).await.map_err(|error| failed(&error))?;
    if found.letters.is_empty() {
        return Err(none());
    }
    let bodies = found.letters.iter().map(|letter| (letter, body(letter)));
    let listed: Vec<Listed<'_>> = bodies.map(|(letter, body)| listed(letter, body)).collect();
    output.data(&serde_json::json!({ "dead_letters": listed }), || pages(&listed));
    Ok(Exit::Ok)
}

async fn resend(client: &Client, wanted: &Wanted, output: &Output) -> Result<Exit, Failure> {
    let found = wanted.find(client.bus()).await.map_err(|error| failed(&error))?;
    if found.letters.is_empty() {
        return Err(none());
    }
    let answers = futures::stream::iter(&found.letters)
        .map(|letter| async move { (letter, client.resend(letter).await) })
        .buffered(CHANGED_AT_ONCE);
    let mut answers = std::pin::pin!(answers);
    let mut sent = Sent { more: found.more, ..Sent::default() };
    let mut fault = None;
    while let Some((letter, answer)) = answers.next().await {
        let named = Named { id: &letter.id, task_type: &letter.task_type };
        let reason = match answer {
            Ok(Resent::Stored) => {
                sent.resent.push(named);
                continue;
            }
            Ok(Resent::Succeeded) => {
                sent.succeeded_since.push(named);
                continue;
            }
            Ok(Resent::KeyTaken(id)) => format!("the task {id} of its key waits or runs"),
            Ok(Resent::Unsendable(reason)) => reason,
            Err(error) => {
                let error = Failure::from(error);
                let reason = error.message.clone();
                fault = Some(error);
                reason
            }
        };
        sent.kept.push(Kept { letter: named, reason: plain(&reason) });
        if fault.is_some() {
            // The broker is asked no more; what was not reached is as it was.
            break;
        }
    }
    output.data(&sent, || told(&sent));
    for kept in sent.kept.iter().filter(|_| !output.is_json()) {
        output.say(format_args!("{} {} stays: {}", kept.letter.task_type, kept.letter.id, kept.reason));
    }
    say_more(output, &found, "say it again to go on.");
    match fault {
        Some(fault) => Err(fault.help("What was not sent is still a dead letter. Say it again.")),
        None if sent.kept.is_empty() => Ok(Exit::Ok),
        None => Ok(Exit::Refused),
    }
}

async fn purge(bus: &Bus, wanted: &Wanted, output: &Output) -> Result<Exit, Failure> {
    let found = wanted.find(bus).await.map_err(|error| failed(&error))?;
    if found.letters.is_empty() {
        return Err(none());
    }
    let answers = futures::stream::iter(&found.letters).map(|letter| bus.remove_letter(letter));
    let mut answers = std::pin::pin!(answers.buffer_unordered(CHANGED_AT_ONCE));
    let mut removed = 0_u64;
    while let Some(answer) = answers.next().await {
        removed += u64::from(answer.map_err(|error| failed(&error))?);
    }
    let report = serde_json::json!({ "removed": removed, "more": found.more });
    output.data(&report, || format!("removed {} for ever", letters(removed)));
    say_more(output, &found, "say it again to go on.");
    Ok(Exit::Ok)
}

fn listed(letter: &Letter, body: Option<Box<RawValue>>) -> Listed<'_> {
    let task = letter.task();
    let at = |at: Micros| (at.0 > 0).then(|| clock::rfc3339(at));
    let done = &letter.completion;
    let unreadable = match &letter.content {
        Content::Unreadable(reason) if letter.reason.is_empty() => format!("it cannot be read: {reason}"),
        _ => letter.reason.clone(),
    };
    Listed {
        id: &letter.id,
        task_type: &letter.task_type,
        queue: task.map(|task| &task.queue).or(done.queue.as_ref()),
        tenant: &done.tenant,
        priority: done.priority,
        key: task.and_then(|task| task.key.as_deref()),
        outcome: done.outcome,
        attempt: done.attempt,
        reason: plain(&unreadable),
        submitted_at: at(done.submitted_at),
        ended_at: at(done.finished_at),
        kept_at: clock::rfc3339(letter.stored_at),
        callback: match letter.content {
            Content::Callback { index, .. } => Some(index),
            Content::Task(_) | Content::Unreadable(_) => None,
        },
        cut: done.cut,
        bytes: letter.bytes,
        sequence: letter.sequence,
        body,
        stored_at: letter.stored_at,
    }
}

/// What was submitted, or the output that a callback brings.
fn body(letter: &Letter) -> Option<Box<RawValue>> {
    let json = match &letter.content {
        Content::Task(task) => as_json(&task.payload),
        Content::Callback { body, .. } => as_json(body),
        Content::Unreadable(_) => return None,
    };
    RawValue::from_string(json).ok()
}

fn rows(listed: &[Listed<'_>]) -> String {
    let rows = listed.iter().map(|one| {
        let short: String = one.reason.lines().next().unwrap_or_default().chars().take(ROW_REASON_MAX).collect();
        [
            one.id.to_string(),
            one.task_type.to_string(),
            one.queue.map_or_else(|| "-".into(), ToString::to_string),
            one.outcome.to_string(),
            one.attempt.to_string(),
            when(one.stored_at),
            short,
        ]
    });
    table(["id", "type", "queue", "outcome", "attempts", "kept", "reason"], rows)
}

fn pages(listed: &[Listed<'_>]) -> String {
    let page = |one: &Listed<'_>| {
        let mut lines = vec![("type", one.task_type.to_string())];
        lines.extend(one.queue.map(|queue| ("queue", queue.to_string())));
        lines.extend((!one.tenant.is_shared()).then(|| ("tenant", plain(one.tenant.as_str()))));
        lines.extend(one.key.map(|key| ("key", plain(key))));
        lines.extend(one.callback.map(|index| ("callback", index.to_string())));
        lines.push(("outcome", format!("{} after {} attempts", one.outcome, one.attempt)));
        lines.push(("reason", one.reason.clone()));
        lines.push(("kept", when(one.stored_at)));
        lines.extend(one.cut.then(|| ("cut", "parts of it were too large to be kept".to_owned())));
        lines.extend(one.body.as_ref().map(|body| ("body", plain(body.get()))));
        let lines: String = lines.iter().map(|(name, value)| format!("\n  {name:<8} {value}")).collect();
        format!("{}{lines}", one.id)
    };
    listed.iter().map(page).collect::<Vec<_>>().join("\n\n")
}

fn told(sent: &Sent<'_>) -> String {
    let mut told = format!("sent {} again", letters(sent.resent.len() as u64));
    if !sent.succeeded_since.is_empty() {
        told += &format!("; removed {} whose task has succeeded since", letters(sent.succeeded_since.len() as u64));
    }
    told
}

fn letters(count: u64) -> String {
    if count == 1 { "1 dead letter".into() } else { format!("{} dead letters", grouped(count)) }
}
