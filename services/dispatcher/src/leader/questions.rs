//! What anyone may ask: why a task waits, and when one would start. And what nobody asks aloud: whether
//! a task that is to be refused rather than late can start in time.

use super::output::{Beside, Carried};
use super::{Held, Leader};
use crate::names;
use crate::read::Fate;
use jetlane_bus::{Message, clock};
use jetlane_core::{Entry, EntryId, Forecast, Standing};
use jetlane_schemas::needs::smallest_fit;
use jetlane_schemas::question::{Answer, Expectation, Explanation, Prospect, Question, Reason};
use jetlane_schemas::{Admit, Failure, Fit, Flow, Headers, Micros, Shard, TaskId, TaskType};
use std::time::{Duration, Instant};

/// The most questions that are answered a second: each costs as much as dispatching what is before it.
const QUESTIONS_A_SECOND: u32 = 20;
const SECOND: Micros = Micros(1_000_000);
/// Looking ahead, for tasks that are read and for whoever asks, takes at most one part in so many of the
/// leader's time. A task that comes while it rests is taken, and ends as expired if it cannot start; a
/// question is refused.
const FORECAST_PARTS: u32 = 4;
/// After a quiet time, the part of so long is taken at once.
const FORECAST_BURST: Duration = Duration::from_millis(100);

/// How much was asked of late.
#[derive(Debug)]
pub(crate) struct Asked {
    since: Micros,
    questions: u32,
    /// When it may be looked ahead again.
    forecast_at: Instant,
}

impl Default for Asked {
    fn default() -> Self {
        Self { since: Micros(0), questions: 0, forecast_at: Instant::now() }
    }
}

impl Asked {
    /// Whether another question is answered now; why not, where it is not.
    fn one_more(&mut self, now: Micros, at: Instant) -> Result<(), String> {
        if at < self.forecast_at {
            return Err("questions have had their part of the leader's time; ask again later".into());
        }
        if now.0.saturating_sub(self.since.0) >= SECOND.0 {
            (self.since, self.questions) = (now, 0);
        }
        self.questions = self.questions.saturating_add(1);
        if self.questions > QUESTIONS_A_SECOND {
            return Err(format!("more than {QUESTIONS_A_SECOND} questions in a second; ask again later"));
        }
        Ok(())
    }

    /// Answers a question at the cost of the time it takes, or refuses it.
    fn answer(&mut self, now: Micros, answer: impl FnOnce() -> Answer) -> Answer {
        let since = Instant::now();
        if let Err(reason) = self.one_more(now, since) {
            return Answer::Refused { reason };
        }
        let answer = answer();
        self.looked_ahead(since);
        answer
    }

    /// A look ahead that began then is over.
    fn looked_ahead(&mut self, since: Instant) {
        let took = since.elapsed().min(Duration::from_secs(1));
        let quiet_since = since.checked_sub(FORECAST_BURST).unwrap_or(since);
        self.forecast_at = self.forecast_at.max(quiet_since) + took * FORECAST_PARTS;
    }
}

impl Leader {
    /// Answers a question, if whoever asks says where.
    pub(super) fn take_question(&mut self, message: &Message) {
        let Some(reply) = message.reply.clone().filter(|reply| names::may_be_answered(reply)) else { return };
        let now = clock::now();
        let mut asked = std::mem::take(&mut self.asked);
        let answer = asked.answer(now, || match serde_json::from_slice(&message.body) {
            Ok(Question::Explain { id, task_type }) => self.explain(now, &id, task_type.as_ref()),
            Ok(Question::Expect(prospect)) => self.expect(now, &prospect),
            Err(error) => Answer::Refused { reason: format!("the question cannot be read: {error}") },
        });
        self.asked = asked;
        let body = serde_json::to_vec(&answer).expect("an answer holds nothing but text and numbers");
        let bus = self.world.bus.clone();
        self.works.push(Box::pin(async move {
            Carried::Beside(Beside::Written("answer a question", bus.send(reply, Headers::new(), body.into()).await))
        }));
    }

    fn explain(&self, now: Micros, id: &TaskId, task_type: Option<&TaskType>) -> Answer {
        let is_meant = |of: &TaskType| task_type.is_none_or(|task_type| task_type == of);
        let held = self.runs.held(id).filter(|(of, _)| is_meant(of)).last().and_then(|(_, entry)| {
            let standing = self.core.standing(now, entry)?;
            Some((self.held.get(&entry)?, standing))
        });
        let Some((held, standing)) = held else {
            let dispatched = match task_type {
                Some(task_type) => self.dispatched.contains(task_type, id),
                None => self.dispatched.contains_id(id),
            };
            return Answer::Unheld { queue: self.queue.clone(), dispatched };
        };
        let task = &held.task;
        let mut expected = expectation(&standing.entry, standing.forecast, task.deadline);
        if standing.is_paused || held.fate != Fate::Run {
            (expected.start, expected.finish) = (None, None);
        }
        Answer::Explanation(Explanation {
            id: task.id.clone(),
            queue: self.queue.clone(),
            task_type: task.task_type.clone(),
            priority: task.priority,
            tenant: task.tenant.clone(),
            fit: task.fit.clone(),
            policy: self.entry.order.policy,
            first_arrival: standing.entry.first_arrival,
            reasons: reasons(held, &standing, self.is_served(now, task.priority, &task.fit)),
            expected,
        })
    }

    fn expect(&mut self, now: Micros, prospect: &Prospect) -> Answer {
        let known = self.world.registry.borrow().task_type(&prospect.task_type).cloned();
        if let Some(known) = known.filter(|known| known.entry.queue != self.queue) {
            let reason = format!("{} belongs to queue {}: ask there", prospect.task_type, known.entry.queue);
            return Answer::Refused { reason };
        }
        let size_key = prospect.size_key.as_deref();
        let estimate = self.learned.expect_of(&prospect.task_type, size_key, prospect.estimate_us).mean;
        let fit = if prospect.needs.is_none() {
            Some(Fit::default())
        } else {
            smallest_fit(&self.fits.declared, &prospect.needs).map(|fit| fit.name.clone())
        };
        let Some(fit) = fit.and_then(|fit| self.core.fit(&fit)) else {
            let (estimate_us, meets_deadline) = (estimate.0, prospect.deadline.is_none());
            return Answer::Expectation(Expectation {
                start: None,
                finish: None,
                estimate_us,
                ahead: 0,
                meets_deadline,
            });
        };
        let shard = self.shards.place(&prospect.tenant, Shard::shared_by_hash(&prospect.tenant));
        let flow = Flow::Task(self.queue.clone(), prospect.priority, shard);
        let entry = Entry {
            id: EntryId(u64::MAX),
            flow: self.flows.number_of(&flow),
            priority: prospect.priority,
            tenant: self.tenants.of(&prospect.tenant),
            task_type: self.types.of(&prospect.task_type),
            fit,
            first_arrival: now,
            expires: prospect.deadline,
            due: super::intake::due(prospect.deadline, estimate),
            estimate,
            yields: 0,
            bytes: 0,
        };
        let mut forecast = self.core.forecast(now, &entry);
        if self.entry.paused {
            (forecast.start, forecast.finish) = (None, None);
        }
        Answer::Expectation(expectation(&entry, forecast, prospect.deadline))
    }

    /// Refuses a task that would rather be refused than late and, as far as can be seen, would be late.
    pub(super) fn admit(&mut self, held: &mut Held, entry: &mut Entry) {
        let task = &held.task;
        let Some(deadline) = task.deadline.filter(|_| task.admit == Admit::Strict && held.fate == Fate::Run) else {
            return;
        };
        let since = Instant::now();
        if since < self.asked.forecast_at {
            return;
        }
        let forecast = self.core.forecast(held.read_at, entry);
        self.asked.looked_ahead(since);
        // Without an expected start nothing is known: no executor takes such tasks yet. Being early is no error.
        if let Some(start) = forecast.start.filter(|start| *start > deadline) {
            let message = format!(
                "it would start at {} behind {} tasks, after its deadline at {}",
                clock::rfc3339(start),
                forecast.ahead,
                clock::rfc3339(deadline),
            );
            held.fate = Fate::Reject(Failure::new("deadline", message));
            entry.expires = Some(super::intake::NEVER_STARTS);
        }
    }
}

fn expectation(entry: &Entry, forecast: Forecast, deadline: Option<Micros>) -> Expectation {
    let is_met = |deadline| forecast.start.is_some_and(|start| start <= deadline);
    Expectation {
        start: forecast.start,
        finish: forecast.finish,
        estimate_us: entry.estimate.0,
        ahead: forecast.ahead,
        meets_deadline: deadline.is_none_or(is_met),
    }
}

/// Why it waits, the most important first.
fn reasons(held: &Held, standing: &Standing, is_served: bool) -> Vec<Reason> {
    let fit = || held.task.fit.clone();
    match held.fate {
        Fate::Run if !standing.is_leaving => {}
        Fate::Run | Fate::Reject(_) | Fate::Leave | Fate::Superseded => return vec![Reason::Leaving],
        Fate::Later(until) | Fate::Unknown(until) => return vec![Reason::Delayed { until }],
        Fate::NoFit(until) => return vec![Reason::NoExecutorFits { fit: fit() }, Reason::Delayed { until }],
    }
    let (tasks, of_its_flow) = (standing.forecast.ahead, standing.forecast.ahead_in_flow);
    let room = if !is_served && !standing.has_executor {
        Some(Reason::NoExecutorFits { fit: fit() })
    } else {
        (!standing.has_room).then_some(Reason::NoRoom)
    };
    [
        standing.is_paused.then_some(Reason::Paused),
        standing.rests_until.map(|until| Reason::Resting { until }),
        room,
        (tasks > 0).then_some(Reason::Behind { tasks, of_its_flow }),
        standing.is_over_share.then_some(Reason::OverShare),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_ahead_takes_a_part_of_the_time_and_rests_for_the_others() {
        let mut asked = Asked::default();
        let since = Instant::now();
        asked.looked_ahead(since - Duration::from_millis(100));
        // 400 ms from its begin, of which the burst is given.
        let rest = asked.forecast_at.duration_since(since);
        assert!(rest >= Duration::from_millis(200) && rest < Duration::from_secs(3), "{rest:?}");
        let again = asked.forecast_at;
        asked.looked_ahead(Instant::now() - Duration::from_millis(10));
        assert!(asked.forecast_at >= again + Duration::from_millis(40), "what was taken too early is owed");
    }

    #[test]
    fn questions_that_take_long_are_refused_until_the_others_had_their_time() {
        let mut asked = Asked::default();
        let begun = Instant::now();
        let costly = || {
            let since = Instant::now();
            while since.elapsed() < Duration::from_millis(50) {
                std::hint::spin_loop();
            }
            Answer::Refused { reason: "answered".into() }
        };
        assert_eq!(asked.answer(SECOND, costly), Answer::Refused { reason: "answered".into() });
        let rests = begun + Duration::from_millis(50);
        assert!(asked.one_more(SECOND, rests).unwrap_err().ends_with("ask again later"));
        assert_eq!(asked.one_more(SECOND, asked.forecast_at), Ok(()));
    }

    #[test]
    fn so_many_questions_a_second_are_answered_and_no_more() {
        let mut asked = Asked::default();
        let mut answered = |at: u64| (0..50).filter(|_| asked.one_more(Micros(at), Instant::now()).is_ok()).count();
        assert_eq!(answered(5_000_000), 20);
        assert_eq!(answered(5_999_999), 0);
        assert_eq!(answered(6_000_000), 20);
    }
}
