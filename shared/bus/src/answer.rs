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
/// too little of a resource (10023), a fault of the raft layer (10041), JetStream not enabled while it starts
/// (10076), stream full (10077), consumer or stream offline (10118, 10119), expected sequence of a subject that has
/// another publish under way (10164), too many requests (10167), memory and storage of the account (10028, 10047).
const TRANSIENT_CODES: &[u64] =
    &[10_008, 10_009, 10_023, 10_028, 10_041, 10_047, 10_076, 10_077, 10_118, 10_119, 10_164, 10_167];

/// The class of a refusal by the server's own code.
pub(crate) fn fault_of_code(code: u64) -> Fault {
    if TRANSIENT_CODES.contains(&code) { Fault::Transient } else { Fault::Final }
}

impl Error {
    /// The class of this error. What nobody can tell is [`Fault::Unknown`].
    pub fn fault(&self) -> Fault {
        match self {
            Self::Address { .. }
            | Self::Credentials { .. }
            | Self::Denied { .. }
            | Self::TooOld { .. }
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

/// The class that an error's causes tell, the first that tells one.
fn fault_of_sources(error: &(dyn std::error::Error + 'static)) -> Option<Fault> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(refused) = error.downcast_ref::<jetstream::Error>() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_final_unless_the_server_only_cannot_serve_them_now() {
        for code in [10_008, 10_009, 10_077, 10_118, 10_164] {
            assert_eq!(fault_of_code(code), Fault::Transient, "{code}");
        }
        for code in [0, 10_054, 10_060, 10_071, 10_099] {
            assert_eq!(fault_of_code(code), Fault::Final, "{code}");
        }
    }

    #[test]
    fn an_error_has_the_class_of_its_cause() {
        let read = |source| Error::Read { stream: "S".into(), what: "x".into(), source };
        let no_responders = async_nats::RequestError::new(RequestErrorKind::NoResponders);
        assert_eq!(read(Box::new(no_responders)).fault(), Fault::Transient);
        let timed_out = async_nats::RequestError::new(RequestErrorKind::TimedOut);
        assert_eq!(read(Box::new(timed_out)).fault(), Fault::Unknown);
        assert_eq!(read("no words".into()).fault(), Fault::Unknown);
        assert_eq!(Error::Refused { subject: "s".into(), source: "too large".into() }.fault(), Fault::Final);
    }
}
