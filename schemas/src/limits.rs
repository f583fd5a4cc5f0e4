//! Every bound of the wire, named, with its reason.

/// The longest token of a subject, in bytes.
pub const TOKEN_BYTES_MAX: usize = 64;
/// The longest name of a consumer that the server takes, in bytes.
pub const CONSUMER_BYTES_MAX: usize = 255;
/// The longest task type, in bytes: the consumers of its flow and of its callbacks are named by it, with an epoch.
pub const TYPE_BYTES_MAX: usize = 200;
/// The most tokens in a task type.
pub const TYPE_TOKENS_MAX: usize = 6;
/// The longest tenant name, key or size key, in bytes. They never become part of a subject.
pub const NAME_BYTES_MAX: usize = 256;
/// The largest body by default: the server's default `max_payload` (1 MiB) less what a hop adds.
pub const BODY_BYTES_MAX: usize = 768 * 1024;
/// What `max_payload` keeps free for headers and frame (design, decision 11).
pub const HOP_OVERHEAD_BYTES: usize = 64 * 1024;
/// The longest chain of errors in a completion, in bytes; cut visibly beyond it.
pub const ERROR_BYTES_MAX: usize = 16 * 1024;
/// The most headers of its own that a task may carry.
pub const HEADERS_MAX: usize = 32;
/// All headers of a task together, names and values, in bytes.
pub const HEADER_BYTES_MAX: usize = 16 * 1024;
/// The longest `baggage` that is carried, in bytes: what W3C Baggage asks of everybody (3.3.1).
pub const BAGGAGE_BYTES_MAX: usize = 8_192;
/// The most members of a `baggage` that are carried (3.3.1).
pub const BAGGAGE_MEMBERS_MAX: usize = 64;
/// The most callbacks of one task.
pub const CALLBACKS_MAX: usize = 8;
/// The largest checkpoint, in bytes: it rides along with the body inside one message.
pub const CHECKPOINT_BYTES_MAX: usize = 32 * 1024;
/// The largest frame that is decoded: body, checkpoint, headers and their lengths.
pub const FRAME_BYTES_MAX: usize = BODY_BYTES_MAX + 4 * HOP_OVERHEAD_BYTES;
/// The most tasks in one bundle (design, decision 15).
pub const BUNDLE_TASKS_MAX: usize = 128;
/// The most retries that a type or a submitter may ask for.
pub const RETRIES_MAX: u32 = 100;
/// The longest run of one attempt, in milliseconds: one day.
pub const TIMEOUT_MS_MAX: u64 = 24 * 60 * 60 * 1000;
/// The longest delay before a task is due, in milliseconds: one year.
pub const DELAY_MS_MAX: u64 = 365 * 24 * 60 * 60 * 1000;
/// The most types that the registry takes, by announcement or by `jetlane types set`. The dispatcher learns run times
/// of as many; each costs it a compiled schema, and one that plain clients submit a consumer besides.
pub const TYPES_MAX: usize = 4_096;
/// The most queues that the registry takes. Each that is led costs three writes of its lease a second and a consumer a
/// lane, whether it has work or not.
pub const QUEUES_MAX: usize = 1_024;
