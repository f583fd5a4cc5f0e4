//! `jetlane tasks explain`: completion, schedule, leaders, streams, in this order; the first that knows
//! the task tells of it.

use super::search::{Place, Search};
use super::told::{State, Told, Why};
use crate::announce::{Announced, announced};
use crate::args::Explain;
use crate::output::{Exit, Failure, Output};
use crate::reach::{self, Nats};
use crate::result::NO_STREAMS;
use futures::StreamExt;
use jetlane::{Bus, QueueName, TaskId, TaskType};
use jetlane_bus::Error;
use jetlane_schemas::question::{Answer, Question};
use jetlane_schemas::subject;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long the leader of a queue may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// Leaders that are asked at once.
const ASKED_AT_ONCE: usize = 64;

/// What is asked for.
struct Asked<'a> {
    id: &'a TaskId,
    task_type: Option<TaskType>,
    queue: Option<QueueName>,
}

/// What the leaders say.
#[derive(Default)]
struct Leaders {
    /// Those of whom one answered.
    answered: BTreeSet<QueueName>,
    /// Those of whom none did.
    silent: BTreeSet<QueueName>,
    /// Those that answered, but not the question, and why.
    refused: Vec<String>,
    /// The one that has dispatched it.
    dispatched: Option<QueueName>,
    told: Option<Told>,
}

/// Tells where a task is and why it waits.
pub(super) async fn run(nats: &Nats, args: &Explain, output: &Output) -> Result<Exit, Failure> {
    let wrong = |error| Failure::of(Exit::Usage, &error);
    let id = TaskId::new(args.id.as_str()).map_err(wrong)?;
    let task_type = args.task_type.as_deref().map(TaskType::new).transpose().map_err(wrong)?;
    let queue = args.queue.as_deref().map(QueueName::new).transpose().map_err(wrong)?;
    let client = reach::client(nats).await?;
    let asked = Asked { id: &id, task_type, queue };
    let told = in_two_looks(client.bus(), &asked).await;
    let told = told.map_err(|error| Failure::of(Exit::Error, &error).help(NO_STREAMS))?;
    let is_unknown = told.state == State::Unknown;
    if is_unknown && !output.is_json() {
        let looked_at = told.looked_at.join("; ");
        return Err(Failure::new(Exit::NotFound, format!("nothing is known of {id}"))
            .help(format!("Looked at: {looked_at}. A completion is kept for an hour unless configured.")));
    }
    output.data(&told, || told.page());
    Ok(if is_unknown { Exit::NotFound } else { Exit::Ok })
}

/// A task that moves from one place to the next during a look is in neither; it does not move twice.
async fn in_two_looks(bus: &Bus, asked: &Asked<'_>) -> Result<Told, Error> {
    let told = explained(bus, asked).await?;
    if told.looked_everywhere == Some(true) { explained(bus, asked).await } else { Ok(told) }
}

async fn explained(bus: &Bus, asked: &Asked<'_>) -> Result<Told, Error> {
    if let Some(told) = ended(bus, asked).await? {
        return Ok(told);
    }
    if let Some((until, task)) = bus.scheduled(asked.id).await? {
        return Ok(Told::delayed(&task, until));
    }
    let announced = announced(bus).await?;
    let leaders = ask(bus, asked, &announced).await?;
    if let Some(told) = leaders.told {
        return Ok(told);
    }
    let mut search = Search::of(bus, asked.id);
    let queue = leaders.dispatched.as_ref().or(asked.queue.as_ref());
    let mut place = search.in_lanes(queue).await?;
    if place.is_none() && leaders.dispatched.is_none() {
        place = search.in_intake(asked.task_type.as_ref(), asked.queue.as_ref()).await?;
    }
    if let Some(place) = place {
        return Ok(placed(asked, place, &leaders, &announced));
    }
    // It may have ended while it was looked for.
    if let Some(told) = ended(bus, asked).await? {
        return Ok(told);
    }
    if leaders.dispatched.is_some() {
        return Ok(Told { queue: leaders.dispatched, ..Told::at(asked.id, State::Running) });
    }
    Ok(unknown(asked, &search, &leaders))
}

/// Its completion, or its dead letter, which is kept for longer.
async fn ended(bus: &Bus, asked: &Asked<'_>) -> Result<Option<Told>, Error> {
    let completion = match &asked.task_type {
        Some(task_type) => bus.read_done(task_type, asked.id).await?,
        None => bus.find_done(asked.id).await?,
    };
    let completion = match completion {
        Some(completion) => Some(completion),
        None => bus.find_dead(asked.id).await?,
    };
    Ok(completion.as_ref().map(Told::ended))
}

/// Asks the leaders of all known queues at once, or of the one that is said.
async fn ask(bus: &Bus, asked: &Asked<'_>, announced: &Announced) -> Result<Leaders, Error> {
    let queues: Vec<QueueName> = match &asked.queue {
        Some(queue) => vec![queue.clone()],
        None => announced.all_queues().into_iter().cloned().collect(),
    };
    let question = Question::Explain { id: asked.id.clone(), task_type: None };
    let question = serde_json::to_vec(&question).expect("a question holds nothing but text and numbers");
    let mut answers = futures::stream::iter(queues)
        .map(|queue| {
            let question = question.clone();
            async move {
                let answer = bus.ask(&subject::ask(&queue), question.into(), ANSWER_WITHIN).await;
                (queue, answer)
            }
        })
        .buffer_unordered(ASKED_AT_ONCE);
    let mut leaders = Leaders::default();
    while let Some((queue, answer)) = answers.next().await {
        let answer = answer?.and_then(|json| serde_json::from_slice::<Answer>(&json).ok());
        let Some(answer) = answer else {
            leaders.silent.insert(queue);
            continue;
        };
        leaders.answered.insert(queue.clone());
        match answer {
            Answer::Explanation(explanation) => leaders.told = Some(Told::explained(explanation)),
            Answer::Unheld { dispatched: true, .. } => leaders.dispatched = Some(queue),
            Answer::Refused { reason } => leaders.refused.push(format!("the leader of {queue} did not say: {reason}")),
            Answer::Unheld { dispatched: false, .. } | Answer::Expectation(_) => {}
        }
    }
    Ok(leaders)
}

fn placed(asked: &Asked<'_>, place: Place, leaders: &Leaders, announced: &Announced) -> Told {
    match place {
        Place::Lane { lane, task_type, sequence, is_delivered } => {
            let state = if is_delivered { State::Running } else { State::Dispatched };
            let estimate_ms = task_type.as_ref().and_then(|task_type| learned(announced, task_type, None));
            Told {
                task_type,
                subject: Some(lane.subject()),
                queue: Some(lane.queue),
                priority: Some(lane.priority),
                fit: Some(lane.fit),
                sequence: Some(sequence),
                estimate_ms,
                ..Told::at(asked.id, state)
            }
        }
        Place::Intake { task, subject, sequence, ahead, is_raw } => {
            let mut told = Told::of(&task, State::Waiting);
            let learned = learned(announced, &task.task_type, task.size_key.as_deref());
            told.estimate_ms = learned.or(told.estimate_ms);
            if is_raw {
                told.queue = announced.types.get(&task.task_type).map(|entry| entry.queue.clone());
            }
            told.policy = told.queue.as_ref().and_then(|queue| Some(announced.queues.get(queue)?.order.policy));
            told.reasons = reasons(&told, &task.task_type, ahead, leaders, announced);
            (told.subject, told.sequence) = (Some(subject), Some(sequence));
            told
        }
    }
}

/// Why a task stands in its stream that no leader holds.
fn reasons(
    told: &Told,
    task_type: &TaskType,
    ahead: Option<u64>,
    leaders: &Leaders,
    announced: &Announced,
) -> Vec<Why> {
    let mut reasons = Vec::new();
    let Some(queue) = &told.queue else {
        let text =
            format!("Nobody has announced the type {task_type}: it waits until an executor that serves it starts.");
        reasons.push(Why::own("unannounced", text));
        return reasons;
    };
    if !leaders.answered.contains(queue) {
        let text = format!("Nobody answers for the queue {queue}: start a dispatcher (`jetlane run dispatcher`).");
        reasons.push(Why::own("no_leader", text));
    }
    if announced.queues.get(queue).is_some_and(|entry| entry.paused) {
        reasons.push(Why::paused(queue));
    }
    reasons.extend(ahead.map(Why::in_stream));
    reasons
}

/// What is learned of its run time, in milliseconds.
fn learned(announced: &Announced, task_type: &TaskType, size_key: Option<&str>) -> Option<f64> {
    let estimate = announced.estimates.get(task_type)?;
    let times = size_key.and_then(|key| estimate.sizes.get(key)).unwrap_or(&estimate.all);
    (times.runs > 0).then(|| times.mean_ms())
}

fn unknown(asked: &Asked<'_>, search: &Search<'_>, leaders: &Leaders) -> Told {
    let mut looked_at = vec!["its completion".to_owned(), "its dead letter".into(), "its schedule".into()];
    let names = |queues: &BTreeSet<QueueName>| queues.iter().map(QueueName::as_str).collect::<Vec<_>>().join(", ");
    if !leaders.answered.is_empty() {
        looked_at.push(format!("the leaders of {}", names(&leaders.answered)));
    }
    if !leaders.silent.is_empty() {
        looked_at.push(format!("no leader answers for {}", names(&leaders.silent)));
    }
    looked_at.extend(leaders.refused.iter().cloned());
    looked_at.extend(search.looked_at.iter().cloned());
    if search.is_cut() {
        looked_at.push("there is more that was not looked at; --type and --queue narrow it".into());
    }
    Told { looked_at, looked_everywhere: Some(!search.is_cut()), ..Told::at(asked.id, State::Unknown) }
}
