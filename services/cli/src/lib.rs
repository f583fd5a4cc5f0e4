//! The jetlane command.
