//! The drivers of the process, and how to ask them.
//!
//! A driver is registered for as long as its [`Registration`] exists. The registration stays on the thread of the
//! driver, because the driver does.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, ThreadId};

use super::fork::{Reading, lock};
use super::gauges::{Gauges, SchedulerNumbers};
use crate::job::{JobInfo, address_of_current};
use crate::sys::Process;

/// What drives jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DriverKind {
    /// A [`Scheduler`](crate::scheduler::Scheduler), alone or as a worker.
    Scheduler,
    /// The [`JobFuture`](crate::job_future::JobFuture)s of one thread, under whatever runtime.
    Futures,
    /// Code that resumes jobs by hand, the C drop-in, or a driver that has not answered.
    Unknown,
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DriverKind::Scheduler => "scheduler",
            DriverKind::Futures => "futures",
            DriverKind::Unknown => "unknown",
        })
    }
}

/// A job as its driver has found it.
pub(crate) struct Asked {
    pub(crate) info: JobInfo,
    /// The return addresses on the job's own stack, the innermost first.
    pub(crate) frames: Vec<usize>,
}

/// Where to send the jobs. A driver has answered when every clone of this is dropped.
pub(crate) type Request = Sender<Vec<Asked>>;

/// A driver, as other threads see it.
pub(super) struct Driver {
    pub(super) kind: DriverKind,
    pub(super) thread: ThreadId,
    pub(super) thread_name: String,
    /// Where the thread keeps the job that runs.
    pub(super) current: usize,
    /// `None` if forks cannot be counted.
    process: Option<Process>,
    pub(super) ask: Box<dyn Fn(Request) + Send + Sync>,
    /// What a scheduler publishes, and a number that no other driver has.
    pub(super) gauges: Option<(Arc<Gauges>, u64)>,
}

impl Driver {
    fn is_inherited(&self) -> bool {
        self.process.is_some_and(Process::is_inherited)
    }
}

static DRIVERS: Mutex<Vec<Arc<Driver>>> = Mutex::new(Vec::new());

/// Looks at the jobs of a driver of this thread.
pub(crate) type Look = Rc<dyn Fn() -> Vec<Asked>>;

thread_local! {
    /// The drivers of this thread that can be looked at without a turn of theirs.
    static OWN: RefCell<Vec<(Arc<Driver>, Look)>> = const { RefCell::new(Vec::new()) };
}

/// Keeps a driver registered.
pub(crate) struct Registration {
    driver: Arc<Driver>,
    _not_send: PhantomData<Look>,
}

impl Registration {
    /// Registers a driver of this thread. `ask` lets the driver answer soon; it is called on any thread. `look` does
    /// the same at once, on this thread, and comes with what the driver publishes.
    pub(crate) fn new(
        kind: DriverKind,
        ask: impl Fn(Request) + Send + Sync + 'static,
        look: Option<(Look, Arc<Gauges>)>,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let this = thread::current();
        let (look, gauges) = look.unzip();
        let driver = Arc::new(Driver {
            kind,
            thread: this.id(),
            thread_name: this.name().map_or_else(|| format!("{:?}", this.id()), str::to_owned),
            current: address_of_current(),
            process: Process::current().ok(),
            ask: Box::new(ask),
            gauges: gauges.map(|gauges| (gauges, NEXT.fetch_add(1, Ordering::Relaxed))),
        });
        lock(&DRIVERS).push(Arc::clone(&driver));
        if let Some(look) = look {
            let _ = OWN.try_with(|own| own.borrow_mut().push((Arc::clone(&driver), look)));
        }
        Registration {
            driver,
            _not_send: PhantomData,
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        lock(&DRIVERS).retain(|driver| !Arc::ptr_eq(driver, &self.driver));
        let _ = OWN.try_with(|own| {
            own.borrow_mut()
                .retain(|(driver, _)| !Arc::ptr_eq(driver, &self.driver))
        });
    }
}

/// The drivers of this process that exist now. Those of a parent are not among them: no thread would answer.
pub(super) fn drivers() -> Vec<Arc<Driver>> {
    let drivers = lock(&DRIVERS);
    let own = drivers.iter().filter(|driver| !driver.is_inherited());
    own.cloned().collect()
}

/// Whether a driver still exists.
pub(super) fn has(driver: &Arc<Driver>) -> bool {
    lock(&DRIVERS).iter().any(|candidate| Arc::ptr_eq(candidate, driver))
}

/// What the thread that forks holds.
pub(super) type Held = MutexGuard<'static, Vec<Arc<Driver>>>;

pub(super) fn hold() -> Held {
    lock(&DRIVERS)
}

/// The jobs of a driver of this thread, if it can be looked at here. A panic gives none.
pub(super) fn look_at_own(driver: &Arc<Driver>) -> Option<Vec<Asked>> {
    let find = |own: &RefCell<Vec<(Arc<Driver>, Look)>>| {
        let own = own.borrow();
        let found = own.iter().find(|(candidate, _)| Arc::ptr_eq(candidate, driver));
        found.map(|(_, look)| Rc::clone(look))
    };
    let look = OWN.try_with(find).ok().flatten()?;
    catch_unwind(AssertUnwindSafe(|| look())).ok()
}

/// The numbers of the schedulers of the process that have published any.
pub(super) fn schedulers(reading: &Reading) -> Vec<SchedulerNumbers> {
    let read = |driver: Arc<Driver>| {
        let (gauges, number) = driver.gauges.as_ref()?;
        gauges.read(&driver.thread_name, *number, reading)
    };
    drivers().into_iter().filter_map(read).collect()
}
