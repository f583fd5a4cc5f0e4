//! Patterns over names of the contract, and the server's own subjects that the dispatcher listens to.

use jetlane_schemas::subject::{Lane, STREAM_LANES};

/// Where the clients of a lane ask the server for its next messages.
pub(crate) fn pulls_of(lane: &Lane) -> String {
    format!("$JS.API.CONSUMER.MSG.NEXT.{STREAM_LANES}.{}", lane.consumer())
}

/// Where the clients of a lane answer its messages.
pub(crate) fn answers_of(lane: &Lane) -> String {
    format!("$JS.ACK.{STREAM_LANES}.{}.>", lane.consumer())
}

/// Whether an answer may be sent there: whoever asks must not make the dispatcher publish where only it may,
/// into the pipeline or to the server.
pub(crate) fn may_be_answered(reply: &str) -> bool {
    !reply.starts_with('$') && reply.split('.').next() != Some("jetlane")
}

/// The stream sequence of the message that an answer is for:
/// `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>...`.
pub(crate) fn answered_sequence(subject: &str) -> Option<u64> {
    subject.split('.').nth(5)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetlane_schemas::subject::LaneKind;
    use jetlane_schemas::{Fit, Priority, QueueName};

    #[test]
    fn no_answer_goes_into_the_pipeline_or_to_the_server() {
        assert!(may_be_answered("_INBOX.x.1") && may_be_answered("mine.answers"));
        let credit = jetlane_schemas::subject::credit(&QueueName::default_queue());
        for bad in [credit.as_str(), "$JS.API.INFO", "jetlane"] {
            assert!(!may_be_answered(bad), "{bad}");
        }
    }

    #[test]
    fn an_answer_tells_the_sequence_of_its_message() {
        let queue = QueueName::new("pictures").expect("valid");
        let lane = Lane { kind: LaneKind::Plain, queue, priority: Priority::Normal, fit: Fit::default() };
        let subject = answers_of(&lane).replace('>', "2.31.7.1700000000000000000.4");
        assert_eq!(answered_sequence(&subject), Some(31));
        assert_eq!(answered_sequence("$JS.ACK"), None);
    }
}
