//! What the C interface needs of a ctx, for `asyncjob-capi-lib`: hidden from the documentation, and no promise to
//! others.
//!
//! A C program may free a ctx at any time, on any thread. The C interface keeps the ctx then, for the next one. It
//! takes the lock first, and looks at the program's handle under the lock: a change is so never made to the next ctx.

use std::any::Any;
use std::fmt;
use std::sync::atomic::Ordering;
use std::task::Waker;

use super::callback::Callback;
use super::owner_lock::Guard;
use super::{Entries, Fd, Inner, NO_DEADLINE, Record, Status, WaitCtx, WaitFd, WaitKey, WaitValue};

/// A ctx that no other thread changes meanwhile. Readers do not wait for it.
#[doc(hidden)]
#[must_use]
pub struct Locked<'a> {
    inner: &'a Inner,
    entries: Guard<'a, Entries, Option<Callback>>,
}

impl fmt::Debug for Locked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locked").finish_non_exhaustive()
    }
}

#[doc(hidden)]
impl WaitCtx {
    #[inline]
    pub fn lock(&self) -> Locked<'_> {
        Locked {
            inner: &self.inner,
            entries: self.inner.entries.lock(),
        }
    }

    /// Calls `f` with the records of all entries, oldest first. No lock is held then.
    #[inline]
    pub fn with_records<R>(&self, f: impl FnOnce(&[Record]) -> R) -> R {
        self.inner.read(f)
    }

    /// The fd that was added last under `key` and not removed, with its data.
    #[inline]
    pub fn newest_fd(&self, key: WaitKey) -> Option<(Fd, usize)> {
        self.inner.newest(key)
    }

    /// As [`newest_fd`](Self::newest_fd), for one attempt without the lock: `None` if that does not do.
    #[inline]
    pub fn newest_fd_now(&self, key: WaitKey) -> Option<Option<(Fd, usize)>> {
        self.inner.view.newest(key)
    }

    /// How many entries there are, and their fds, oldest first, if that is known without the lock. Behind the last
    /// there is any word.
    #[inline]
    pub fn fds_now(&self) -> Option<(usize, [Fd; 2])> {
        self.inner.view.fds()
    }

    /// The callback of a C program, and its argument. The function is 0 if none is set.
    #[inline]
    pub fn c_callback(&self) -> [usize; 2] {
        let callback = self.inner.view.callback();
        callback.unwrap_or_else(|| self.inner.entries.lock().callback())
    }

    /// Whether [`set_callback`](Self::set_callback) has set a callback.
    #[inline]
    pub fn has_callback(&self) -> bool {
        self.inner.callback_state.load(Ordering::Relaxed) & 1 != 0 // who sees it takes the lock
    }

    /// The callback of a C program, for code that knows wakers only.
    pub(super) fn waker_of_c_callback(&self) -> Option<Waker> {
        if self.c_callback()[0] == 0 {
            return None;
        }
        let entries = self.inner.entries.lock();
        let (waker_of, callback) = (entries.waker_of()?, entries.callback());
        drop(entries); // the function is that of the C interface
        Some(waker_of(callback))
    }

    /// Whether a job has the ctx, or there is another handle to it than this one.
    #[inline]
    pub fn is_shared(&self) -> bool {
        // Acquire: the caller gives the ctx to others, after what its last job has done with it.
        self.inner.is_shared() || self.inner.jobs_of_c.load(Ordering::Acquire) > 0
    }

    /// This thread will not change the ctx for some time. Another one that takes the lock next takes it from nobody.
    #[inline]
    pub fn give_up(&self) {
        self.inner.entries.give_up();
    }

    /// Whether the next resume has to settle the entries.
    #[inline]
    pub fn is_unsettled(&self) -> bool {
        // A job that has changed its wait fds has done so before it paused, and its driver knows of the pause.
        self.inner.unsettled.load(Ordering::Relaxed)
    }
}

#[doc(hidden)]
impl Locked<'_> {
    /// Adds a wait fd whose value is two words. The caller keeps the contract of [`WaitCtx::add_raw_wait_fd`].
    #[allow(unsafe_code, reason = "its contract is about fds; its body is safe")]
    pub unsafe fn add_words(&mut self, fd: WaitFd, data: usize, cleanup: usize) {
        self.entries.add_words(&self.inner.view, fd, data, cleanup);
        self.inner.changed(true);
    }

    /// Adds a wait fd with a word, and with a value that owns the fd. The caller keeps the contract of
    /// [`WaitCtx::add_raw_wait_fd`].
    #[allow(unsafe_code, reason = "its contract is about fds; its body is safe")]
    pub unsafe fn add_with_data(&mut self, fd: WaitFd, data: usize, value: WaitValue) {
        self.entries.add_with_data(&self.inner.view, fd, data, value);
        self.inner.changed(true);
    }

    /// Counts a paused job that has the ctx without a count of its own, because the ctx exists for ever. A count that
    /// all handles share costs an atomic read-modify-write at the first pause and at the end of each job.
    #[inline]
    pub fn add_job(self) {
        let jobs = &self.inner.jobs_of_c;
        jobs.store(jobs.load(Ordering::Relaxed) + 1, Ordering::Relaxed); // under the lock
    }

    /// A job that was [counted](Self::add_job) has ended.
    #[inline]
    pub fn remove_job(self) {
        let jobs = &self.inner.jobs_of_c;
        jobs.store(jobs.load(Ordering::Relaxed) - 1, Ordering::Release); // see `is_shared`
    }

    /// Removes the newest entry under `key`. Returns whether there was one.
    #[inline]
    pub fn remove(self, key: WaitKey) -> bool {
        self.take(key).is_some()
    }

    /// Removes the newest entry under `key`, and returns its value, if it has one. Returns `None` if there is no entry.
    #[inline]
    pub fn take(mut self, key: WaitKey) -> Option<Option<WaitValue>> {
        let value = self.entries.remove(&self.inner.view, key)?;
        self.inner.changed(self.entries.is_unsettled());
        Some(value) // the caller drops it after the lock is released: the drop of a value may run any code
    }

    pub fn set_c_callback(&mut self, callback: [usize; 2], waker_of: fn([usize; 2]) -> Waker) {
        self.entries.set_callback(callback, waker_of);
        self.inner.view.show_callback(&self.entries);
        self.inner.callback_state.fetch_add(2, Ordering::Release);
    }

    /// What the C interface keeps with the ctx.
    pub fn attachment(&mut self) -> &mut Option<Box<dyn Any + Send>> {
        self.entries.attachment()
    }

    pub fn set_status(&mut self, status: Status) {
        // Release: who reads this status, then has an Acquire fence, and then looks at the handle of the C program,
        // sees that an earlier handle of the same ctx has ended.
        self.inner.status.store(status.to_raw(), Ordering::Release);
    }

    /// The newest entry with a cleanup routine that is older than `serial` and not removed, with its routine.
    pub fn cleanup_before(&self, serial: u64) -> Option<(Record, usize)> {
        self.entries.cleanup_before(serial)
    }

    /// Makes the ctx what it was when it was new, apart from its version.
    pub fn reset(mut self) {
        let mut values = None;
        if self.entries.len() > 0 {
            values = self.entries.clear(&self.inner.view);
            self.inner.changed(false);
        }
        if self.entries.callback() != [0; 2] {
            self.entries.clear_callback();
            self.inner.view.show_callback(&self.entries);
        }
        self.set_status(Status::default());
        let inner = self.inner;
        drop(self);
        drop(values); // after the lock is released, newest first
        // What only Rust code sets.
        if inner.callback_state.load(Ordering::Relaxed) & 1 != 0 {
            inner.set_callback(None);
        }
        inner.deadline.store(NO_DEADLINE, Ordering::Relaxed);
        inner.armed.store(0, Ordering::Relaxed);
    }
}
