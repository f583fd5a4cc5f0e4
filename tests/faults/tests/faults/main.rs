//! The short form of the fault suite: fixed seeds, one server and three replicas.
