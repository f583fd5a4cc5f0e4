//! `jetlane submit`: one task, from the words of the command line.

use crate::args;
use crate::moment::Expected;
use crate::output::{Exit, Failure, Output};
use crate::reach::Nats;
use crate::{reach, result, traced};
use jetlane::{Accepted, Client, Submit, TaskId, TaskType};
use jetlane_schemas::QueueName;
use jetlane_schemas::limits::BODY_BYTES_MAX;
use serde::Serialize;
use serde_json::value::RawValue;
use std::fs::File;
use std::io::Read;
use std::time::SystemTime;

/// What a submission tells to programs.
#[derive(Debug, Serialize)]
struct Submitted<'a> {
    id: &'a TaskId,
    sequence: u64,
    duplicate: bool,
    served: bool,
}

/// Submits a task, and waits for its outcome where that is wanted. Its trace begins here.
pub(crate) async fn run(nats: &Nats, args: &args::Submit, output: &Output) -> Result<Exit, Failure> {
    let guard = traced::start("submit")?;
    let exit = submit(nats, args, output).await;
    guard.shutdown().await;
    exit
}

async fn submit(nats: &Nats, args: &args::Submit, output: &Output) -> Result<Exit, Failure> {
    let wrong = |error| Failure::of(Exit::Usage, &error);
    let task_type = TaskType::new(args.task_type.as_str()).map_err(wrong)?;
    let queue = args.queue.as_deref().map(QueueName::new).transpose().map_err(wrong)?;
    let body = body(&args.body)?;
    let client = reach::client(nats).await?;
    let unserved = unserved(&client, &task_type, queue.as_ref());
    let submit = submission(&client, &task_type, args, body);
    if args.expect {
        return expect(submit, unserved, output).await;
    }
    if !args.wait {
        let (id, accepted) = submit.forget().await.map_err(refused)?;
        tell(output, nats, &id, accepted, unserved.is_none());
        return Ok(say_unserved(output, unserved));
    }
    let mut handle = submit.await.map_err(refused)?;
    let id = handle.id().clone();
    output.say(format_args!("Submitted {id}."));
    say_unserved(output, unserved);
    let completion = async { handle.completion().await.map_err(Failure::from) };
    result::wait(completion, args.timeout, &id, nats).await
}

fn submission(client: &Client, task_type: &TaskType, args: &args::Submit, body: Vec<u8>) -> Submit<Box<RawValue>> {
    let mut submit = client.submit_json(task_type.as_str(), body).priority(args.priority);
    if let Some(tenant) = &args.tenant {
        submit = submit.tenant(tenant);
    }
    if let Some(key) = &args.key {
        submit = submit.key(key);
    }
    if let Some(unique_for) = args.unique_for {
        submit = submit.unique_for(unique_for);
    }
    if let Some(queue) = &args.queue {
        submit = submit.queue(queue);
    }
    if let Some(delay) = args.delay {
        submit = submit.delay(delay);
    }
    // What is beyond the calendar's end is no deadline.
    if let Some(deadline) = args.deadline.and_then(|deadline| SystemTime::now().checked_add(deadline)) {
        submit = submit.deadline(deadline);
    }
    if let Some(admit) = args.admit {
        submit = submit.admit(admit);
    }
    if let Some(estimate) = args.estimate {
        submit = submit.estimate(estimate);
    }
    if let Some(size_key) = &args.size_key {
        submit = submit.size_key(size_key);
    }
    if let Some(needs) = &args.needs {
        submit = submit.needs(needs.clone());
    }
    args.webhook.iter().fold(submit, Submit::webhook)
}

/// Tells when it would run; nothing is submitted.
async fn expect(submit: Submit<Box<RawValue>>, unserved: Option<String>, output: &Output) -> Result<Exit, Failure> {
    if let Some(text) = unserved {
        return Err(Failure::new(Exit::NotFound, text).help("Nobody can tell when it would run."));
    }
    let expected = Expected::of(submit.expected().await?);
    output.data(&expected, || format!("Submitted now, it {}", expected.line()));
    Ok(Exit::Ok)
}

fn refused(error: jetlane::Error) -> Failure {
    let help = matches!(error, jetlane::Error::Submit { .. });
    let failure = Failure::from(error);
    if help { failure.help(result::NO_STREAMS) } else { failure }
}

/// What nobody has announced of that which the task needs to run.
fn unserved(client: &Client, task_type: &TaskType, queue: Option<&QueueName>) -> Option<String> {
    if client.task_type(task_type).is_none() {
        return Some(format!("Nobody serves {task_type} yet: it waits until somebody announces the type."));
    }
    let queue = queue.filter(|queue| !client.knows_queue(queue))?;
    Some(format!("Nobody serves the queue {queue} yet: it waits until somebody announces the queue."))
}

fn say_unserved(output: &Output, unserved: Option<String>) -> Exit {
    if let Some(text) = unserved {
        output.say(text);
    }
    Exit::Ok
}

fn tell(output: &Output, nats: &Nats, id: &TaskId, accepted: Accepted, served: bool) {
    let Accepted { sequence, duplicate, known: _ } = accepted;
    output.data(&Submitted { id, sequence, duplicate, served }, || {
        let how = if duplicate { "was submitted before" } else { "submitted" };
        format!("{id} {how}. Its output: {}", result::command(nats, id))
    });
}

/// The body, checked to be JSON before anything is sent: a broken one would be told by a completion only.
fn body(said: &str) -> Result<Vec<u8>, Failure> {
    let unreadable = |what: &str, error: std::io::Error| Failure::new(Exit::Usage, format!("{what}: {error}"));
    let (what, body) = match (said, said.strip_prefix('@')) {
        ("-", _) => ("the body on stdin", read(std::io::stdin().lock())),
        (_, Some(path)) => ("the body in the file", File::open(path).and_then(read)),
        _ => ("the body", Ok(said.as_bytes().to_vec())),
    };
    let body = body.map_err(|error| unreadable(&format!("could not read {what}"), error))?;
    if body.len() > BODY_BYTES_MAX {
        return Err(Failure::new(Exit::Usage, format!("{what} is over the limit of {BODY_BYTES_MAX} bytes"))
            .help("Store it elsewhere, and submit where it is."));
    }
    let broken = |why: String| {
        Failure::new(Exit::Usage, format!("{what} is no JSON: {why}"))
            .help("Quote it for the shell, such as '{\"name\":\"Ada\"}'; or give @file, or - for stdin.")
    };
    jetlane_schemas::json::check(&body).map_err(|error| broken(error.to_string()))?;
    Ok(body)
}

/// One byte more than the limit is enough to know that it is over.
fn read(source: impl Read) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    source.take(BODY_BYTES_MAX as u64 + 1).read_to_end(&mut body)?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_body_goes_as_it_stands() {
        let text = r#"{ "n": 123456789012345678901234567890 }"#;
        assert_eq!(body(text).expect("JSON"), text.as_bytes());
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(b"[1]\n").expect("written");
        assert_eq!(body(&format!("@{}", file.path().display())).expect("JSON"), b"[1]\n");
    }

    #[test]
    fn a_body_that_is_no_json_or_too_large_is_refused_before_anything_is_sent() {
        let large = format!("\"{}\"", "x".repeat(BODY_BYTES_MAX));
        for bad in ["", "{", "{a:1}", "nil", "@/nonexistent", &large] {
            let failure = body(bad).expect_err("refused");
            assert_eq!(failure.exit, Exit::Usage);
        }
    }
}
