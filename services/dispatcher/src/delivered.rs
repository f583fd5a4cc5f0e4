//! What leaders of a queue were given, noted before their consumers are deleted. A dispatcher that dies between the
//! deletion and the creation of its own consumers must not hide it from the next leader.

use jetlane_bus::flows::OldConsumer;
use jetlane_bus::{Bus, Error};
use jetlane_schemas::subject::{self, BUCKET_LEASES, STREAM_TASKS, STREAM_TIME};
use jetlane_schemas::{Flow, QueueName};
use std::collections::BTreeMap;

/// Notes the last sequence that each consumer was given; returns that of each flow, also of those whose consumer an
/// earlier take-over has deleted.
///
/// # Errors
/// [`Error::Read`]; [`Error::Kv`], also where another dispatcher writes the note at the same time: only one of them leads.
pub(crate) async fn note(
    bus: &Bus,
    queue: &QueueName,
    consumers: &[OldConsumer],
) -> Result<BTreeMap<Flow, u64>, Error> {
    let bucket = bus.bucket(BUCKET_LEASES).await?;
    let key = subject::lease_delivered(queue);
    let (noted, revision) = bucket.get_revision::<BTreeMap<String, u64>>(&key).await?;
    let noted = noted.unwrap_or_default();
    let mut all = merged(&noted, consumers);
    for stream in [STREAM_TASKS, STREAM_TIME] {
        if noted.keys().filter_map(|subject| Flow::parse(subject)).any(|flow| flow.stream() == stream) {
            // A stream that was deleted meanwhile counts from 1 again.
            let last = bus.last_sequence(stream).await?;
            all.iter_mut().filter(|(flow, _)| flow.stream() == stream).for_each(|(_, until)| *until = last.min(*until));
        }
    }
    let note: BTreeMap<String, u64> = all.iter().map(|(flow, delivered)| (flow.subject(), *delivered)).collect();
    if note != noted && bucket.replace(&key, &note, revision).await?.is_none() {
        let source = "another dispatcher takes the queue over".into();
        return Err(Error::Kv { operation: "put", bucket: BUCKET_LEASES.into(), key, source });
    }
    Ok(all)
}

/// The greater of the note and the consumers, by flow: a consumer that appeared late may know less than the note.
fn merged(noted: &BTreeMap<String, u64>, consumers: &[OldConsumer]) -> BTreeMap<Flow, u64> {
    let noted = noted.iter().filter_map(|(subject, delivered)| Some((Flow::parse(subject)?, *delivered)));
    let given = consumers.iter().map(|old| (old.flow.clone(), old.delivered));
    let mut all = BTreeMap::new();
    for (flow, delivered) in noted.chain(given) {
        let until = all.entry(flow).or_insert(0);
        *until = delivered.max(*until);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn note_and_consumers_count_by_the_greater_of_both() {
        let flow = |name: &str| Flow::Raw(name.parse().expect("a type"));
        let old = |name: &str, delivered| OldConsumer { flow: flow(name), name: "old".into(), delivered };
        let noted = BTreeMap::from([(flow("a.b").subject(), 7), ("of.a.later.version".to_owned(), 9)]);
        assert_eq!(merged(&noted, &[]), [(flow("a.b"), 7)].into());
        assert_eq!(merged(&noted, &[old("a.c", 2), old("a.c", 1)]), [(flow("a.b"), 7), (flow("a.c"), 2)].into());
        assert_eq!(merged(&noted, &[old("a.b", 3)]), [(flow("a.b"), 7)].into(), "it appeared late");
        assert_eq!(merged(&noted, &[old("a.b", 9)]), [(flow("a.b"), 9)].into());
    }
}
