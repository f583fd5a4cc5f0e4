//! Streams and buckets that are deleted under a running dispatcher, one by one or with all of the server's data:
//! noticed, and made anew.

use crate::config::Config;
use jetlane_bus::topology::{Births, Drift};
use jetlane_bus::{Bus, Error};
use jetlane_service::frame::one_line;
use std::time::Duration;

/// How often it is asked whether all are there: a request a stream. The longest time until a loss is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The pause after an attempt to make them that failed.
const PAUSE_AFTER_FAULT: Duration = Duration::from_secs(1);

/// Makes the streams and buckets that are missing, and logs what is not as it was declared.
pub(crate) async fn ensure(bus: &Bus, config: &Config) -> Result<(), Error> {
    for Drift { name, setting, wanted, found } in bus.ensure(&config.streams).await? {
        tracing::warn!(name, setting, wanted, found, "A stream is not as it was declared.");
    }
    Ok(())
}

/// Waits until something that was there is gone, or is another one, and makes anew what is missing. Whoever read it
/// has to begin anew then: consumers and watches went with it.
pub(crate) async fn restored(bus: &Bus, config: &Config, known: &Births) {
    let mut connections = bus.connections();
    connections.mark_unchanged();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            // The server's data may have gone with the connection.
            Ok(()) = connections.changed() => {}
        }
        match bus.births().await {
            Ok(found) => {
                let changed: Vec<_> = found.changed_since(known).collect();
                if !changed.is_empty() {
                    tracing::warn!(streams = changed.join(", "), "Streams were deleted; making anew what is missing.");
                    break;
                }
            }
            Err(error) => tracing::debug!(error = one_line(&error), "The streams do not answer; asking again."),
        }
    }
    while let Err(error) = ensure(bus, config).await {
        tracing::warn!(error = one_line(&error), "Could not make the streams anew; trying again.");
        tokio::time::sleep(PAUSE_AFTER_FAULT).await;
    }
}
