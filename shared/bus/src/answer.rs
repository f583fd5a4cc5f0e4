//! The class of a broker's answer. Decided here alone, so that every caller waits out the same faults and gives up
//! on the same ones (docs/guarantees.md, "Answers of the broker").

use crate::error::Error;
use async_nats::RequestErrorKind;
use async_nats::jetstream;

/// What a failed request means for whoever made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It was not carried out, and the same request may succeed later: an election, a restart, a full stream.
    Transient,
    /// It may have been carried out: the same bytes may be sent again under the same id.
    Unknown,
    /// The same request fails the same way for ever.
    Final,
}

/// Codes with which the server says that it cannot serve a request now: no meta leader (10008), not the leader (10009),
/// not assigned yet (10007), answers incomplete (10004), resources (10002, 10023, 10028, 10047), a fault of the raft
/// layer (10041), JetStream not enabled while it starts (10076), stream full (10077), stream or consumer offline (10118,
/// 10119, 10194, 10195), the same id under way (10158), another publish to the subject under way (10163, 10164), too
/// many requests (10167). From the server's errors.json, 2.15.1.
const TRANSIENT_CODES: &[u64] = &[
    10_002, 10_004, 10_007, 10_008, 10_009, 10_023, 10_028, 10_041, 10_047, 10_076, 10_077, 10_118, 10_119, 10_158,
    10_163, 10_164, 10_167, 10_194, 10_195,
];
/// Below this a code is a status as HTTP has it: all that the server says where it has no code of its own.
const OWN_CODES: u64 = 1_000;
/// From here on a status says that the server is at fault, and not the request.
const SERVER_FAULTS: u64 = 500;

/// The class of a refusal by the server's own code, or by its status where there is no code.
pub(crate) fn fault_of_code(code: u64) -> Fault {
    let is_transient = match code {
        ..OWN_CODES => code >= SERVER_FAULTS,
        OWN_CODES.. => TRANSIENT_CODES.contains(&code),
    };
    if is_transient { Fault::Transient } else { Fault::Final }
}

impl Error {
    /// The class of this error. What nobody can tell is [`Fault::Unknown`].
    pub fn fault(&self) -> Fault {
        match self {
            Self::Address { .. }
            | Self::Credentials { .. }
            | Self::Denied { .. }
            | Self::TooOld { .. }
            | Self::RegistryFull { .. }
            | Self::Frame { .. }
            | Self::Refused { .. } => Fault::Final,
            Self::Connect { .. } | Self::NoJetStream { .. } => Fault::Transient,
            Self::Publish { .. }
            | Self::Bundle { .. }
            | Self::Ensure { .. }
            | Self::Consumer { .. }
            | Self::Send { .. }
            | Self::Subscribe { .. }
            | Self::Read { .. }
            | Self::Delete { .. }
            | Self::Kv { .. } => fault_of_sources(self).unwrap_or(Fault::Unknown),
        }
    }
}

impl Error {
    /// Whether a consumer could not be made because another one reads its messages.
    pub fn is_overlap(&self) -> bool {
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            if let Some(refused) = refusal(error) {
                return refused.error_code() == jetstream::ErrorCode::CONSUMER_WQ_CONSUMER_NOT_UNIQUE;
            }
            cause = error.source();
        }
        false
    }
}

/// The class that an error's causes tell, the first that tells one.
fn fault_of_sources(error: &(dyn std::error::Error + 'static)) -> Option<Fault> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(refused) = refusal(error) {
            return Some(fault_of_code(refused.error_code().0));
        }
        if let Some(request) = error.downcast_ref::<async_nats::RequestError>() {
            return Some(match request.kind() {
                RequestErrorKind::NoResponders => Fault::Transient,
                RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded => Fault::Final,
                RequestErrorKind::TimedOut | RequestErrorKind::Other => Fault::Unknown,
            });
        }
        cause = error.source();
    }
    None
}

/// The server's refusal in an error of the client library, which keeps it in the kind and not among the sources.
fn refusal(error: &(dyn std::error::Error + 'static)) -> Option<jetstream::Error> {
    macro_rules! first {
        ($($error:ty => $kind:path),+ $(,)?) => {
            $(if let Some(error) = error.downcast_ref::<$error>() {
                return match error.kind() {
                    $kind(refused) => Some(refused),
                    _ => None,
                };
            })+
        };
    }
    first! {
        jetstream::context::GetStreamError => jetstream::context::GetStreamErrorKind::JetStream,
        jetstream::context::CreateStreamError => jetstream::context::CreateStreamErrorKind::JetStream,
        jetstream::stream::ConsumerError => jetstream::stream::ConsumerErrorKind::JetStream,
        jetstream::stream::LastRawMessageError => jetstream::stream::LastRawMessageErrorKind::JetStream,
        jetstream::stream::DeleteMessageError => jetstream::stream::DeleteMessageErrorKind::JetStream,
        jetstream::stream::PurgeError => jetstream::stream::PurgeErrorKind::JetStream,
    }
    error.downcast_ref::<jetstream::Error>().cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_final_unless_the_server_only_cannot_serve_them_now() {
        // 503 alone: "raft: not leader" has no code of its own.
        for code in [503, 10_008, 10_009, 10_077, 10_118, 10_158, 10_164] {
            assert_eq!(fault_of_code(code), Fault::Transient, "{code}");
        }
        for code in [0, 400, 10_054, 10_060, 10_071, 10_099] {
            assert_eq!(fault_of_code(code), Fault::Final, "{code}");
        }
    }

    #[test]
    fn an_error_has_the_class_of_its_cause() {
        let read = |source| Error::Read { stream: "S".into(), what: "x".into(), source };
        let no_responders = async_nats::RequestError::new(RequestErrorKind::NoResponders);
        assert_eq!(read(Box::new(no_responders)).fault(), Fault::Transient);
        let code = serde_json::json!({ "code": 500, "err_code": 10_118, "description": "stream is offline" });
        let offline: jetstream::Error = serde_json::from_value(code).expect("as the server writes it");
        let kept_in_kind =
            jetstream::context::GetStreamError::new(jetstream::context::GetStreamErrorKind::JetStream(offline));
        assert_eq!(read(Box::new(kept_in_kind)).fault(), Fault::Transient);
        let timed_out = async_nats::RequestError::new(RequestErrorKind::TimedOut);
        assert_eq!(read(Box::new(timed_out)).fault(), Fault::Unknown);
        assert_eq!(read("no words".into()).fault(), Fault::Unknown);
        assert_eq!(Error::Refused { subject: "s".into(), source: "too large".into() }.fault(), Fault::Final);
    }
}
