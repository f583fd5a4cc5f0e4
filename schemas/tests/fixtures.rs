//! What is kept in `fixtures/` is read as it says, and what is marked as written is written byte by byte.
//!
//! The files are never refreshed by a program: a new form of a message is a new file, and the old one
//! must still be read.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jetlane_schemas::frame::{Credit, Progress, decode_bundle, encode_bundle};
use jetlane_schemas::intake::{self, Message};
use jetlane_schemas::subject::{self, Flow, Lane};
use jetlane_schemas::{Completion, Failure, Headers, Micros, Outcome, TaskEvent, TypeEntry, header};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// One file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixture {
    name: String,
    kind: Kind,
    subject: String,
    headers: Vec<(String, String)>,
    body: Option<String>,
    body_base64: Option<String>,
    stream_sequence: u64,
    stored_at_us: Micros,
    type_entry: Option<TypeEntry>,
    #[serde(default)]
    written: bool,
    expect: Expect,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Submission,
    Completion,
    Frame,
}

/// What a message decodes to: exactly one of these, and beside a completion its failure.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Expect {
    task: Option<TaskEvent>,
    tasks: Option<Vec<TaskEvent>>,
    completion: Option<Completion>,
    failure: Option<Failure>,
    credit: Option<Credit>,
    progress: Option<Progress>,
    refusal: Option<Refusal>,
    unreadable: Option<Unreadable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refusal {
    option: String,
    reason_contains: String,
    id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unreadable {
    reason_contains: String,
}

/// What a message was found to be.
#[derive(Debug)]
enum Read {
    Task(Box<TaskEvent>),
    Refused(Box<intake::Refused>),
    Completion(Box<Completion>),
    Tasks(Vec<TaskEvent>),
    Credit(Credit),
    Progress(Progress),
    Unreadable(String),
}

impl Fixture {
    fn bytes(&self) -> Vec<u8> {
        match (&self.body, &self.body_base64) {
            (Some(text), None) => text.clone().into_bytes(),
            (None, Some(base64)) => STANDARD.decode(base64).expect("base64"),
            _ => panic!("{}: exactly one of body and body_base64", self.name),
        }
    }

    fn headers(&self) -> Headers {
        self.headers.clone().into()
    }

    fn read(&self) -> Read {
        match self.kind {
            Kind::Submission => self.read_submission(),
            Kind::Completion => match Completion::from_message(&self.subject, &self.headers(), &self.bytes()) {
                Ok(completion) => Read::Completion(Box::new(completion)),
                Err(error) => Read::Unreadable(error.to_string()),
            },
            Kind::Frame => self.read_frame(&self.bytes()),
        }
    }

    fn read_submission(&self) -> Read {
        let Some(Flow::Raw(task_type)) = Flow::parse(&self.subject) else { panic!("{}: not the open door", self.name) };
        let (headers, body) = (self.headers(), self.bytes());
        let message = Message {
            stream_sequence: self.stream_sequence,
            stored_at: self.stored_at_us,
            headers: &headers,
            body: &body,
        };
        let entry = self.type_entry.as_ref().expect("a submission has a type_entry");
        match intake::read(&task_type, entry, message, parse_time) {
            Ok(task) => Read::Task(Box::new(task)),
            Err(refused) => Read::Refused(Box::new(refused)),
        }
    }

    fn read_frame(&self, bytes: &[u8]) -> Read {
        let unreadable = |error: &dyn std::error::Error| Read::Unreadable(error.to_string());
        if Lane::parse(&self.subject).is_some() {
            decode_bundle(bytes).map_or_else(|e| unreadable(&e), Read::Tasks)
        } else if subject::parse_credit(&self.subject).is_some() {
            Credit::decode(bytes).map_or_else(|e| unreadable(&e), Read::Credit)
        } else {
            Progress::decode(bytes).map_or_else(|e| unreadable(&e), Read::Progress)
        }
    }
}

fn parse_time(text: &str) -> Option<Micros> {
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_microsecond()).ok().map(Micros)
}

fn fixtures() -> Vec<(String, Fixture)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder of fixtures")
        .map(|entry| entry.expect("readable").path())
        .collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let file = path.file_name().expect("a file").to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).expect("readable");
            let fixture = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
            (file, fixture)
        })
        .collect()
}

#[test]
fn every_fixture_is_read_as_it_says() {
    for (file, fixture) in fixtures() {
        let at = format!("{file}: {}", fixture.name);
        let expect = &fixture.expect;
        match fixture.read() {
            Read::Task(task) => assert_eq!(Some(&*task), expect.task.as_ref(), "{at}"),
            Read::Tasks(tasks) => assert_eq!(Some(&tasks), expect.tasks.as_ref(), "{at}"),
            Read::Credit(credit) => assert_eq!(Some(&credit), expect.credit.as_ref(), "{at}"),
            Read::Progress(progress) => assert_eq!(Some(&progress), expect.progress.as_ref(), "{at}"),
            Read::Completion(completion) => {
                assert_eq!(Some(&*completion), expect.completion.as_ref(), "{at}");
                assert_eq!(completion.failure(), expect.failure, "{at}");
            }
            Read::Refused(refused) => {
                let Some(wanted) = &expect.refusal else { panic!("{at}: refused: {}", refused.reason) };
                assert_eq!(refused.reason.option, wanted.option, "{at}: {}", refused.reason);
                assert!(refused.reason.reason.contains(&wanted.reason_contains), "{at}: {}", refused.reason);
                assert_eq!(refused.task.id.as_str(), wanted.id, "{at}");
            }
            Read::Unreadable(reason) => {
                let Some(wanted) = &expect.unreadable else { panic!("{at}: {reason}") };
                assert!(reason.contains(&wanted.reason_contains), "{at}: {reason}");
            }
        }
    }
}

#[test]
fn what_is_marked_as_written_is_written_byte_by_byte() {
    for (file, fixture) in fixtures().into_iter().filter(|(_, fixture)| fixture.written) {
        let expect = &fixture.expect;
        let written = match (&expect.completion, &expect.tasks, &expect.credit, &expect.progress) {
            (Some(completion), None, None, None) => {
                let time = fixture.headers().get(header::CE_TIME).unwrap_or_default().to_owned();
                assert_eq!(completion.headers(&time), fixture.headers(), "{file}");
                assert_eq!(subject::done(&completion.task_type, &completion.id), fixture.subject, "{file}");
                completion.body.clone()
            }
            (None, Some(tasks), None, None) => encode_bundle(tasks).expect("encodes"),
            (None, None, Some(credit), None) => credit.encode().expect("encodes"),
            (None, None, None, Some(progress)) => progress.encode().expect("encodes"),
            _ => panic!("{file}: only completions and frames are written"),
        };
        assert_eq!(STANDARD.encode(written), STANDARD.encode(fixture.bytes()), "{file}");
    }
}

#[test]
fn a_frame_cut_anywhere_or_with_a_byte_more_is_refused() {
    for (file, fixture) in fixtures().into_iter().filter(|(_, f)| f.kind == Kind::Frame && f.written) {
        let whole = fixture.bytes();
        for length in 0..whole.len() {
            let read = fixture.read_frame(&whole[..length]);
            assert!(matches!(read, Read::Unreadable(_)), "{file}: {length} of {} bytes passed", whole.len());
        }
        let longer = [whole.as_slice(), &[0]].concat();
        assert!(matches!(fixture.read_frame(&longer), Read::Unreadable(_)), "{file}: a byte more passed");
    }
}

/// Every option that the open door can refuse.
const REFUSABLE: [&str; 12] = [
    "callbacks",
    "cloudevent",
    "datacontenttype",
    "deadline",
    "delay",
    "headers",
    "key",
    "parent",
    "priority",
    "retries",
    "tenant",
    "timeout",
];

#[test]
fn every_outcome_every_refusal_and_every_frame_has_a_fixture() {
    let fixtures = fixtures();
    for outcome in Outcome::ALL {
        let found = fixtures
            .iter()
            .any(|(_, f)| f.written && f.expect.completion.as_ref().is_some_and(|c| c.outcome == outcome));
        assert!(found, "no completion that {outcome} is written");
    }
    let refused: BTreeSet<&str> =
        fixtures.iter().filter_map(|(_, f)| f.expect.refusal.as_ref()).map(|refusal| refusal.option.as_str()).collect();
    assert_eq!(refused, BTreeSet::from(REFUSABLE));
    for tasks in [1, 3] {
        assert!(fixtures.iter().any(|(_, f)| f.written && f.expect.tasks.as_ref().is_some_and(|t| t.len() == tasks)));
    }
    assert!(fixtures.iter().any(|(_, f)| f.written && f.expect.credit.is_some()));
    assert!(fixtures.iter().any(|(_, f)| f.written && f.expect.progress.is_some()));
}
