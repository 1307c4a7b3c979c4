//! What the sources of `asyncjob` name, in a form that loom controls.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use loom::sync::atomic::{Ordering, fence};
use loom::thread::{self, Thread};

/// `parking_lot::Mutex`, which has no poison.
#[derive(Default)]
pub struct Mutex<T>(loom::sync::Mutex<T>);

/// `parking_lot::MutexGuard`. It is empty only while its thread waits for a [`Condvar`].
pub struct MutexGuard<'a, T>(Option<loom::sync::MutexGuard<'a, T>>);

/// `parking_lot::Condvar`.
#[derive(Default)]
pub struct Condvar(loom::sync::Condvar);

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.0.as_ref().expect("the thread does not wait")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("the thread does not wait")
    }
}

impl Condvar {
    /// As in `parking_lot`.
    pub fn new() -> Self {
        Self::default()
    }

    /// As in `parking_lot`.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.0.take().expect("the thread does not wait");
        guard.0 = Some(self.0.wait(held).expect("no thread panics"));
    }

    /// As in `parking_lot`.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// As in `parking_lot`.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

impl<T> Mutex<T> {
    /// As in `parking_lot`.
    pub fn new(value: T) -> Self {
        Mutex(loom::sync::Mutex::new(value))
    }

    /// As in `parking_lot`.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().expect("no thread panics")))
    }
}

/// `crossbeam_queue::SegQueue`, whose operations are sequentially consistent. It has a lock here.
pub struct SegQueue<T>(Mutex<VecDeque<T>>);

impl<T> SegQueue<T> {
    /// As in `crossbeam_queue`.
    #[allow(clippy::new_without_default, reason = "nothing calls it")]
    pub fn new() -> Self {
        SegQueue(Mutex::new(VecDeque::new()))
    }

    fn locked(&self) -> MutexGuard<'_, VecDeque<T>> {
        fence(Ordering::SeqCst); // loom knows sequential consistency of fences only
        self.0.lock()
    }

    /// As in `crossbeam_queue`.
    pub fn push(&self, value: T) {
        self.locked().push_back(value);
        fence(Ordering::SeqCst);
    }

    /// As in `crossbeam_queue`.
    pub fn pop(&self) -> Option<T> {
        self.locked().pop_front()
    }

    /// As in `crossbeam_queue`.
    pub fn len(&self) -> usize {
        self.locked().len()
    }

    /// As in `crossbeam_queue`.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Polls until the poll is ready. The thread sleeps in between, until its waker is called.
pub(crate) fn block_on<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut task = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(value) = poll(&mut task) {
            return value;
        }
        thread::park();
    }
}

pub(crate) mod sys {
    //! The system: an eventfd, the process, and fences.

    use std::io;
    use std::os::fd::RawFd;

    use loom::sync::atomic::{Ordering, fence};
    use loom::sync::{Condvar, Mutex};

    /// A number that no other thread has.
    pub(crate) fn thread_address() -> usize {
        use std::sync::atomic::AtomicUsize;
        static NEXT: AtomicUsize = AtomicUsize::new(16);
        loom::thread_local!(static HERE: usize = NEXT.fetch_add(1, Ordering::Relaxed));
        HERE.with(|here| *here)
    }

    /// The two fences of one asymmetric pair, which are two equal ones here.
    pub(crate) fn order_this_thread() {
        fence(Ordering::SeqCst);
    }

    pub(crate) fn order_all_threads() {
        fence(Ordering::SeqCst);
    }

    pub(crate) fn can_order_all_threads() -> bool {
        true
    }

    /// This process, which has no child here.
    #[derive(Clone, Copy)]
    pub(crate) struct Process;

    impl Process {
        pub(crate) fn is_inherited(self) -> bool {
            false
        }
    }

    /// An eventfd: a flag that a thread can sleep on.
    pub(crate) struct Notifier {
        readable: Mutex<bool>,
        changed: Condvar,
    }

    impl Notifier {
        pub(crate) fn new() -> io::Result<Self> {
            Ok(Notifier {
                readable: Mutex::new(false),
                changed: Condvar::new(),
            })
        }

        pub(crate) fn process(&self) -> Process {
            Process
        }

        pub(crate) fn raw(&self) -> RawFd {
            -1
        }

        pub(crate) fn notify(&self) {
            *self.readable.lock().expect("no thread panics") = true;
            self.changed.notify_one();
        }

        /// Sleeps until the fd is readable, which is what `epoll_wait` does with it, and makes it unreadable.
        pub(crate) fn drain(&self) -> bool {
            let mut readable = self.readable.lock().expect("no thread panics");
            while !*readable {
                readable = self.changed.wait(readable).expect("no thread panics");
            }
            std::mem::take(&mut *readable)
        }
    }
}
