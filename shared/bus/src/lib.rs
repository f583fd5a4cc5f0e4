//! Carries: topology, publish, inbox, leases, schedules, leaders. The only user of async-nats.
