//! Places in which a job must not pause, and the report of a job that tries to.

use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::control_block::on_spare_stack;
use super::current::{BlockPause, block_pause};
use super::{JobId, current_job, current_job_id};

/// Declares that this job must not pause until the returned guard is dropped, because it holds `what`: the guard of a
/// lock, say, or a `RefCell` borrow, which the jobs that run meanwhile would wait for or trip over.
///
/// A pause fails there with [`PauseError::Blocked`](crate::PauseError::Blocked), as under [`block_pause`], and
/// functions that can wait in another way block the thread. Here that is a mistake, and it is reported, once for each
/// guard: with the place of the guard and that of the pause, and the backtraces of both in a debug build, or where
/// [`capture_backtraces`] has turned them on. The report goes to stderr, or to [`on_forbidden_pause`].
///
/// Outside a job the guard does nothing.
///
/// ```
/// use asyncjob::{PauseError, Step, WaitCtx, no_pause, on_forbidden_pause, pause_job, start_job};
/// use std::sync::Mutex;
///
/// on_forbidden_pause(|pause| {
///     assert_eq!(pause.what, "the table");
///     eprintln!("{pause}");
/// });
/// static TABLE: Mutex<u32> = Mutex::new(0);
/// let step = start_job(&WaitCtx::new(), || {
///     let _table = TABLE.lock().unwrap();
///     let _held = no_pause("the table");
///     pause_job() // every other job that needs the table would block the thread
/// });
/// let Ok(Step::Finished(pause)) = step else { panic!("it cannot have paused") };
/// assert_eq!(pause, Err(PauseError::Blocked));
/// ```
#[track_caller]
pub fn no_pause(what: &'static str) -> NoPause {
    /// Serials need not follow each other on a thread.
    static SERIALS: AtomicU64 = AtomicU64::new(0);
    let at = Location::caller();
    let entry = current_job_id().map(|job| {
        let serial = SERIALS.fetch_add(1, Ordering::Relaxed);
        let place = Place {
            at,
            backtrace: Arc::new(backtrace()),
        };
        let entry = Held {
            job,
            serial,
            what,
            place,
            is_reported: false,
        };
        // A thread that exits has no list any more: the guard blocks the pauses, and nothing reports them.
        let _ = HELD.try_with(|held| held.borrow_mut().push(entry));
        serial
    });
    NoPause {
        entry,
        _blocked: block_pause(),
    }
}

/// The guard that [`no_pause`] returns. The job does not pause while the guard exists.
///
/// The guard is neither `Send` nor `Sync`.
#[must_use = "pauses are forbidden only until the guard is dropped"]
#[derive(Debug)]
pub struct NoPause {
    entry: Option<u64>,
    _blocked: BlockPause,
}

impl Drop for NoPause {
    fn drop(&mut self) {
        let Some(serial) = self.entry else { return };
        // A thread that exits has no list any more.
        let _ = HELD.try_with(|held| held.borrow_mut().retain(|held| held.serial != serial));
    }
}

/// What is held on this thread.
struct Held {
    job: JobId,
    serial: u64,
    what: &'static str,
    place: Place,
    is_reported: bool,
}

#[derive(Clone)]
struct Place {
    at: &'static Location<'static>,
    backtrace: Arc<Backtrace>,
}

thread_local! {
    static HELD: RefCell<Vec<Held>> = const { RefCell::new(Vec::new()) };
}

/// A pause where [`no_pause`] forbids it.
#[derive(Debug)]
#[non_exhaustive]
pub struct ForbiddenPause<'a> {
    /// The job.
    pub job: JobId,
    /// The name of the job, if it has one.
    pub name: Option<&'a str>,
    /// What the job holds.
    pub what: &'static str,
    /// The call of [`no_pause`].
    pub held_at: &'static Location<'static>,
    /// The backtrace of that call: disabled, unless this is a debug build or [`capture_backtraces`] is on.
    pub held: &'a Backtrace,
    /// The backtrace of the pause.
    pub paused: &'a Backtrace,
}

impl fmt::Display for ForbiddenPause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ForbiddenPause {
            job,
            what,
            held_at,
            held,
            paused,
            ..
        } = self;
        let name = self.name.map(|name| format!(" ({name})")).unwrap_or_default();
        writeln!(
            f,
            "the job {job}{name} pauses while it holds {what}, since {held_at}{}",
            guide_page!("across-a-pause")
        )?;
        writeln!(f, "held by:\n{held}")?;
        writeln!(f, "paused by:\n{paused}")
    }
}

type Report = Arc<dyn Fn(&ForbiddenPause<'_>) + Send + Sync>;

/// Where the report is, under a lock that no child of a fork finds locked.
mod report {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::Report;
    use crate::sys::hold_while_forking;

    /// A lock of `std`, which consists of one word.
    static REPORT: Mutex<Option<Report>> = Mutex::new(None);

    type Held = MutexGuard<'static, Option<Report>>;

    pub(super) fn lock() -> Held {
        prepare_for_forks();
        hold()
    }

    fn hold() -> Held {
        REPORT.lock().unwrap_or_else(PoisonError::into_inner) // no code of the user runs under it
    }

    hold_while_forking!(Held, hold());
}

/// Calls `report` with each pause that [`no_pause`] forbids, in place of printing it. The call is made in the job, on
/// another stack than the job's own. A panic of `report` ends there.
pub fn on_forbidden_pause(report: impl Fn(&ForbiddenPause<'_>) + Send + Sync + 'static) {
    let before = report::lock().replace(Arc::new(report));
    drop(before); // after the lock is released
}

static CAPTURES: AtomicBool = AtomicBool::new(cfg!(debug_assertions));

/// Sets whether [`no_pause`] and a pause that it forbids capture backtraces. By default they do in a build with
/// debug assertions. A capture takes some microseconds.
pub fn capture_backtraces(capture: bool) {
    CAPTURES.store(capture, Ordering::Relaxed);
}

/// The backtrace of the caller, if it is asked for. It is captured on another stack: that of the job may be nearly
/// full.
fn backtrace() -> Backtrace {
    let captured = CAPTURES
        .load(Ordering::Relaxed)
        .then(|| on_spare_stack(Backtrace::force_capture));
    captured.flatten().unwrap_or_else(Backtrace::disabled)
}

/// Reports that this job tries to pause, unless nothing forbids it or the guard has been reported.
#[cold]
pub(crate) fn report_forbidden_pause() {
    let Some(job) = current_job_id() else { return };
    let found = HELD.try_with(|held| {
        let mut held = held.borrow_mut();
        let held = held
            .iter_mut()
            .rev()
            .find(|held| held.job == job && !held.is_reported)?;
        held.is_reported = true;
        Some((held.what, held.place.clone()))
    });
    let Ok(Some((what, place))) = found else { return };
    let paused = backtrace();
    let name = current_job().and_then(|job| job.name().map(str::to_owned));
    let pause = ForbiddenPause {
        job,
        name: name.as_deref(),
        what,
        held_at: place.at,
        held: &place.backtrace,
        paused: &paused,
    };
    let report = report::lock().clone();
    on_spare_stack(|| match report {
        Some(report) => report(&pause),
        None => eprintln!("{pause}"),
    });
}
