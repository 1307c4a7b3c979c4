//! The tracing spans of a job travel with it.

use std::fmt;

use tracing::dispatcher::{Dispatch, get_default};
use tracing::span::Id;

use super::SwitchHooks;

/// Takes the spans that a job has entered out of the thread when it pauses, and puts them back when it is resumed.
///
/// A thread has one stack of entered spans. Without this, what other jobs log while a job is paused within a span is
/// logged as happening in that span. A span that the resumer has entered stays: a job is in it while it runs there.
///
/// A [`JobFuture`](crate::job_future::JobFuture) has it by itself when the feature `tracing` is on. It works with subscribers
/// that know their current span, as `tracing_subscriber`'s registry does; with others it does nothing. Layers see an exit and
/// an enter of the spans concerned at each switch.
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
#[derive(Default)]
pub struct Spans {
    /// How many spans of the resumer are below those of the job.
    below: usize,
    /// The job's, innermost first, while it is paused.
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
        // Counted, not compared: a job may enter a span that its resumer is in, too.
        let own = self.inside.len().saturating_sub(self.below);
        let outside = self.inside.split_off(own);
        enter_all(&subscriber, &outside);
    }
}

/// A handle, not a visit: within `get_default` a registry finds no subscriber to close spans with, and would keep them for ever.
fn subscriber() -> Dispatch {
    get_default(Dispatch::clone)
}

/// The spans that were entered, innermost first.
fn exit_all(subscriber: &Dispatch) -> Vec<Id> {
    let mut spans = Vec::new();
    while let Some(span) = subscriber.current_span().id() {
        subscriber.exit(span);
        spans.push(span.clone());
    }
    spans
}

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
