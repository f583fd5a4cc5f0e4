//! Bugs that are planted in the product on purpose: a fault suite that does not find them proves nothing.
//!
//! A place in the product names its bug in one line, `if mutant!(AckBeforePublish) { .. }` or
//! `mutant!(AckBeforePublish => { .. })`. Without the feature `mutants` the first is the literal `false` and the second
//! is nothing, so neither leaves code behind. With it, the variable `JETLANE_MUTANT` says at the start of a process which one
//! of them is alive.

/// The variable that names the planted bug of a process.
#[cfg(feature = "mutants")]
pub const VARIABLE: &str = "JETLANE_MUTANT";

/// How long a bug that does two things in the wrong order pauses between them: a fault hits the gap for certain.
#[cfg(feature = "mutants")]
pub const GAP: std::time::Duration = std::time::Duration::from_secs(2);

/// Whether a planted bug is alive, or what it does.
#[cfg(feature = "mutants")]
#[macro_export]
macro_rules! mutant {
    ($name:ident) => {
        $crate::is_planted($crate::Mutant::$name)
    };
    ($name:ident => $bug:block) => {
        if $crate::is_planted($crate::Mutant::$name) $bug
    };
}

/// Whether a planted bug is alive, or what it does: never, and nothing.
#[cfg(not(feature = "mutants"))]
#[macro_export]
macro_rules! mutant {
    ($name:ident) => {
        false
    };
    ($name:ident => $bug:block) => {};
}

#[cfg(feature = "mutants")]
mod planted {
    use crate::VARIABLE;
    use std::sync::LazyLock;

    /// A planted bug.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum Mutant {
        /// The dispatcher acks a message before its tasks are in their lane.
        AckBeforePublish,
        /// Publishes carry no message id.
        NoMessageId,
        /// A second completion of a task is stored.
        NoExpectedSequence,
        /// A completion that was refused is not read back: it counts as another's.
        NoReadBack,
        /// Whoever's completion is stored counts as one's own.
        RunTokenNotCompared,
        /// What may have run is not looked up before it runs.
        SuspectsNotLookedUp,
        /// An executor acts although its lease is over.
        LeaseNotChecked,
        /// Streams forget message ids sooner than publishes are sent again.
        DedupWindowTooShort,
        /// The leader adds the room that an executor reports to what the same executor reported before.
        CreditCountedTwice,
        /// A new leader reads how far the old one had read without pausing its consumers.
        TakeOverWithoutPause,
        /// A message with several tasks is acked when the first of them is settled.
        BundleSettledAtFirst,
        /// Callbacks are stored after the ack of their task.
        CallbacksAfterAck,
        /// That nobody answers for a subject is final.
        NoRespondersFinal,
        /// Who was told of a cancellation forgets it.
        CancelNotRemembered,
        /// What a handler returned is given up while DONE is full.
        ResultDroppedWhileFull,
    }

    impl Mutant {
        /// All of them.
        pub const ALL: [Self; 15] = [
            Self::AckBeforePublish,
            Self::NoMessageId,
            Self::NoExpectedSequence,
            Self::NoReadBack,
            Self::RunTokenNotCompared,
            Self::SuspectsNotLookedUp,
            Self::LeaseNotChecked,
            Self::DedupWindowTooShort,
            Self::CreditCountedTwice,
            Self::TakeOverWithoutPause,
            Self::BundleSettledAtFirst,
            Self::CallbacksAfterAck,
            Self::NoRespondersFinal,
            Self::CancelNotRemembered,
            Self::ResultDroppedWhileFull,
        ];

        /// Its name, as `JETLANE_MUTANT` gives it: `ack-before-publish`.
        pub fn name(self) -> String {
            let mut name = String::new();
            for letter in format!("{self:?}").chars() {
                if letter.is_ascii_uppercase() && !name.is_empty() {
                    name.push('-');
                }
                name.push(letter.to_ascii_lowercase());
            }
            name
        }
    }

    static PLANTED: LazyLock<Option<Mutant>> = LazyLock::new(|| {
        let wanted = std::env::var(VARIABLE).ok()?;
        let found = Mutant::ALL.into_iter().find(|mutant| mutant.name() == wanted);
        assert!(found.is_some(), "{VARIABLE} names no planted bug: {wanted}");
        found
    });

    /// Whether this bug is alive in this process.
    pub fn is_planted(mutant: Mutant) -> bool {
        *PLANTED == Some(mutant)
    }
}

#[cfg(feature = "mutants")]
pub use planted::{Mutant, is_planted};

#[cfg(all(test, feature = "mutants"))]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_variants_in_small_letters() {
        assert_eq!(Mutant::AckBeforePublish.name(), "ack-before-publish");
        assert!(Mutant::ALL.into_iter().all(|mutant| !is_planted(mutant)));
    }
}

#[cfg(all(test, not(feature = "mutants")))]
mod tests {
    #[test]
    fn without_the_feature_a_planted_bug_is_no_code() {
        const ALIVE: bool = crate::mutant!(AckBeforePublish);
        const { assert!(!ALIVE) };
        crate::mutant!(NameOfNothing => { compile_error!("never expanded") });
    }
}
