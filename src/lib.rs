//! Runs synchronous-looking code asynchronously.

#![warn(missing_debug_implementations)]

pub mod error;
pub mod future;
pub mod hooks;
#[allow(unsafe_code, reason = "switches stacks and keeps each job's header on its own stack")]
pub mod job;
pub mod pool;
pub mod scheduler;
#[allow(unsafe_code, reason = "maps, guards and hands out raw memory")]
pub mod stack;
#[allow(unsafe_code, reason = "calls the system")]
mod sys;
pub mod wait_ctx;
mod waiting;

pub use error::{Cancelled, StartError};
pub use hooks::SwitchHooks;
pub use job::{
    BlockPause, CurrentJob, Job, JobBuilder, JobId, Pause, Step, block_pause, current_job, current_job_id, is_capable,
    pause_job, start_job,
};
pub use pool::{FreeJob, PoolConfig, PoolError, PoolStats, cleanup_thread, free_job, init_thread, pool_stats};
pub use stack::{Secrets, StackSize, StackStats, install_overflow_handler, stack_stats};
pub use wait_ctx::{Changes, Interest, Status, WaitCtx, WaitFd, WaitKey, callback};
