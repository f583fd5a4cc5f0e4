//! Bugs that are planted on purpose: a simulation that does not find them proves nothing.

/// A planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutant {
    /// The dispatcher acks a source before its task is published.
    AckBeforePublish,
    /// Publishes carry no message id.
    NoMessageId,
    /// A second completion is stored.
    NoExpectedSequence,
    /// A refused completion is not read back.
    NoReadBack,
    /// Whoever's completion is stored counts as one's own.
    TokenNotCompared,
    /// A suspect task is not looked up in DONE.
    SuspectsNotLookedUp,
    /// An executor acts although its lease is over.
    LeaseNotChecked,
    /// The window of message ids is shorter than the gap between two sends.
    DedupWindowShort,
    /// The leader takes what an executor has settled off its ledger twice.
    CreditCountedTwice,
    /// A new leader reads how far the old one had read without pausing its consumers.
    TakeOverWithoutPause,
    /// A message with several tasks is acked when the first of them is settled.
    BundleSettledAtFirst,
    /// Callbacks are stored after the ack.
    CallbacksAfterAck,
    /// No responders is final after the second send.
    NoRespondersFinal,
    /// An executor forgets a cancellation of a task that it does not run.
    CancelNotRemembered,
    /// No mark is stored before a task without retries begins.
    BeginNotMarked,
    /// Every delivery spends an attempt.
    DeliveryIsAttempt,
    /// A redelivery of what an executor holds is opened as another run.
    RedeliveryNotAdopted,
    /// The next run is stored after the ack.
    NextRunAfterAck,
    /// A held message that is delivered again is acked as a copy.
    HeldTakenForCopy,
    /// A second message with a key is dispatched while the first waits or runs.
    KeyNotClaimed,
    /// The dead letter is left out when the completion was stored by an earlier send.
    DeadLetterForgotten,
    /// A task that may have begun is ended because its deadline has passed.
    SuspectExpired,
    /// The next run is not looked up before it begins.
    NextRunTrusted,
    /// A begin mark counts for the run that it names alone.
    MarkOfOneRun,
    /// A task that is given up because its lease is over counts as settled.
    GivenUpIsSettled,
    /// A marked run whose handler has answered counts as begun for good.
    MarkNotMovedOn,
    /// What a leader read before it lost its lease is dispatched by its successor as if nobody had.
    TakeOverTrustsAll,
    /// A new leader deletes the consumers of the old one without noting what they were given.
    TakeOverNotNoted,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 28] = [
        Self::AckBeforePublish,
        Self::NoMessageId,
        Self::NoExpectedSequence,
        Self::NoReadBack,
        Self::TokenNotCompared,
        Self::SuspectsNotLookedUp,
        Self::LeaseNotChecked,
        Self::DedupWindowShort,
        Self::CreditCountedTwice,
        Self::TakeOverWithoutPause,
        Self::BundleSettledAtFirst,
        Self::CallbacksAfterAck,
        Self::NoRespondersFinal,
        Self::CancelNotRemembered,
        Self::BeginNotMarked,
        Self::DeliveryIsAttempt,
        Self::RedeliveryNotAdopted,
        Self::NextRunAfterAck,
        Self::HeldTakenForCopy,
        Self::KeyNotClaimed,
        Self::DeadLetterForgotten,
        Self::SuspectExpired,
        Self::NextRunTrusted,
        Self::MarkOfOneRun,
        Self::GivenUpIsSettled,
        Self::MarkNotMovedOn,
        Self::TakeOverTrustsAll,
        Self::TakeOverNotNoted,
    ];
}

/// What is planted in a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mutants(Option<Mutant>);

impl Mutants {
    /// Nothing: the code as it is.
    pub const NONE: Self = Self(None);

    /// One bug.
    pub fn one(mutant: Mutant) -> Self {
        Self(Some(mutant))
    }

    /// Whether this bug is planted.
    pub fn has(self, mutant: Mutant) -> bool {
        self.0 == Some(mutant)
    }
}
