//! The drivers of the process, and how to ask them.
//!
//! A driver is registered for as long as its [`Registration`] exists. The registration stays on the thread of the
//! driver, because the driver does.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::{self, ThreadId};
use std::time::Duration;

use parking_lot::Mutex;

use crate::job::{JobInfo, address_of_current};

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
    pub(super) ask: Box<dyn Fn(Request) + Send + Sync>,
}

static DRIVERS: Mutex<Vec<Arc<Driver>>> = Mutex::new(Vec::new());

/// Looks at the jobs of a driver of this thread.
type Look = Rc<dyn Fn() -> Vec<Asked>>;

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
    /// the same at once, on this thread.
    pub(crate) fn new(
        kind: DriverKind,
        ask: impl Fn(Request) + Send + Sync + 'static,
        look: Option<Rc<dyn Fn() -> Vec<Asked>>>,
    ) -> Self {
        let this = thread::current();
        let driver = Arc::new(Driver {
            kind,
            thread: this.id(),
            thread_name: this.name().map_or_else(|| format!("{:?}", this.id()), str::to_owned),
            current: address_of_current(),
            ask: Box::new(ask),
        });
        DRIVERS.lock().push(Arc::clone(&driver));
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
        DRIVERS.lock().retain(|driver| !Arc::ptr_eq(driver, &self.driver));
        let _ = OWN.try_with(|own| {
            own.borrow_mut()
                .retain(|(driver, _)| !Arc::ptr_eq(driver, &self.driver))
        });
    }
}

/// The drivers that exist now. There are none if the registry stays locked: in a process that was forked while another
/// thread had the lock.
pub(super) fn drivers(within: Duration) -> Vec<Arc<Driver>> {
    DRIVERS
        .try_lock_for(within)
        .map_or_else(Vec::new, |drivers| drivers.clone())
}

/// The jobs of a driver of this thread, if it can be looked at here. A panic of a job's hook gives none.
pub(super) fn look_at_own(driver: &Arc<Driver>) -> Option<Vec<Asked>> {
    let find = |own: &RefCell<Vec<(Arc<Driver>, Look)>>| {
        let own = own.borrow();
        let found = own.iter().find(|(candidate, _)| Arc::ptr_eq(candidate, driver));
        found.map(|(_, look)| Rc::clone(look))
    };
    let look = OWN.try_with(find).ok().flatten()?;
    catch_unwind(AssertUnwindSafe(|| look())).ok()
}
