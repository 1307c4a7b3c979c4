//! Thread state that travels with a job.
//!
//! A job shares its thread with the code that resumes it and with every other job of the thread. State that belongs to
//! the thread (a default library context, a tracing span, a locale) therefore leaks from one job to the next, unless it
//! is swapped at each switch. A [`SwitchHooks`] of the job swaps it:
//!
//! ```text
//!   resumer          enter()  |  job runs ...  pauses  |  leave()          resumer
//!   its own state  ----swap-->   the job's own state   --swap back-->    its own state
//! ```
//!
//! Both calls run on the resumer's stack. They see the resumer's thread-locals, and the size of the job's stack does
//! not limit them. OpenSSL swaps its default library context ([S77](crate::docs::openssl_behaviour#s77)), but neither
//! `errno` and the floating-point mode ([S75](crate::docs::openssl_behaviour#s75)) nor its error queue
//! ([S76](crate::docs::openssl_behaviour#s76)).

#[cfg(feature = "tracing")]
mod spans;

use crate::wait_ctx::WaitCtx;

#[cfg(feature = "tracing")]
pub use spans::Spans;

/// Two functions that are called around every switch into a job and out of it. Three more are called at the start, at
/// each pause and at the end of a job, for a hook that wants to know of these.
///
/// [`JobBuilder::hooks`](crate::JobBuilder::hooks) gives a job its hooks. The hooks stay on the thread of the job, so
/// they need not be `Send`, unless the job is [submitted](crate::JobBuilder::submit_to) from another thread. A pair
/// `(A, B)` of hooks is a hook: `A` enters first and leaves last.
///
/// # Panics
///
/// A hook should not panic. A panic of a hook leaves the call that started or resumed the job:
///
/// | the hook panics in | the job |
/// |---|---|
/// | `starting`, or the first `enter` | has not begun: its closure is dropped |
/// | `enter` of a resume | is [cancelled](crate::Job::cancel), as if its `Job` was dropped |
/// | `enter` of a cancelled job | is [quarantined](crate::Job::quarantine) |
/// | `pausing`, or `leave` after a pause | is cancelled, as above |
/// | `leave` after a pause of a cancelled job | is quarantined |
/// | `ending`, or `leave` after the end | has ended |
///
/// When the job itself has panicked, or is unwound, a panic of `leave` is reported by the panic hook and goes no
/// further.
///
/// No hook is called when a paused job is looked at ([`Job::backtrace`](crate::Job::backtrace),
/// [`Job::trim`](crate::Job::trim)).
///
/// ```
/// use asyncjob::hooks::SwitchHooks;
/// use asyncjob::{JobBuilder, Step, pause_job};
/// use std::cell::Cell;
///
/// thread_local!(static USER: Cell<u32> = const { Cell::new(0) });
///
/// struct KeepUser(u32);
/// impl SwitchHooks for KeepUser {
///     fn enter(&mut self) { self.0 = USER.replace(self.0) }
///     fn leave(&mut self) { self.0 = USER.replace(self.0) }
/// }
///
/// let step = JobBuilder::new().hooks(KeepUser(7)).start(|| {
///     pause_job().unwrap();
///     USER.get()
/// });
/// let Step::Paused(job) = step.unwrap() else { panic!() };
/// assert_eq!(USER.get(), 0); // the job's value went away with it
/// USER.set(1);
/// let Step::Finished(user) = job.resume() else { panic!() };
/// assert_eq!((user, USER.get()), (7, 1));
/// ```
pub trait SwitchHooks {
    /// The job is about to run. The hook saves the resumer's state and puts the job's state in place.
    fn enter(&mut self);
    /// The job has paused or ended. The hook saves the job's state and puts the resumer's state back.
    fn leave(&mut self);

    /// The job is about to start: the first [`enter`](Self::enter) follows. A hook that wants to know its job keeps
    /// what it needs of it. The default does nothing.
    fn starting(&mut self, job: HookedJob<'_>) {
        let _ = job;
    }

    /// The job has paused, and its wait ctx says what it waits for: [`leave`](Self::leave) follows. Until then the
    /// job's state is in place. The default does nothing.
    fn pausing(&mut self, job: HookedJob<'_>) {
        let _ = job;
    }

    /// The job has ended: the last [`leave`](Self::leave) follows. A job that is quarantined does not end. The default
    /// does nothing.
    fn ending(&mut self, job: HookedJob<'_>) {
        let _ = job;
    }
}

/// The job whose hook is called.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct HookedJob<'a> {
    /// The number of its [`JobId`](crate::JobId::get).
    pub id: u64,
    /// Its name, if it has one.
    pub name: Option<&'a str>,
    /// What it waits for while it is paused.
    pub wait_ctx: &'a WaitCtx,
    /// What only hooks of this crate ask.
    #[cfg(feature = "insight")]
    pub(crate) look: &'a dyn LookAtJob,
}

/// What a hook of `insight` asks of its job, while that does not run.
#[cfg(feature = "insight")]
pub(crate) trait LookAtJob {
    /// Whether the job was cancelled.
    fn is_cancelled(&self) -> bool;
    /// How many bytes of its stack the job has used: see [`Job::high_water`](crate::Job::high_water). One system call.
    fn high_water(&self) -> usize;
    /// The stack pointer, and a copy of what lies above it. `None` if the job is not paused.
    fn copy_stack(&self, read: fn(usize, &mut [u8]) -> Option<()>) -> Option<(usize, Vec<u8>)>;
}

#[cfg(feature = "insight")]
impl std::fmt::Debug for dyn LookAtJob + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LookAtJob")
    }
}

/// The job has paused: calls `pausing` and then `leave`, also when `pausing` panics.
pub(crate) fn pause(hooks: &mut dyn SwitchHooks, job: HookedJob<'_>) {
    let last = LeaveAtDrop(hooks);
    last.0.pausing(job);
    drop(last);
}

/// The job has ended: calls `ending` and then `leave`, also when `ending` panics.
pub(crate) fn end(hooks: &mut dyn SwitchHooks, job: HookedJob<'_>) {
    let last = LeaveAtDrop(hooks);
    last.0.ending(job);
    drop(last);
}

/// The hooks of a job without hooks: they do nothing.
impl SwitchHooks for () {
    fn enter(&mut self) {}
    fn leave(&mut self) {}
}

impl<A: SwitchHooks, B: SwitchHooks> SwitchHooks for (A, B) {
    fn enter(&mut self) {
        self.0.enter();
        // If `B` panics, `A` puts back what it has replaced.
        let entered = LeaveAtDrop(&mut self.0);
        self.1.enter();
        std::mem::forget(entered);
    }

    fn leave(&mut self) {
        let last = LeaveAtDrop(&mut self.0);
        self.1.leave();
        drop(last);
    }

    fn starting(&mut self, job: HookedJob<'_>) {
        self.0.starting(job);
        self.1.starting(job);
    }

    fn pausing(&mut self, job: HookedJob<'_>) {
        self.1.pausing(job);
        self.0.pausing(job);
    }

    fn ending(&mut self, job: HookedJob<'_>) {
        self.1.ending(job);
        self.0.ending(job);
    }
}

/// Leaves a hook, also when another one panics.
struct LeaveAtDrop<'a, A: SwitchHooks + ?Sized>(&'a mut A);

impl<A: SwitchHooks + ?Sized> Drop for LeaveAtDrop<'_, A> {
    fn drop(&mut self) {
        self.0.leave();
    }
}
