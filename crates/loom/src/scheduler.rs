//! What the inbox of a scheduler, the queue of submissions and the requests to cancel name of the module that they are
//! in.

mod cancels;
mod inboxes;
pub(crate) mod named;
mod submissions;

use named::{join, tasks, turn};

#[allow(dead_code, reason = "not all of it is run here")]
#[path = "../../../src/scheduler/cancel.rs"]
mod cancel;

#[allow(
    dead_code,
    unexpected_cfgs,
    reason = "not all of it is run here, and nothing with the feature `insight`"
)]
#[path = "../../../src/scheduler/submit.rs"]
mod submit;

#[allow(dead_code, unused_imports, reason = "not all of it is run here")]
#[path = "../../../src/scheduler/wake.rs"]
mod wake;

/// The type of a scheduler, which only the calls to it name.
pub(crate) struct Scheduler;
