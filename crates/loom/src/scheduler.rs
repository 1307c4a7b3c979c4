//! What the inbox of a scheduler names of the module that it is in.

mod inboxes;

#[allow(dead_code, unused_imports, reason = "not all of it is run here")]
#[path = "../../../src/scheduler/wake.rs"]
mod wake;

/// The type of a scheduler, which only the calls to it name.
pub(crate) struct Scheduler;
