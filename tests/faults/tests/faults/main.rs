//! The short form of the fault suite: fixed seeds, one server and three replicas; and the times that recovery may take.

mod deletions;
mod fixture;
mod power_cut;
mod recovery;
mod soaks;
