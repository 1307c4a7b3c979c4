//! What a refused call was given, on its way back to the caller.
//!
//! A closure for a job need not be `Send`, but an error should be: then `?` carries it into `anyhow::Error` or a
//! `Box<dyn Error + Send + Sync>`. So the closure does not travel inside the error. It stays on its thread, and the error
//! holds the key to it:
//!
//! ```text
//!   the thread of the call                        any thread
//!
//!     KEPT { 7: Box<closure> }  <---- key 7 ----  Returned
//!        into_inner: taken out                       dropped here: the key goes on the list of the closure's thread,
//!        dropped: taken out and dropped              which drops the closure at its next refusal or at its end
//! ```

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use parking_lot::Mutex;

/// What a refused call was given. The value stays on the thread of the call, so that this handle to it is `Send` and
/// `Sync` whatever the value is.
///
/// Dropping the handle drops the value: at once on the value's own thread. On another thread the value is dropped later, by
/// its own thread, at that thread's next refusal or when it ends.
///
/// ```
/// use asyncjob::scheduler::Scheduler;
/// use std::rc::Rc;
///
/// fn send_and_sync<T: Send + Sync + 'static>(_: &T) {}
///
/// let scheduler = Scheduler::builder().max_jobs(0).build()?;
/// let shared = Rc::new(7);
/// let refused = scheduler.spawn(move || *shared).unwrap_err();
/// send_and_sync(&refused); // though the closure is not
/// let closure = refused.into_closure();
/// assert_eq!(closure(), 7);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Returned<T> {
    key: u64,
    home: Arc<Home>,
    value: PhantomData<fn() -> T>,
}

/// The thread that keeps a value, as other threads see it.
#[derive(Debug, Default)]
struct Home {
    /// Keys whose handles were dropped on other threads.
    dropped: Mutex<Vec<u64>>,
}

/// The values that a thread keeps.
struct Kept {
    values: RefCell<HashMap<u64, Box<dyn Any>>>,
    next_key: Cell<u64>,
    home: Arc<Home>,
}

thread_local! {
    static KEPT: Kept = Kept {
        values: RefCell::default(),
        next_key: Cell::new(0),
        home: Arc::default(),
    };
}

impl<T: 'static> Returned<T> {
    /// Keeps `value` on this thread.
    #[cold]
    pub(crate) fn new(value: T) -> Self {
        let value: Box<dyn Any> = Box::new(value);
        KEPT.try_with(|kept| {
            kept.drop_what_others_dropped();
            let key = kept.next_key.replace(kept.next_key.get() + 1);
            kept.values.borrow_mut().insert(key, value);
            (key, Arc::clone(&kept.home))
        })
        .map_or_else(|_| Returned::of_an_ending_thread(), Returned::with)
    }

    fn with((key, home): (u64, Arc<Home>)) -> Self {
        Returned {
            key,
            home,
            value: PhantomData,
        }
    }

    /// The thread's locals are gone, and the value is with them.
    fn of_an_ending_thread() -> Self {
        Self::with((u64::MAX, Arc::default()))
    }

    /// Gives the value back.
    ///
    /// # Panics
    ///
    /// On another thread than the one whose call was refused, and on that thread while its thread-locals are destroyed.
    pub fn into_inner(self) -> T {
        let value = self
            .take()
            .expect("what a refused call was given can be taken back on the thread of the call only");
        *value.downcast().expect("a key names a value of its own type")
    }
}

impl<T> Returned<T> {
    /// The value, if this is its thread and the value is still there.
    fn take(&self) -> Option<Box<dyn Any>> {
        KEPT.try_with(|kept| {
            let is_home = Arc::ptr_eq(&kept.home, &self.home);
            is_home.then(|| kept.values.borrow_mut().remove(&self.key)).flatten()
        })
        .ok()
        .flatten()
    }

    fn is_home(&self) -> bool {
        KEPT.try_with(|kept| Arc::ptr_eq(&kept.home, &self.home))
            .unwrap_or(false)
    }
}

impl<T> Drop for Returned<T> {
    fn drop(&mut self) {
        if self.is_home() {
            drop(self.take()); // after the borrow: the value's own drop may be refused a call, too
        } else {
            self.home.dropped.lock().push(self.key);
        }
    }
}

impl Kept {
    fn drop_what_others_dropped(&self) {
        let keys = std::mem::take(&mut *self.home.dropped.lock());
        for key in keys {
            let value = self.values.borrow_mut().remove(&key);
            drop(value);
        }
    }
}

impl<T> fmt::Debug for Returned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Returned").field(&std::any::type_name::<T>()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::thread;

    use super::*;

    #[test]
    fn a_value_comes_back_on_its_thread() {
        let value = Rc::new(7);
        let returned = Returned::new(Rc::clone(&value));
        assert_eq!(Rc::strong_count(&value), 2);
        assert!(Rc::ptr_eq(&returned.into_inner(), &value));
        assert_eq!(Rc::strong_count(&value), 1);
    }

    #[test]
    fn a_dropped_handle_drops_the_value() {
        let value = Rc::new(());
        drop(Returned::new(Rc::clone(&value)));
        assert_eq!(Rc::strong_count(&value), 1);
    }

    #[test]
    fn a_handle_dropped_elsewhere_drops_the_value_at_home() {
        let value = Rc::new(());
        let returned = Returned::new(Rc::clone(&value));
        thread::spawn(move || drop(returned)).join().unwrap();
        assert_eq!(Rc::strong_count(&value), 2, "another thread may not drop an Rc");
        drop(Returned::new(()));
        assert_eq!(Rc::strong_count(&value), 1);
    }

    #[test]
    fn another_thread_cannot_take_the_value() {
        let returned = Returned::new(7);
        let elsewhere = thread::spawn(move || returned.into_inner()).join();
        assert!(elsewhere.is_err());
    }
}
