//! A channel of the document: an address, who sends there, who receives, and what.

use super::streams::Storage;

/// A channel.
pub(super) struct Channel {
    /// Its name in the document.
    pub(super) name: &'static str,
    /// Its subject, with parameters.
    pub(super) address: fn() -> String,
    pub(super) title: &'static str,
    pub(super) text: &'static str,
    pub(super) messages: &'static [&'static str],
    pub(super) senders: &'static [&'static str],
    /// Empty where the server itself receives.
    pub(super) receivers: &'static [&'static str],
    pub(super) storage: Storage,
}
