//! How many tasks a message may carry: told to dispatcher and submitter, and what of it the floor gets.

use jetlane::Client;
use jetlane_dispatcher::Config;

/// The bytes that a bundle has room for, whatever its tasks (design, decision 15).
const BUNDLE_BYTES_MAX: usize = 64 << 10;

/// The most tasks of one message; 1 for no bundles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BundleMax(pub(super) usize);

impl BundleMax {
    /// No bundles.
    pub(super) const OFF: Self = Self(1);

    /// Bounds what the dispatcher puts into one message.
    pub(super) fn apply_to_dispatcher(self, config: &mut Config) {
        config.bundle_max = self.0;
    }

    /// Bounds what a submitter puts into one message.
    pub(super) fn apply_to_client(self, client: Client) -> Client {
        client.bundle_at_most(self.0)
    }

    /// The same for a dispatcher that is a process of its own.
    pub(super) fn variables(self) -> Vec<(&'static str, String)> {
        vec![("JETLANE_DISPATCHER_BUNDLE_MAX", self.0.to_string())]
    }

    /// The bundle of a bare loop with bodies of this length: as large as the pipeline's may be.
    pub(super) fn of_floor(self, body_bytes: usize) -> usize {
        self.0.min(BUNDLE_BYTES_MAX / body_bytes.max(1)).max(1)
    }

    /// Whether there are bundles at all.
    pub(super) fn is_on(self) -> bool {
        self != Self::OFF
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floors_bundle_is_bounded_by_bytes_as_the_pipelines_is() {
        let all = [200, 4_096, 64 << 10, 700_000].map(|body_bytes| BundleMax(128).of_floor(body_bytes));
        assert_eq!(all, [128, 16, 1, 1]);
        assert_eq!(BundleMax::OFF.of_floor(200), 1);
    }
}
