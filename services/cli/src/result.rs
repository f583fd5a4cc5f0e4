//! `jetlane result`: the output of a task on stdout, and nothing else there.

use crate::args::ResultArgs;
use crate::dev::interrupted;
use crate::output::{Exit, Failure, Output};
use crate::reach::{self, Nats};
use jetlane::{Client, Completion, Outcome, TaskId, TaskType};
use jetlane_bus::Message;
use jetlane_schemas::frame::Told;
use serde::de::IgnoredAny;
use std::future::Future;
use std::io::Write as _;
use std::time::Duration;

/// What to do where streams or buckets are not there.
pub(crate) const NO_STREAMS: &str = "The streams are made by a dispatcher. If none runs, start one: `jetlane dev`, or `jetlane run dispatcher`; if one runs, `jetlane doctor` and its log say what is missing.";

/// How long it is listened before it is looked again.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Prints the output of a task, where it has completed or once it does.
pub(crate) async fn run(nats: &Nats, args: &ResultArgs, output: &Output) -> Result<Exit, Failure> {
    let wrong = |error| Failure::of(Exit::Usage, &error);
    let id = TaskId::new(args.id.as_str()).map_err(wrong)?;
    let task_type = args.task_type.as_deref().map(TaskType::new).transpose().map_err(wrong)?;
    let client = reach::client(nats).await?;
    if args.wait {
        let completion = completion(&client, task_type, &id, output);
        return wait(completion, args.timeout, &id, nats).await;
    }
    match look(&client, task_type, &id).await? {
        Some(completion) => end(&completion),
        None => Err(Failure::new(Exit::NotFound, format!("no completion of {id} is kept"))
            .help("It may not have completed yet: add --wait. A completion is kept for an hour unless configured.")),
    }
}

/// Waits for a completion no longer than this, prints the output, and tells the outcome by the exit code.
pub(crate) async fn wait(
    completion: impl Future<Output = Result<Completion, Failure>>,
    timeout: Duration,
    id: &TaskId,
    nats: &Nats,
) -> Result<Exit, Failure> {
    let goes_on = || format!("The task goes on. Wait again: {}", command(nats, id));
    tokio::select! {
        completion = completion => end(&completion?),
        () = tokio::time::sleep(timeout) => {
            let limit = humantime::format_duration(timeout);
            Err(Failure::new(Exit::TimedOut, format!("the task {id} has not completed within {limit}")).help(goes_on()))
        }
        () = interrupted() => Err(Failure::new(Exit::Interrupted, "interrupted").help(goes_on())),
    }
}

/// The command that waits for a task.
pub(crate) fn command(nats: &Nats, id: &TaskId) -> String {
    format!("jetlane{} result {id} --wait", nats.words())
}

/// Text that others wrote, without what would steer a terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// The output as one piece of JSON: as it was written where it is JSON, otherwise as a string.
pub(crate) fn as_json(body: &[u8]) -> String {
    let text = match std::str::from_utf8(body) {
        Ok("") => return "null".into(),
        Ok(text) if serde_json::from_str::<IgnoredAny>(text).is_ok() => return text.into(),
        other => other.map_or_else(|_| String::from_utf8_lossy(body).into_owned(), str::to_owned),
    };
    serde_json::Value::String(text).to_string()
}

fn end(completion: &Completion) -> Result<Exit, Failure> {
    let (exit, how) = match completion.outcome {
        Outcome::Succeeded => {
            // As it was written: numbers of any size stay what they are.
            let _closed = writeln!(std::io::stdout().lock(), "{}", as_json(&completion.body));
            return Ok(Exit::Ok);
        }
        Outcome::Failed => (Exit::TaskFailed, "has failed"),
        Outcome::Expired => (Exit::TaskFailed, "has expired"),
        Outcome::Rejected => (Exit::TaskFailed, "was rejected"),
        Outcome::Cancelled => (Exit::TaskCancelled, "was cancelled"),
    };
    let failure = completion.failure().unwrap_or_default();
    Err(Failure::new(exit, plain(&format!("the task {} {how}: {failure}", completion.id))))
}

async fn look(client: &Client, task_type: Option<TaskType>, id: &TaskId) -> Result<Option<Completion>, Failure> {
    let found = match task_type {
        Some(task_type) => client.bus().read_done(&task_type, id).await,
        None => client.bus().find_done(id).await,
    };
    found.map_err(|error| Failure::of(Exit::Error, &error).help(NO_STREAMS))
}

async fn completion(
    client: &Client,
    task_type: Option<TaskType>,
    id: &TaskId,
    output: &Output,
) -> Result<Completion, Failure> {
    let Some(task_type) = task_type else {
        return completion_of_any_type(client, id, output).await;
    };
    let mut handle = client.handle_json(task_type, id.clone());
    if let Some(completion) = handle.look().await? {
        return Ok(completion);
    }
    say_waiting(output, id);
    Ok(handle.completion().await?)
}

fn say_waiting(output: &Output, id: &TaskId) {
    output.say(format_args!("{id} has not completed yet; waiting."));
}

/// Listens first and looks then, so that nothing falls in between; looks again after every reconnect, and
/// now and then, since clients in any language tell nobody.
async fn completion_of_any_type(client: &Client, id: &TaskId, output: &Output) -> Result<Completion, Failure> {
    let bus = client.bus();
    let closed = || Failure::from(jetlane::Error::Closed { id: id.clone() });
    let mut gaps = bus.gaps();
    let listening = bus.hear_all_told().await;
    let mut told = listening.map_err(|error| Failure::of(Exit::Error, &error))?;
    let mut said = false;
    loop {
        gaps.mark_unchanged();
        if let Some(completion) = look(client, None, id).await? {
            return Ok(completion);
        }
        if !said {
            say_waiting(output, id);
            said = true;
        }
        let look_again = tokio::time::sleep(LOOK_AGAIN_AFTER);
        tokio::pin!(look_again);
        loop {
            tokio::select! {
                // What is told is what is stored; a copy of the stream may not have it yet.
                message = told.next() => if let Some(completion) = find(&message.ok_or_else(closed)?, id) {
                    return Ok(completion);
                },
                changed = gaps.changed() => {
                    changed.map_err(|_| closed())?;
                    break;
                }
                () = &mut look_again => break,
            }
        }
    }
}

fn find(message: &Message, id: &TaskId) -> Option<Completion> {
    let told = Told::decode(&message.body).ok()?;
    let (_, one) = told.iter().find(|(told, _)| *told == id.as_str())?;
    one.completion().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_printed_as_it_was_written_and_is_always_json() {
        for (body, printed) in [
            (&br#"{"n": 123456789012345678901234567890}"#[..], r#"{"n": 123456789012345678901234567890}"#),
            (b"", "null"),
            (b"plain words", r#""plain words""#),
            (b"\xff", "\"\u{fffd}\""),
        ] {
            assert_eq!(as_json(body), printed);
        }
    }

    #[test]
    fn a_failure_cannot_steer_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\u{9b}\r\nc"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}\nc");
    }
}
