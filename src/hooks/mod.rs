//! Thread state that travels with a job.
//!
//! A job shares its thread with whoever resumes it and with every other job there. State that lives in the thread (a
//! default library context, a tracing span, a locale) therefore leaks from one to the other, unless somebody swaps it
//! at each switch. That somebody is a [`SwitchHooks`]:
//!
//! ```text
//!   resumer          enter()  |  job runs ...  pauses  |  leave()          resumer
//!   its own state  ----swap-->   the job's own state   --swap back-->    its own state
//! ```
//!
//! Both calls run on the resumer's stack, so they see the resumer's thread-locals and may use as much stack as they
//! like. OpenSSL does this for its default library context (S77) and for nothing else (S75, S76).

#[cfg(feature = "tracing")]
mod spans;

#[cfg(feature = "tracing")]
pub use spans::Spans;

/// Called around every switch into a job and out of it. A pair of hooks is a hook: the second is the inner one.
///
/// # Panics
///
/// A hook must not panic: `enter` would leave the job half entered. A panic in either passes through to the resumer.
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
    /// The job is about to run: save the resumer's state, put the job's in place.
    fn enter(&mut self);
    /// The job has paused or ended: save the job's state, put the resumer's back.
    fn leave(&mut self);
}

/// No hooks.
impl SwitchHooks for () {
    fn enter(&mut self) {}
    fn leave(&mut self) {}
}

impl<A: SwitchHooks, B: SwitchHooks> SwitchHooks for (A, B) {
    fn enter(&mut self) {
        self.0.enter();
        self.1.enter();
    }

    fn leave(&mut self) {
        self.1.leave();
        self.0.leave();
    }
}
