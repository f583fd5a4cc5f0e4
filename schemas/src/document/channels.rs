//! Every channel: its address, who sends, who receives, what. Addresses are built by [`crate::subject`]
//! from sample names, which then give way to parameters.

use super::channel::Channel;
use super::streams::{ADVISORIES, DEAD, DONE, LANES, Reader, Sample, Storage, TASKS, TIME};
use crate::TaskId;
use crate::options::{Priority, Shard};
use crate::subject::{self, LaneKind};
use crate::token::{Fit, QueueName, TaskType, Tenant};
use serde_json::{Value, json};

const ANYONE: &str = "any client";
const SDK: &str = "sdk";
const DISPATCHER: &str = "dispatcher";
const EXECUTOR: &str = "executor";
const CALLBACK: &str = "callback";
const OPERATORS: &str = "operators";

pub(super) const CHANNELS: &[Channel] = &[
    Channel {
        name: "submit",
        address: || template(&subject::submit(&sample_type())),
        title: "The open door",
        text: "Any NATS client submits a task of a type here; the publish ack means that it is accepted. A type that \
            nobody has announced waits.",
        messages: &["submission", "structuredCloudEvent"],
        senders: &[ANYONE],
        receivers: &[DISPATCHER],
        storage: Storage::Stream(&TASKS, Reader::Flow(Sample::Raw)),
    },
    Channel {
        name: "task",
        address: || template(&subject::task(&sample_queue(), Priority::High, sample_shard())),
        title: "The SDK's door",
        text: "Tasks whose id, queue and shard the SDK has decided before the first publish.",
        messages: &["bundle"],
        senders: &[SDK],
        receivers: &[DISPATCHER],
        storage: Storage::Stream(&TASKS, Reader::Flow(Sample::Task)),
    },
    Channel {
        name: "schedule",
        address: || template(&subject::schedule(&sample_queue(), &sample_id())),
        title: "What waits for its time",
        text: "Delays, retries and cron as message schedules of the server, one subject each. Purging the subject \
            cancels it.",
        messages: &["schedule"],
        senders: &[SDK, DISPATCHER, EXECUTOR],
        receivers: &[],
        storage: Storage::Stream(&TIME, Reader::Nobody),
    },
    Channel {
        name: "due",
        address: || template(&subject::due(&sample_queue(), Priority::High, sample_shard())),
        title: "What is due",
        text: "Where schedules fire, and where hand-backs, yields and retries due at once go.",
        messages: &["due"],
        senders: &["nats-server", DISPATCHER, EXECUTOR],
        receivers: &[DISPATCHER],
        storage: Storage::Stream(&TIME, Reader::Flow(Sample::Due)),
    },
    Channel {
        name: "lane",
        address: || template(&subject::lane(&sample_queue(), Priority::High, &sample_fit())),
        title: "A lane for any client",
        text: "One task a message, in JSON. A consumer service in any language pulls here.",
        messages: &["plainTask"],
        senders: &[DISPATCHER],
        receivers: &[ANYONE],
        storage: Storage::Stream(&LANES, Reader::Lane(LaneKind::Plain)),
    },
    Channel {
        name: "bundle",
        address: || template(&subject::bundle(&sample_queue(), Priority::High, &sample_fit())),
        title: "A lane for SDK executors",
        text: "1 to 128 framed tasks a message.",
        messages: &["bundle"],
        senders: &[DISPATCHER],
        receivers: &[EXECUTOR],
        storage: Storage::Stream(&LANES, Reader::Lane(LaneKind::Bundle)),
    },
    Channel {
        name: "done",
        address: || template(&subject::done(&sample_type(), &sample_id())),
        title: "Completions",
        text: "The one terminal event of a task. The id is the last token, the type all before it. Publish with the \
            expected last subject sequence 0: whoever is refused has lost and changes nothing.",
        messages: &["output", "failure"],
        senders: &[EXECUTOR, DISPATCHER, SDK, ANYONE],
        receivers: &[CALLBACK, ANYONE],
        storage: Storage::Stream(&DONE, Reader::Subscribers),
    },
    Channel {
        name: "told",
        address: || template(&subject::told(&sample_type())),
        title: "Completions as submitters are told of them",
        text: "Once they are stored, by whoever stored them; many in one message. Framed, for the SDK: others read `done`.",
        messages: &["told"],
        senders: &[EXECUTOR, DISPATCHER, SDK],
        receivers: &[SDK],
        storage: Storage::Core,
    },
    Channel {
        name: "stored",
        address: || template(&subject::stored(&sample_type(), &sample_id())),
        title: "Completions as they are stored",
        text: "The server tells every stored completion again: what is heard here has won. For whoever waits now; \
            whoever must not miss any reads `done`. Only where the streams' settings say so (`done_republished`).",
        messages: &["output", "failure"],
        senders: &["nats-server"],
        receivers: &[ANYONE],
        storage: Storage::Core,
    },
    Channel {
        name: "dead",
        address: || template(&subject::dead(&sample_queue(), &sample_type(), &sample_id())),
        title: "Dead letters",
        text: "Tasks that used up their attempts or were rejected, with everything needed to send them again.",
        messages: &["deadLetter"],
        senders: &[EXECUTOR, DISPATCHER],
        receivers: &[OPERATORS],
        storage: Storage::Stream(&DEAD, Reader::Nobody),
    },
    Channel {
        name: "scheduledCallback",
        address: || template(&subject::schedule_callback(&sample_id(), SAMPLE_INDEX)),
        title: "Callbacks that wait for another delivery",
        text: "A message schedule of the server; one subject a callback.",
        messages: &["scheduledCallback"],
        senders: &[CALLBACK],
        receivers: &[],
        storage: Storage::Stream(&TIME, Reader::Nobody),
    },
    Channel {
        name: "callback",
        address: || template(&subject::callback(&sample_type(), &sample_id(), SAMPLE_INDEX)),
        title: "Callbacks that are due once more",
        text: "The first delivery is made from `done`; where it fails, the callback is scheduled and fires here.",
        messages: &["callback"],
        senders: &["nats-server"],
        receivers: &[CALLBACK],
        storage: Storage::Stream(&TIME, Reader::Subscribers),
    },
    Channel {
        name: "deadCallback",
        address: || template(&subject::dead_callback(&sample_type(), &sample_id(), SAMPLE_INDEX)),
        title: "Dead letters of callbacks",
        text: "Callbacks that were given up: nobody took them, or nobody may be sent them.",
        messages: &["deadCallback"],
        senders: &[CALLBACK],
        receivers: &[OPERATORS],
        storage: Storage::Stream(&DEAD, Reader::Nobody),
    },
    Channel {
        name: "maxDeliveries",
        address: || subject::MAX_DELIVERIES_ALL.replace('>', "{consumer}"),
        title: "Advisories: deliveries used up",
        text: "A message of a lane was delivered as often as its consumer allows, so its task must be ended.",
        messages: &["advisory"],
        senders: &["nats-server"],
        receivers: &[DISPATCHER],
        storage: Storage::Stream(&ADVISORIES, Reader::Subscribers),
    },
    Channel {
        name: "terminated",
        address: || subject::TERMINATED_ALL.replace('>', "{consumer}"),
        title: "Advisories: terminated",
        text: "A client terminated a message of a lane, so its task must be ended.",
        messages: &["advisory"],
        senders: &["nats-server"],
        receivers: &[DISPATCHER],
        storage: Storage::Stream(&ADVISORIES, Reader::Subscribers),
    },
    Channel {
        name: "credit",
        address: || template(&subject::credit(&sample_queue())),
        title: "Credit",
        text: "Executors tell the leader of their queue how many tasks they can take.",
        messages: &["credit"],
        senders: &[EXECUTOR],
        receivers: &[DISPATCHER],
        storage: Storage::Core,
    },
    Channel {
        name: "wanted",
        address: || template(&subject::credit_wanted(&sample_queue())),
        title: "Credit wanted",
        text: "A new leader asks the executors of a queue to tell their credit now.",
        messages: &["wanted"],
        senders: &[DISPATCHER],
        receivers: &[EXECUTOR],
        storage: Storage::Core,
    },
    Channel {
        name: "ask",
        address: || template(&subject::ask(&sample_queue())),
        title: "Questions to a leader",
        text: "Why a task waits, and when one would start: request and reply.",
        messages: &["question"],
        senders: &[SDK, ANYONE],
        receivers: &[DISPATCHER],
        storage: Storage::Core,
    },
    Channel {
        name: "yield",
        address: || template(&subject::yield_wanted(&sample_queue())),
        title: "Yield wanted",
        text: "A leader asks for a running task to stop at its next checkpoint, so that a much shorter one runs.",
        messages: &["yield"],
        senders: &[DISPATCHER],
        receivers: &[EXECUTOR],
        storage: Storage::Core,
    },
    Channel {
        name: "progress",
        address: || template(&subject::progress(&sample_id())),
        title: "Progress",
        text: "What a running task tells whoever listens.",
        messages: &["progress"],
        senders: &[EXECUTOR],
        receivers: &[SDK],
        storage: Storage::Core,
    },
    Channel {
        name: "cancel",
        address: || template(&subject::cancel(&sample_id())),
        title: "Cancel",
        text: "Reaches a running handler after the cancelled completion is stored.",
        messages: &["cancel"],
        senders: &[SDK],
        receivers: &[EXECUTOR],
        storage: Storage::Core,
    },
    Channel {
        name: "types",
        address: || kv(subject::BUCKET_REGISTRY, &subject::registry_type(&sample_type())),
        title: "Registry: task types",
        text: "What is known of a type. It stays known when no executor runs.",
        messages: &["typeEntry"],
        senders: &[EXECUTOR, ANYONE],
        receivers: &[DISPATCHER, SDK],
        storage: Storage::Bucket(subject::BUCKET_REGISTRY, "Kept until deleted."),
    },
    Channel {
        name: "estimates",
        address: || kv(subject::BUCKET_REGISTRY, &subject::registry_estimate(&sample_type())),
        title: "Registry: run times",
        text: "What is known of a type's run times, learned from its runs.",
        messages: &["estimateEntry"],
        senders: &[DISPATCHER],
        receivers: &[DISPATCHER, SDK],
        storage: Storage::Bucket(subject::BUCKET_REGISTRY, "Kept until deleted."),
    },
    Channel {
        name: "queues",
        address: || kv(subject::BUCKET_REGISTRY, &subject::registry_queue(&sample_queue())),
        title: "Registry: queues",
        text: "What is known of a queue.",
        messages: &["queueEntry"],
        senders: &[EXECUTOR, ANYONE],
        receivers: &[DISPATCHER],
        storage: Storage::Bucket(subject::BUCKET_REGISTRY, "Kept until deleted."),
    },
    Channel {
        name: "shards",
        address: || {
            let key = subject::registry_shard(&sample_queue(), &Tenant::default());
            let (place, _hash) = key.rsplit_once('.').expect("a key of three tokens");
            kv(subject::BUCKET_REGISTRY, place) + ".{tenantHash}"
        },
        title: "Registry: shards of tenants",
        text: "A tenant's own shard in a queue; the key ends with 32 hex digits of SHA-256 over the tenant.",
        messages: &["shardEntry"],
        senders: &[DISPATCHER],
        receivers: &[SDK],
        storage: Storage::Bucket(subject::BUCKET_REGISTRY, "Kept until deleted."),
    },
    Channel {
        name: "shared",
        address: || kv(subject::BUCKET_REGISTRY, &subject::registry_shared(&sample_queue())),
        title: "Registry: shared shards",
        text: "The shards of a queue that tenants without one of their own share.",
        messages: &["sharedEntry"],
        senders: &[DISPATCHER],
        receivers: &[SDK],
        storage: Storage::Bucket(subject::BUCKET_REGISTRY, "Kept until deleted."),
    },
    Channel {
        name: "leases",
        address: || kv(subject::BUCKET_LEASES, &subject::lease_queue(&sample_queue())),
        title: "Leases",
        text: "One leader a queue, for order, not for safety.",
        messages: &["lease"],
        senders: &[DISPATCHER],
        receivers: &[DISPATCHER],
        storage: Storage::Bucket(subject::BUCKET_LEASES, "Lives 1 s after its last renewal."),
    },
    Channel {
        name: "notes",
        address: || kv(subject::BUCKET_NOTES, &subject::note_cancelled(&sample_id())),
        title: "Notes on cancelled tasks",
        text: "Watched by dispatchers.",
        messages: &["note"],
        senders: &[SDK],
        receivers: &[DISPATCHER],
        storage: Storage::Bucket(subject::BUCKET_NOTES, "Kept for 2 h."),
    },
    Channel {
        name: "checkpoints",
        address: || kv(subject::BUCKET_NOTES, &subject::note_checkpoint(&sample_id())),
        title: "Checkpoints of running tasks",
        text: "What a running task has saved, so that a later run resumes.",
        messages: &["checkpoint"],
        senders: &[EXECUTOR],
        receivers: &[EXECUTOR],
        storage: Storage::Bucket(subject::BUCKET_NOTES, "Kept for 2 h."),
    },
];

const TYPE: &str = "image.thumbnail";
const QUEUE: &str = "pictures";
const PRIORITY: &str = "high";
const SHARD: &str = "8";
const FIT: &str = "gpu";
const ID: &str = "0190b8f27c1e70008000000000000001";
const INDEX: &str = "7";
const SAMPLE_INDEX: usize = 7;

fn sample_type() -> TaskType {
    TaskType::new(TYPE).expect("a valid name")
}

fn sample_queue() -> QueueName {
    QueueName::new(QUEUE).expect("a valid name")
}

fn sample_shard() -> Shard {
    Shard::new(8).expect("a valid shard")
}

fn sample_fit() -> Fit {
    Fit::new(FIT).expect("a valid name")
}

fn sample_id() -> TaskId {
    TaskId::new(ID).expect("a valid id")
}

/// The parameters of addresses.
pub(super) fn parameters() -> Vec<(String, Value)> {
    let parameter = |name: &str, text: &str, example: &str| {
        (name.to_owned(), json!({ "description": text, "examples": [example] }))
    };
    let (mut priority, shard) = (
        parameter("priority", "How urgent.", PRIORITY),
        parameter("shard", "Where the tenant's tasks stand in line: 0 to 63.", SHARD),
    );
    priority.1["enum"] = json!(Priority::ALL.map(Priority::as_str));
    vec![
        parameter("type", "The task type: 1 to 6 tokens of [A-Za-z0-9_-]{1,64}, joined by dots.", TYPE),
        parameter("queue", "The queue: one token of [A-Za-z0-9_-]{1,64}.", QUEUE),
        priority,
        shard,
        parameter("fit", "The class of needs: one token, `any` unless a task states needs.", FIT),
        parameter("index", "The callback's place among those of its task, from 0.", INDEX),
        parameter("id", "The task's id: one token of [A-Za-z0-9_-]{1,64}.", ID),
        parameter(
            "tenantHash",
            "The first 16 bytes of SHA-256 over the tenant, in hex.",
            "00000000000000000000000000000000",
        ),
        parameter("consumer", "The lane's consumer.", "lane-pictures-high-gpu"),
    ]
}

fn kv(bucket: &str, key: &str) -> String {
    template(&subject::kv(bucket, key))
}

/// Puts parameters in the place of the samples.
fn template(subject: &str) -> String {
    let mut address = format!("{subject}.");
    for (name, sample) in [
        ("type", TYPE),
        ("queue", QUEUE),
        ("priority", PRIORITY),
        ("shard", SHARD),
        ("fit", FIT),
        ("id", ID),
        ("index", INDEX),
    ] {
        address = address.replace(&format!(".{sample}."), &format!(".{{{name}}}."));
    }
    address.trim_end_matches('.').to_owned()
}
