//! What a refused call was given, and how the caller gets it back.
//!
//! A closure for a job need not be `Send`, but an error should be `Send` and `Sync`, so that `?` carries it into
//! `anyhow::Error` or a `Box<dyn Error + Send + Sync>`. A closure that is `Send` travels in the error. Any other
//! closure stays on its thread, and the error holds a key to it:
//!
//! ```text
//!   the thread of the call                           any thread
//!
//!     KEPT { 7: Box<closure> }  <---- key 7 -------  Returned
//!
//!     into_inner, here:      takes the value out     panics
//!     drop of the handle:    drops the value         adds the key to `dropped` of the value's thread, which drops
//!                                                    the value at its next refusal, or when it ends
//! ```

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use parking_lot::Mutex;

/// What a refused call was given. [`into_inner`](Self::into_inner) gives it back.
///
/// The handle is `Send` and `Sync` whatever the value is. After a call that asks for `Send`, such as
/// [`Handle::spawn`](crate::scheduler::Handle::spawn), the value is in the handle and goes where it goes.
///
/// After any other call the value stays on the thread of the call. When you drop the handle on that thread, the value
/// is dropped at once. When you drop it on another thread, the value's own thread drops the value later: at its next
/// refused call, or when the thread ends.
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
    place: Place,
    value: PhantomData<fn() -> T>,
}

/// Where the value is.
enum Place {
    /// In the handle. The mutex makes the handle `Sync`.
    Here(Mutex<Option<Box<dyn Any + Send>>>),
    /// On the thread that keeps it, under this key.
    OnThread(u64, Arc<KeeperThread>),
}

/// The thread that keeps a value, as other threads see it.
#[derive(Debug, Default)]
struct KeeperThread {
    /// The keys whose handles were dropped on other threads.
    dropped: Mutex<Vec<u64>>,
}

/// The values that a thread keeps.
struct KeptValues {
    values: RefCell<HashMap<u64, Box<dyn Any>>>,
    next_key: Cell<u64>,
    thread: Arc<KeeperThread>,
}

thread_local! {
    static KEPT: KeptValues = KeptValues {
        values: RefCell::default(),
        next_key: Cell::new(0),
        thread: Arc::default(),
    };
}

impl<T: 'static> Returned<T> {
    /// Keeps `value` on this thread.
    #[cold]
    pub(crate) fn new(value: T) -> Self {
        let value: Box<dyn Any> = Box::new(value);
        KEPT.try_with(|kept| {
            kept.drop_values_of_dropped_handles();
            let key = kept.next_key.replace(kept.next_key.get() + 1);
            kept.values.borrow_mut().insert(key, value);
            (key, Arc::clone(&kept.thread))
        })
        .map_or_else(|_| Returned::without_value(), Returned::with)
    }

    /// Takes `value`, which may go to other threads, into the handle.
    #[cold]
    pub(crate) fn of_send(value: T) -> Self
    where
        T: Send,
    {
        Self::at(Place::Here(Mutex::new(Some(Box::new(value)))))
    }

    fn with((key, thread): (u64, Arc<KeeperThread>)) -> Self {
        Self::at(Place::OnThread(key, thread))
    }

    fn at(place: Place) -> Self {
        Returned {
            place,
            value: PhantomData,
        }
    }

    /// A handle without a value. The thread-locals of this thread have been destroyed, and the value was dropped.
    fn without_value() -> Self {
        Self::with((u64::MAX, Arc::default()))
    }

    /// Gives the value back.
    ///
    /// # Panics
    ///
    /// If the value stays on the thread whose call was refused: on any other thread, and on that thread when its
    /// thread-locals have been destroyed.
    pub fn into_inner(self) -> T {
        let value: Box<dyn Any> = match &self.place {
            Place::Here(value) => value.lock().take().expect("a handle is taken from once"),
            Place::OnThread(key, thread) => thread
                .take(*key)
                .expect("Returned::into_inner gives this value back on the thread of the refused call only"),
        };
        *value.downcast().expect("a handle leads to a value of its own type")
    }
}

impl KeeperThread {
    /// The value under `key`, if this is its thread and the value is still there.
    fn take(self: &Arc<Self>, key: u64) -> Option<Box<dyn Any>> {
        KEPT.try_with(|kept| {
            let is_on_its_thread = Arc::ptr_eq(&kept.thread, self);
            is_on_its_thread
                .then(|| kept.values.borrow_mut().remove(&key))
                .flatten()
        })
        .ok()
        .flatten()
    }

    /// Whether this thread keeps the caller's values.
    fn is_caller(self: &Arc<Self>) -> bool {
        KEPT.try_with(|kept| Arc::ptr_eq(&kept.thread, self)).unwrap_or(false)
    }
}

impl<T> Drop for Returned<T> {
    fn drop(&mut self) {
        let Place::OnThread(key, thread) = &self.place else {
            return;
        };
        if thread.is_caller() {
            drop(thread.take(*key)); // after the borrow has ended: this drop may make a call that is refused, too
        } else {
            thread.dropped.lock().push(*key);
        }
    }
}

impl KeptValues {
    /// Drops the values whose handles were dropped on other threads.
    fn drop_values_of_dropped_handles(&self) {
        let keys = std::mem::take(&mut *self.thread.dropped.lock());
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
    fn a_handle_dropped_on_another_thread_drops_the_value_on_its_own() {
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

    #[test]
    fn a_value_that_is_send_goes_with_its_handle() {
        let value = Arc::new(7);
        let returned = Returned::of_send(Arc::clone(&value));
        let elsewhere = thread::spawn(move || returned.into_inner()).join().unwrap();
        assert!(Arc::ptr_eq(&elsewhere, &value));
        let returned = Returned::of_send(Arc::clone(&value));
        thread::spawn(move || drop(returned)).join().unwrap();
        assert_eq!(Arc::strong_count(&value), 2, "it was dropped where its handle was");
    }
}
