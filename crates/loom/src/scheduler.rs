//! What the inbox of a scheduler, and the queue of submissions, name of the module that they are in.

mod inboxes;
pub(crate) mod named;
mod submissions;

use named::{join, tasks, turn};

#[allow(dead_code, reason = "not all of it is run here")]
#[path = "../../../src/scheduler/submit.rs"]
mod submit;

#[allow(dead_code, unused_imports, reason = "not all of it is run here")]
#[path = "../../../src/scheduler/wake.rs"]
mod wake;

/// The type of a scheduler, which only the calls to it name.
pub(crate) struct Scheduler;
