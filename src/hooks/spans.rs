//! The span of a job, and the spans and the default dispatcher that travel with it.
//!
//! A job starts as one that has paused within its span, with the default of its spawner.
//!
//! ```text
//!                        enter:                      leave:
//!   default dispatcher   the one with which the      the resumer's
//!                        job has paused
//!   spans, in each       the job's, on top of        the resumer's: those above them are the job's
//!   dispatcher           the resumer's
//! ```
//!
//! A thread has one default dispatcher, and each subscriber has one stack of entered spans for each thread.
//!
//! Dispatchers cannot be compared. So a default that the job has set looks like one that its resumer has set, and the
//! job keeps either. Two layers may be of one dispatcher; the first of them has its spans then, and the other has none.

use std::cell::Cell;
use std::fmt::{self, Write};
use std::mem::{self, ManuallyDrop};
use std::time::Instant;

use tracing::dispatcher::{DefaultGuard, get_default, set_default, with_default};
use tracing::level_filters::LevelFilter;
use tracing::span::Id;
use tracing::subscriber::NoSubscriber;
use tracing::{Dispatch, Level, Span, info_span, trace};

use super::{HookedJob, SwitchHooks};
use crate::wait_ctx::{WaitCtx, waits_for};

/// Hooks that give a job a span of its own, take the spans which the job has entered out of the thread when it pauses,
/// and put them back when it is resumed. A default subscriber of the job travels with it in the same way.
///
/// With the feature `tracing`, a [`JobFuture`](crate::job_future::JobFuture) has these hooks by itself, and so has a
/// job that is spawned on a scheduler once a subscriber is set. A job that your own loop drives
/// ([`start_job`](crate::start_job), [`JobBuilder::start`](crate::JobBuilder::start)) has them only if you give them to
/// it, as in the example below: hooks make each switch slower, so the loop decides whether its jobs are worth spans.
///
/// They work with subscribers that know their current span, such as the registry of `tracing_subscriber`. The spans of
/// other subscribers do not travel.
///
/// # The span of a job
///
/// The span is called `job`, with the target `asyncjob`, the level INFO, and the fields `id` and `name`. It lasts from
/// the start of the job to its end, and everything that the job logs is in it. In it are two events of the level TRACE,
/// if that was enabled when the job started:
///
/// | event | fields |
/// |---|---|
/// | `paused` | `waits_for`: the wait fds, the callback and the deadline that the job waits for |
/// | `resumed` | `woken_by`: what made the job ready; `ready_for`: how long ago that was; `paused_for` |
///
/// A job that a scheduler runs starts in a turn of the scheduler, far from the code that has spawned it. So its span is
/// a child of the span in which it was spawned, and its default subscriber is the one with which it was spawned: see
/// [`Spans::current`]. A job that starts where it is made, or in the first poll of a future, has those of that place.
///
/// # The spans that travel
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
///
/// It is the same with the default subscriber of the thread, which `tracing::subscriber::set_default` and
/// `with_default` set: a job that pauses with one goes on with it, and other code has its own meanwhile. A job that has
/// the global default when it pauses has the default of its resumer when it goes on. To find out which
/// of the two it is costs 40 ns a pause and resume (measured).
#[derive(Default)]
pub struct Spans {
    /// Of a job that runs: the default of its resumer.
    outer: Option<(Dispatch, Kind)>,
    /// Of a job that runs: puts the default of the resumer back when it is dropped. `None` if that is the global one:
    /// the fast path of `tracing` is for programs in which no thread has set another.
    level: Option<DefaultGuard>,
    /// Of a paused job: the default with which it goes on, unless that is the one of its resumer.
    own: Option<(Dispatch, Kind)>,
    /// Of a paused job that has set a default where its resumer had the global one.
    mask: Mask,
    /// Of a job that runs: the dispatchers in which it may have entered spans. Of a paused job: those in which it has.
    layers: Vec<Layer>,
    /// Of a job that was spawned and has not started: the default and the span of its spawner.
    spawner: Option<(Kind, OwnedSpan)>,
    /// The span of the job. It ends when this is dropped.
    job: Option<OwnedSpan>,
    /// The ctx of a job whose pauses and wakes are logged.
    logged: Option<WaitCtx>,
    /// Of such a job: when it paused last.
    paused: Option<Instant>,
}

thread_local! {
    /// The job that got a span last. A job may have these hooks twice: by itself, and by its builder.
    static HAS_SPAN: Cell<u64> = const { Cell::new(0) };
}

impl SwitchHooks for Spans {
    fn enter(&mut self) {
        let (outer, kind) = default_dispatch();
        let own = self.own.take();
        // Local until the end: if a subscriber panics, the thread has its default again.
        let level = match &own {
            Some((own, _)) => Some(set_default(own)),
            None => (kind == Kind::Scoped).then(|| set_default(&outer)),
        };
        self.mask.lift(); // which makes `own` the default, once more
        let default = own.as_ref().map_or(kind, |(_, kind)| *kind);
        own.iter().for_each(|(own, kind)| self.add(own, *kind));
        self.add(&outer, kind);
        self.exit_all(default);
        for layer in &mut self.layers {
            layer.below = layer.entered.len();
            layer.enter(&layer.entered, default);
            layer.enter(&layer.inside, default);
        }
        self.log_resume();
        self.outer = Some((outer, kind));
        self.level = level;
    }

    fn starting(&mut self, job: HookedJob<'_>) {
        let (default, kind) = default_dispatch();
        let (default, kind, parent) = match self.spawner.take() {
            Some((Kind::Scoped, spawner)) => {
                self.own = Some((spawner.dispatch.clone(), Kind::Scoped));
                (spawner.dispatch.clone(), Kind::Scoped, Some(spawner))
            }
            Some((spawned, spawner)) if spawned == kind => (default, kind, Some(spawner)),
            _ => (default, kind, None),
        };
        if HAS_SPAN.replace(job.id) == job.id {
            return;
        }
        let span = || {
            let parent = parent.as_ref().map_or_else(Span::current, |parent| parent.span.clone());
            info_span!(target: "asyncjob", parent: &parent, "job", id = job.id, name = job.name)
        };
        let span = with_default(&default, span);
        let Some(id) = span.id() else { return };
        self.add(&default, kind);
        if let Some(layer) = self.layers.last_mut() {
            layer.inside = vec![id];
        }
        self.job = Some(OwnedSpan {
            span,
            dispatch: default,
        });
        if LevelFilter::current() >= Level::TRACE {
            job.wait_ctx.observe_wakes();
            self.logged = Some(job.wait_ctx.clone());
        }
    }

    fn pausing(&mut self, _: HookedJob<'_>) {
        let Some(ctx) = &self.logged else { return };
        self.paused = Some(Instant::now());
        let words = || {
            let now = Instant::now();
            let left = |at: Instant| at.saturating_duration_since(now).as_secs_f64();
            waits_for(
                ctx.fds().iter().map(|fd| (fd, None)),
                ctx.status(),
                ctx.deadline().map(left),
            )
        };
        trace!(target: "asyncjob", waits_for = words(), "paused");
    }

    fn leave(&mut self) {
        let level = self.level.take();
        let (current, kind) = default_dispatch();
        self.add(&current, kind);
        self.exit_all(kind);
        for layer in &mut self.layers {
            layer.inside = mem::take(&mut layer.entered);
            // The spans are counted and not compared, because a job may enter a span that its resumer has entered, too.
            let own = layer.inside.len().saturating_sub(layer.below);
            let outside = layer.inside.split_off(own);
            layer.enter(&outside, kind);
        }
        self.layers.retain(|layer| !layer.inside.is_empty());
        let Some((outer, outer_kind)) = self.outer.take() else {
            return;
        };
        // A global default that was set meanwhile is that of everyone.
        let is_own = kind == Kind::Scoped || (kind == Kind::None && outer_kind != Kind::None);
        if is_own && level.is_none() {
            self.mask = Mask::over(&outer);
        }
        drop(level);
        self.own = is_own.then_some((current, kind));
    }
}

impl Spans {
    /// Hooks for a job that starts at another time or on another thread: the job goes on with the default subscriber of
    /// this place, if that is not the global one, and its span is a child of the current span.
    pub fn current() -> Self {
        let (default, kind) = default_dispatch();
        Spans {
            spawner: Some((
                kind,
                OwnedSpan {
                    span: Span::current(),
                    dispatch: default,
                },
            )),
            ..Spans::default()
        }
    }

    /// As [`current`](Self::current), if there is a subscriber that wants anything.
    pub(crate) fn of_spawner() -> Option<Self> {
        (LevelFilter::current() != LevelFilter::OFF).then(Spans::current)
    }

    /// Logs that the job goes on. The job's spans and its default are in place.
    fn log_resume(&mut self) {
        let (Some(ctx), Some(paused)) = (&self.logged, self.paused.take()) else {
            return;
        };
        let wake = ctx.wake();
        let woken_by = wake.as_ref().map(|wake| wake.cause.to_string());
        let ready_for = wake.map(|wake| wake.at.max(paused).elapsed());
        let paused_for = paused.elapsed();
        trace!(target: "asyncjob", woken_by, ?ready_for, ?paused_for, "resumed");
    }

    /// Adds a layer for the dispatcher, if it may have spans and is not known to have one.
    fn add(&mut self, dispatch: &Dispatch, kind: Kind) {
        let is_known = kind == Kind::Global && self.layers.iter().any(|layer| layer.kind == kind);
        if kind != Kind::None && !is_known {
            self.layers.push(Layer {
                dispatch: dispatch.clone(),
                kind,
                below: 0,
                inside: Vec::new(),
                entered: Vec::new(),
            });
        }
    }

    /// Exits every span that is entered, in all layers. `default` is the kind of the default dispatcher.
    fn exit_all(&mut self, default: Kind) {
        for layer in &mut self.layers {
            layer.entered = layer.exit_all(default);
        }
    }
}

/// The default dispatcher of this thread, as a handle, and its kind.
///
/// Inside a call of `get_default` a registry finds no subscriber with which it could close spans, and would keep them
/// for the life of the process.
fn default_dispatch() -> (Dispatch, Kind) {
    let dispatch = get_default(Dispatch::clone);
    let kind = Kind::of(&dispatch);
    (dispatch, kind)
}

/// A span that is dropped where its dispatcher is the default one: when the last handle to a span is dropped, a
/// registry asks the default to close the span around it.
struct OwnedSpan {
    span: Span,
    dispatch: Dispatch,
}

impl Drop for OwnedSpan {
    fn drop(&mut self) {
        let span = mem::replace(&mut self.span, Span::none());
        with_default(&self.dispatch, || drop(span));
    }
}

/// One dispatcher, and the spans of the job in it.
struct Layer {
    dispatch: Dispatch,
    kind: Kind,
    /// While the job runs: how many spans of the resumer lie below those of the job.
    below: usize,
    /// Of a paused job: its spans, innermost first.
    inside: Vec<Id>,
    /// During a switch: all spans that were entered, innermost first.
    entered: Vec<Id>,
}

impl Layer {
    /// Exits every span that is entered, and returns them, innermost first.
    fn exit_all(&self, default: Kind) -> Vec<Id> {
        self.as_default(default, |subscriber| {
            let mut spans = Vec::new();
            while let Some(span) = subscriber.current_span().id() {
                subscriber.exit(span);
                spans.push(span.clone());
            }
            spans
        })
    }

    /// Enters the spans again, outermost first.
    fn enter(&self, spans: &[Id], default: Kind) {
        self.as_default(default, |subscriber| {
            spans.iter().rev().for_each(|span| subscriber.enter(span));
        });
    }

    /// Calls `f` while the dispatcher is the default one: a registry asks the default to close a span that has been
    /// exited.
    fn as_default<R>(&self, default: Kind, f: impl FnOnce(&Dispatch) -> R) -> R {
        if self.kind == Kind::Global && default == Kind::Global {
            return f(&self.dispatch);
        }
        with_default(&self.dispatch, || f(&self.dispatch))
    }
}

/// Makes the default that a job has set invisible while the job is paused: another one lies above it.
///
/// Only [`lift`](Self::lift) drops the guard. The hooks of a quarantined job are dropped at any time, and the guard
/// would make the default of that job the default of the thread then.
#[derive(Default)]
struct Mask(ManuallyDrop<Option<DefaultGuard>>);

impl Mask {
    fn over(outer: &Dispatch) -> Self {
        Mask(ManuallyDrop::new(Some(set_default(outer))))
    }

    fn lift(&mut self) {
        drop(self.0.take());
    }
}

/// What kind of dispatcher it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// There is no subscriber.
    None,
    /// The global default.
    Global,
    /// Another one. (So is the global one, should it print itself in another way some day. That is only slower.)
    Scoped,
}

impl Kind {
    fn of(dispatch: &Dispatch) -> Self {
        /// Reads the first part of what a dispatcher prints.
        struct Prints(Kind);
        impl Write for Prints {
            fn write_str(&mut self, part: &str) -> fmt::Result {
                if part.starts_with("Dispatch::Global") {
                    self.0 = Kind::Global;
                }
                Err(fmt::Error) // the rest is of no interest
            }
        }
        if dispatch.is::<NoSubscriber>() {
            return Kind::None;
        }
        let mut prints = Prints(Kind::Scoped);
        let _ = write!(prints, "{dispatch:?}");
        prints.0
    }
}

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inside: Vec<_> = self.layers.iter().map(|layer| &layer.inside).collect();
        f.debug_struct("Spans")
            .field("own", &self.own)
            .field("inside", &inside)
            .finish_non_exhaustive()
    }
}
