//! Submitters: each submission is sent until it is accepted; some are cancelled, some submitted again.

use crate::broker::{Body, Claim, Expect, Publish, Record, Stream, Subject};
use crate::network::News;
use crate::plan::{Hop, Naming, Planned, Point, Role, mix};
use crate::site::{Completed, PUBLISH_DEADLINE, Published, Site};
use crate::world::{Process, Time};
use jetlane_schemas::{Callback, Micros, Outcome, Priority, TaskEvent, TaskId};
use std::rc::Rc;

/// The id of a submission.
pub fn id_of(seed: u64, index: usize) -> Rc<str> {
    format!("{:016x}-task-{index:03}", mix(seed)).into()
}

/// Starts all submitters: each is a process of its own.
pub fn start(site: &Rc<Site>) {
    for (index, planned) in site.plan.tasks.iter().copied().enumerate() {
        run(site, planned.at, move |site, process| submit(site, process, index, planned));
        if let Some(again) = planned.again {
            run(site, planned.at + again, move |site, process| submit_again(site, process, index, planned));
        }
        if let Some(cancel) = planned.cancel {
            run(site, planned.at + cancel, move |site, process| cancel_task(site, process, index, planned));
        }
    }
}

fn run<F: Future<Output = ()> + 'static>(
    site: &Rc<Site>,
    at: Time,
    work: impl FnOnce(Rc<Site>, Process) -> F + 'static,
) {
    let process = site.world.process();
    site.submitting.set(site.submitting.get() + 1);
    let inner = Rc::clone(site);
    let guard = Counted(Rc::clone(site));
    site.world.spawn(process, async move {
        let _counted = guard;
        inner.world.sleep(at).await;
        work(Rc::clone(&inner), process).await;
    });
}

/// Counts a submitter as at work until it has ended, or has died.
struct Counted(Rc<Site>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.submitting.set(self.0.submitting.get() - 1);
    }
}

fn task_of(site: &Site, index: usize, planned: Planned) -> TaskEvent {
    let now = Micros(site.world.now());
    let id = TaskId::new(&*site.ids[index]).expect("the form of an id");
    let payload = vec![u8::try_from(index).expect("few tasks")];
    let mut task = TaskEvent::new(id, site.task_type.clone(), site.queue.clone(), now, payload);
    task.priority = Priority::ALL[planned.rank];
    task.retries = Some(planned.retries);
    task.due_at = planned.delay.map(|delay| Micros(now.0 + delay));
    task.deadline = planned.deadline.map(|deadline| Micros(now.0 + deadline));
    task.key = (planned.naming == Naming::Key).then(|| "key".to_owned());
    // An id of the submitter's own may have been submitted before.
    task.suspect = planned.again.is_some();
    let callback = Callback::Subject { subject: "callback".into() };
    task.callbacks = vec![callback; planned.callbacks];
    task
}

async fn submit(site: Rc<Site>, process: Process, index: usize, planned: Planned) {
    let task = task_of(&site, index, planned);
    site.point(process, Point::SubmitterBeforePublish).await;
    if planned.naming == Naming::Key {
        let claim = Publish {
            expect: Expect::Last(0),
            ..Publish::new(Stream::Claims, Subject::Of(Rc::clone(&site.ids[index])), Body::Claim(Claim::Submitted))
        };
        site.publish(process, Hop::Claim, claim, PUBLISH_DEADLINE).await;
    }
    site.checker.borrow_mut().submitting(index);
    let id = Some(task.message_id(jetlane_schemas::task::Hop::Intake).into());
    publish(&site, process, index, task, id).await;
}

/// Submits the same task again, as a client does that knows no message ids.
async fn submit_again(site: Rc<Site>, process: Process, index: usize, planned: Planned) {
    site.checker.borrow_mut().submitting(index);
    let task = task_of(&site, index, planned);
    publish(&site, process, index, task, None).await;
}

async fn publish(site: &Rc<Site>, process: Process, index: usize, task: TaskEvent, id: Option<Rc<str>>) {
    let subject = Subject::Submit(task.priority.rank());
    let out = Publish { id, ..Publish::new(Stream::Tasks, subject, Body::Tasks(Rc::new([Rc::new(task)]))) };
    // The point is in the middle of the first send: the answer comes after it.
    let crash = async {
        site.world.sleep(150).await;
        site.point(process, Point::SubmitterAfterPublish).await;
    };
    let published = both(site.publish(process, Hop::Submit, out, PUBLISH_DEADLINE), crash).await;
    if published != Published::Unknown {
        site.checker.borrow_mut().accepted(index);
    }
}

/// Waits for both; the answer is the first one's.
pub async fn both<A>(first: impl Future<Output = A>, second: impl Future<Output = ()>) -> A {
    let (mut first, mut second) = (std::pin::pin!(first), std::pin::pin!(second));
    let (mut answer, mut is_over) = (None, false);
    std::future::poll_fn(move |cx| {
        if answer.is_none()
            && let std::task::Poll::Ready(got) = first.as_mut().poll(cx)
        {
            answer = Some(got);
        }
        is_over = is_over || second.as_mut().poll(cx).is_ready();
        match answer.take() {
            Some(got) if is_over => std::task::Poll::Ready(got),
            other => {
                answer = other;
                std::task::Poll::Pending
            }
        }
    })
    .await
}

/// Cancels a task: the completion decides, then the id is noted and broadcast, and a schedule purged.
async fn cancel_task(site: Rc<Site>, process: Process, index: usize, planned: Planned) {
    let id = Rc::clone(&site.ids[index]);
    let record = Record {
        id: Rc::clone(&id),
        outcome: Outcome::Cancelled,
        run: 0,
        token: site.token(),
        callbacks: planned.callbacks,
        code: "cancelled",
    };
    site.checker.borrow_mut().cancelling(index);
    let completed = site.complete(process, &record, PUBLISH_DEADLINE).await;
    if !completed.stored(&record).is_some_and(|stored| stored.outcome == Outcome::Cancelled) {
        return;
    }
    site.point(process, Point::SubmitterCancelling).await;
    let note = Publish::new(Stream::Notes, Subject::Of(Rc::clone(&id)), Body::Nothing);
    if site.publish(process, Hop::Note, note, PUBLISH_DEADLINE).await == Published::Unknown {
        return;
    }
    site.noted(&id);
    for executor in site.live(Role::Executor) {
        site.network.notify(process, executor, Hop::Cancel, &News::Cancelled(Rc::clone(&id)));
    }
    let purge = move |broker: &mut crate::broker::Broker, _| {
        broker.purge(Stream::Time, |subject| matches!(subject, Subject::Schedule(of, _) if *of == id));
    };
    site.ask(process, Hop::Consumer, Stream::Time, purge, PUBLISH_DEADLINE).await;
    if matches!(completed, Completed::Won) {
        site.checker.borrow_mut().cancelled(index, site.world.now());
    }
}
