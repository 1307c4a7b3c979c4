//! The tracing spans of a job travel with it.

use std::fmt;

use tracing::dispatcher::{Dispatch, get_default};
use tracing::span::Id;

use super::SwitchHooks;

/// Hooks that take the spans which a job has entered out of the thread when the job pauses, and put them back when it
/// is resumed.
///
/// A [`JobFuture`](crate::job_future::JobFuture) has these hooks by itself when the feature `tracing` is on. They work
/// with subscribers that know their current span, such as the registry of `tracing_subscriber`. With other subscribers
/// they do nothing.
///
/// ```
/// use asyncjob::hooks::Spans;
/// use asyncjob::{JobBuilder, Step, pause_job};
///
/// let step = JobBuilder::new().hooks(Spans::default()).start(|| {
///     let _handshake = tracing::info_span!("handshake").entered();
///     pause_job().unwrap(); // the others are not in "handshake"
///     tracing::info!("signed"); // this is
/// });
/// # let Step::Paused(job) = step.unwrap() else { panic!() };
/// # let Step::Finished(()) = job.resume() else { panic!() };
/// ```
///
/// A thread has one stack of entered spans. Without these hooks, events of other jobs that happen while a job is paused
/// within a span are recorded in that span. A span that the resumer has entered stays entered, and the job is in it
/// while it runs there. Layers see an exit and an enter of the spans concerned at each switch.
#[derive(Default)]
pub struct Spans {
    /// How many spans of the resumer lie below the spans of the job.
    below: usize,
    /// The spans of the paused job, innermost first.
    inside: Vec<Id>,
}

impl SwitchHooks for Spans {
    fn enter(&mut self) {
        let subscriber = subscriber();
        let outside = exit_all(&subscriber);
        self.below = outside.len();
        enter_all(&subscriber, &outside);
        enter_all(&subscriber, &self.inside);
    }

    fn leave(&mut self) {
        let subscriber = subscriber();
        self.inside = exit_all(&subscriber);
        // The spans are counted and not compared, because a job may enter a span that its resumer has entered, too.
        let own = self.inside.len().saturating_sub(self.below);
        let outside = self.inside.split_off(own);
        enter_all(&subscriber, &outside);
    }
}

/// The subscriber of this thread, as a handle.
///
/// Inside a call of `get_default` a registry finds no subscriber with which it could close spans, and would keep them
/// for the life of the process.
fn subscriber() -> Dispatch {
    get_default(Dispatch::clone)
}

/// Exits every span that is entered, and returns them, innermost first.
fn exit_all(subscriber: &Dispatch) -> Vec<Id> {
    let mut spans = Vec::new();
    while let Some(span) = subscriber.current_span().id() {
        subscriber.exit(span);
        spans.push(span.clone());
    }
    spans
}

/// Enters the spans again, outermost first.
fn enter_all(subscriber: &Dispatch, spans: &[Id]) {
    spans.iter().rev().for_each(|span| subscriber.enter(span));
}

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spans")
            .field("below", &self.below)
            .field("inside", &self.inside)
            .finish()
    }
}
