//! What only our own processes read: bundles of tasks, completions as they are told, credit, progress. Flat types, one per version.

mod bundle;
mod credit;
mod told;

pub use bundle::{FrameError, bundle_message_id, decode_bundle, encode_bundle, frame_bytes, is_of_later_version};
pub use credit::{Credit, OfFit, RUNS_TOLD_MAX, Remaining, RunEnd, RunEnded};
pub(crate) use told::{TOLD_KIND, TOLD_VERSION};
pub use told::{TOLD_MAX, Told, ToldOne, encode_told, told_bytes};

use crate::codec::{self, Bincode, CodecError, Wire};
use crate::id::TaskId;
use crate::token::TaskType;
use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// A leader asks for a running task to yield at its next checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Yield {
    /// The task's type.
    pub task_type: TaskType,
    /// The task.
    pub id: TaskId,
    /// Which of its runs: an earlier or later one is not meant.
    pub run: u32,
}

impl Wire<'_> for Yield {
    const KIND: u8 = 4;
    const VERSION: u16 = 2;
}

impl Yield {
    /// Writes the frame.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode_frame::<Bincode, Self>(self)
    }

    /// Reads the frame.
    pub fn decode(frame: &[u8]) -> Result<Self, CodecError> {
        codec::decode_frame(frame)
    }
}

/// What a running task tells whoever listens.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Progress {
    /// 0 to 100.
    pub percent: u8,
    /// What it is doing.
    pub message: String,
    /// The attempt, from 1.
    pub attempt: u32,
}

impl Wire<'_> for Progress {
    const KIND: u8 = 3;
    const VERSION: u16 = 1;
}

impl Progress {
    /// Writes the frame.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode_frame::<Bincode, Self>(self)
    }

    /// Reads the frame.
    pub fn decode(frame: &[u8]) -> Result<Self, CodecError> {
        codec::decode_frame(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Json, decode_frame, encode_frame};
    use crate::{Admit, Callback, Hop, Micros, QueueName, TaskEvent};
    use proptest::prelude::*;

    fn task() -> TaskEvent {
        let mut task = TaskEvent::new(
            TaskId::generate(),
            TaskType::new("image.thumbnail").expect("valid"),
            QueueName::new("pictures").expect("valid"),
            Micros(1_700_000_000_000_000),
            br#"{"path":"a.png"}"#.to_vec(),
        );
        task.callbacks = vec![Callback::Webhook { endpoint: "gallery".into() }];
        task.parent = Some(TaskId::generate());
        task.checkpoint = Some(vec![1, 2, 3]);
        task.deadline = Some(Micros(1_700_000_001_000_000));
        task.headers = vec![("x-user".into(), "7".into())];
        task
    }

    #[test]
    fn a_bundle_comes_back_as_it_was_sent() {
        let tasks = vec![task(), task()];
        assert_eq!(decode_bundle(&encode_bundle(&tasks).expect("encodes")).expect("decodes"), tasks);
    }

    #[test]
    fn message_id_of_a_bundle_names_its_tasks_their_runs_and_their_order() {
        let (a, mut b) = (task(), task());
        let of = |tasks: &[&TaskEvent]| bundle_message_id(Hop::Lane, tasks.iter().copied());
        assert_eq!(of(&[&a]), a.message_id(Hop::Lane), "a bundle of one is that task's message");
        let both = of(&[&a, &b]);
        assert_eq!(both, of(&[&a, &b]));
        assert_ne!(both, of(&[&b, &a]));
        assert_ne!(both, bundle_message_id(Hop::Intake, [&a, &b].into_iter()));
        b.run += 1;
        assert_ne!(both, of(&[&a, &b]), "another run is another message");
        assert_ne!(of(&[&a, &b, &a]), of(&[&a, &b]));
    }

    #[test]
    fn message_ids_of_two_types_with_one_task_id_differ_at_every_hop() {
        let (first, other) = (task(), TaskEvent { task_type: "image.crop".parse().expect("valid"), ..task() });
        let other = TaskEvent { id: first.id.clone(), ..other };
        for hop in [Hop::Intake, Hop::Lane, Hop::Due] {
            assert_ne!(first.message_id(hop), other.message_id(hop));
            let of = |tasks: [&TaskEvent; 2]| bundle_message_id(hop, tasks.into_iter());
            assert_ne!(of([&first, &first]), of([&first, &other]));
            assert_ne!(of([&first, &first]), of([&other, &other]));
        }
    }

    #[test]
    fn task_submitted_again_later_has_the_same_message_id_at_the_intake_alone() {
        let first = task();
        let later = TaskEvent { submitted_at: Micros(first.submitted_at.0 + 1), ..first.clone() };
        assert_eq!(first.message_id(Hop::Intake), later.message_id(Hop::Intake));
        for hop in [Hop::Lane, Hop::Due] {
            assert_ne!(first.message_id(hop), later.message_id(hop));
        }
    }

    #[test]
    fn the_size_that_is_reckoned_with_is_about_that_of_the_frame() {
        let mut large = task();
        (large.payload, large.checkpoint) = (vec![b' '; 4_000], Some(vec![0; 500]));
        for tasks in [vec![task(); 128], vec![large]] {
            let reckoned: usize = tasks.iter().map(frame_bytes).sum();
            let frame = encode_bundle(&tasks).expect("encodes").len();
            assert!(frame <= reckoned + 256 && reckoned <= 2 * frame, "{reckoned} for {frame}");
        }
    }

    #[test]
    fn a_task_without_later_additions_is_written_as_before_and_one_with_them_comes_back() {
        assert_eq!(codec::version_of(&encode_bundle(&[task()]).expect("encodes")), Some(1));
        let mut more = task();
        more.needs.cpu_milli = 500;
        more.needs.labels = ["zone-a".to_owned()].into();
        (more.estimate_us, more.remaining_us, more.yields, more.admit) = (Some(7), Some(3), 2, Admit::Strict);
        let tasks = vec![task(), more];
        let frame = encode_bundle(&tasks).expect("encodes");
        assert_eq!(codec::version_of(&frame), Some(2));
        assert_eq!(decode_bundle(&frame).expect("decodes"), tasks);
    }

    #[test]
    fn both_codecs_are_read_by_the_byte_that_names_them() {
        let credit = Credit {
            executor: "e".into(),
            capacity: 4,
            taken: 9,
            settled: 7,
            fits: vec!["any".into()],
            ..Credit::default()
        };
        let json = encode_frame::<Json, _>(&credit).expect("encodes");
        let bincode = credit.encode().expect("encodes");
        assert_eq!(decode_frame::<Credit>(&json), Ok(credit.clone()));
        assert_eq!(decode_frame::<Credit>(&bincode), Ok(credit));
    }

    #[test]
    fn another_kind_version_codec_or_trailing_byte_is_refused() {
        let good = encode_bundle(&[task()]).expect("encodes");
        assert!(Credit::decode(&good).is_err());
        for (place, value) in [(0, b'X'), (2, 9), (3, 3), (5, 7)] {
            let mut bad = good.clone();
            bad[place] = value;
            assert!(decode_bundle(&bad).is_err(), "byte {place} was not checked");
        }
        let mut bad = good.clone();
        bad.push(0);
        assert!(decode_bundle(&bad).is_err(), "a trailing byte was accepted");
        assert!(decode_bundle(&good[..good.len() - 1]).is_err());
    }

    #[test]
    fn a_length_that_lies_allocates_nothing_and_is_refused() {
        let mut frame = b"JL\x01\x01\x00\x01".to_vec();
        // A vector of 2^63 tasks, by bincode's variable-length integers.
        frame.extend_from_slice(&[253, 0, 0, 0, 0, 0, 0, 0, 128]);
        assert!(decode_bundle(&frame).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(mut body in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut frame = b"JL\x01\x01\x00\x01".to_vec();
            frame.append(&mut body);
            let _bundle = decode_bundle(&frame);
            let _credit = Credit::decode(&frame[3..]);
        }
    }
}
