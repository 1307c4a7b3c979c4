//! A lock that costs the thread that takes it nearly always no atomic read-modify-write.
//!
//! A wait ctx is written by the thread of its job, and hardly ever by another one. The first thread that takes the lock
//! is its owner from then on, and takes it with plain stores. Another thread that wants the lock ends that for good:
//! from then on all threads take a mutex.
//!
//! ```text
//!              lock                    lock, another thread
//!   nobody's ---------> owned by T -------------------------> shared: a mutex
//!       ^                   |
//!       +-------------------+
//!         give_up, by T
//! ```
//!
//! | word | written by |
//! |---|---|
//! | `owner` | who holds the mutex; the owner, when it gives the lock up |
//! | `held` | the owner, before and after it uses the value |
//!
//! # Why only one thread uses the value
//!
//! The owner stores `held` and then reads `owner` again. Another thread takes the mutex, stores `owner`, and then reads
//! `held`. If both could miss the store of the other, both would use the value. A fence between store and load on each
//! side prevents that, and costs as much as the read-modify-write. So the fence of the owner is one of the compiler
//! only ([`sys::order_this_thread`]), and the other thread makes the kernel run a fence on every thread of the process
//! ([`sys::order_all_threads`], `membarrier(2)`). The fence of the kernel comes somewhere in the program of the owner:
//!
//! * after its store of `held`: then the other thread sees `held`, and waits until the owner is done;
//! * before its store of `held`, and so before its load of `owner`: then the owner sees that it is the owner no more.
//!
//! After that the former owner never begins again without the mutex. It may set `held` for a moment more, which no one
//! reads any more.
//!
//! A lock that the owner gives up becomes nobody's by a store of its own, so the owner knows of it. If that store comes
//! after the one by which another thread has made the lock a shared one, the lock is nobody's while that thread holds
//! the mutex. The next owner needs the mutex to become it.
//!
//! # The value beside
//!
//! A second value may be changed by who has both the mutex and what the owner has, and be read by who has one of the
//! two. So the owner reads it with plain stores, and any other thread with the mutex, without an end of the owner's
//! rights.
//!
//! # The memory orders
//!
//! What happens under the lock happens before what happens under it next, on whichever thread: `held` is stored with
//! `Release` and read with `Acquire`, `owner` is given up and taken with the same two, and the rest is the mutex. The
//! address of a thread may be that of an earlier one that has ended. It is then the owner of what that one had owned,
//! which needs no more than the `Acquire`.

#[cfg(asyncjob_loom)]
use loom::{
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};
use std::ops::{Deref, DerefMut};
#[cfg(not(asyncjob_loom))]
use std::{
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use parking_lot::{Mutex, MutexGuard};

use crate::sys;

/// No address of a thread.
const NOBODY: usize = 1;
/// No address of a thread.
const SHARED: usize = 2;

/// A lock around a value, and around another one [beside](self#the-value-beside) it.
pub(super) struct OwnerLock<T, B = ()> {
    /// The address of the owner, [`NOBODY`] or [`SHARED`].
    owner: AtomicUsize,
    /// The owner uses the value.
    held: AtomicBool,
    mutex: Mutex<()>,
    value: UnsafeCell<T>,
    beside: UnsafeCell<B>,
}

// SAFETY: one thread at a time uses the value, as the documentation of the module argues, and may take it away. Two may
// read the value beside, and one at a time may take it away.
unsafe impl<T: Send, B: Send + Sync> Sync for OwnerLock<T, B> {}

/// Who takes the lock with plain stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Nobody,
    ThisThread,
    /// Another thread, or no thread ever again.
    Others,
}

/// The value, which no other thread uses meanwhile.
#[must_use]
pub(super) struct Guard<'a, T, B = ()> {
    lock: &'a OwnerLock<T, B>,
    /// Absent if the owner has taken the lock.
    shared: Option<MutexGuard<'a, ()>>,
}

impl<T, B> OwnerLock<T, B> {
    pub(super) fn new(value: T) -> Self
    where
        B: Default,
    {
        OwnerLock {
            owner: AtomicUsize::new(NOBODY),
            held: AtomicBool::new(false),
            mutex: Mutex::new(()),
            value: UnsafeCell::new(value),
            beside: UnsafeCell::new(B::default()),
        }
    }

    /// Takes the lock. The caller runs no code of the user before it lets go of it.
    ///
    /// # Panics
    ///
    /// If this thread holds it, which code of the user could bring about in an allocator or in a handler of a signal.
    #[inline]
    pub(super) fn lock(&self) -> Guard<'_, T, B> {
        self.lock_if_owner().unwrap_or_else(|| self.lock_as_other())
    }

    /// Takes the lock if this thread is the owner.
    #[inline]
    pub(super) fn lock_if_owner(&self) -> Option<Guard<'_, T, B>> {
        let me = sys::thread_address();
        if self.owner.load(Ordering::Relaxed) == me && self.begin(me) {
            return Some(Guard {
                lock: self,
                shared: None,
            });
        }
        None
    }

    /// Takes the lock for its owner. Returns whether this thread, which was the owner, is it still.
    #[inline]
    fn begin(&self, me: usize) -> bool {
        if self.held.load(Ordering::Acquire) {
            is_held_already();
        }
        self.held.store(true, Ordering::Relaxed);
        sys::order_this_thread();
        let is_owner = self.owner.load(Ordering::Relaxed) == me;
        if !is_owner {
            self.held.store(false, Ordering::Release);
        }
        is_owner
    }

    #[cold]
    #[inline(never)]
    fn lock_as_other(&self) -> Guard<'_, T, B> {
        let me = sys::thread_address();
        loop {
            let mutex = self.mutex.lock();
            match self.owner.load(Ordering::Acquire) {
                NOBODY if sys::can_order_all_threads() => {
                    self.owner.store(me, Ordering::Relaxed);
                    drop(mutex);
                    // All uses of the value by an owner are between two stores of `held`, this one too.
                    if self.begin(me) {
                        return Guard {
                            lock: self,
                            shared: None,
                        };
                    }
                    continue;
                }
                NOBODY => self.owner.store(SHARED, Ordering::Relaxed),
                SHARED => {}
                _ => self.share(),
            }
            return Guard {
                lock: self,
                shared: Some(mutex),
            };
        }
    }

    /// Makes the lock a shared one. The caller holds the mutex. When this returns, the owner does not use the value,
    /// and never will without the mutex.
    fn share(&self) {
        self.owner.store(SHARED, Ordering::Relaxed);
        sys::order_all_threads();
        while self.held.load(Ordering::Acquire) {
            wait_a_moment();
        }
    }

    /// This thread will not take the lock for some time. If it is the owner, the next thread that takes the lock is the
    /// owner after it.
    pub(super) fn give_up(&self) {
        if self.owner.load(Ordering::Relaxed) == sys::thread_address() {
            self.owner.store(NOBODY, Ordering::Release);
        }
    }

    /// Makes the lock what it was when it was new. No thread uses it, as the exclusive borrow says.
    #[cfg(not(asyncjob_loom))]
    #[inline]
    pub(super) fn renew(&mut self) {
        *self.owner.get_mut() = NOBODY;
    }

    #[cfg(not(asyncjob_loom))]
    #[inline]
    pub(super) fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    #[cfg(not(asyncjob_loom))]
    #[inline]
    pub(super) fn beside_mut(&mut self) -> &mut B {
        self.beside.get_mut()
    }

    /// Who is the owner now. If it is this thread, it stays so until another one takes the lock.
    #[inline]
    pub(super) fn owner(&self) -> Owner {
        match self.owner.load(Ordering::Relaxed) {
            NOBODY => Owner::Nobody,
            owner if owner == sys::thread_address() => Owner::ThisThread,
            _ => Owner::Others,
        }
    }

    /// Makes this thread the owner if the lock is nobody's. Returns whether it is the owner now.
    #[cold]
    pub(super) fn own_if_nobodys(&self) -> bool {
        let me = sys::thread_address();
        let _mutex = self.mutex.lock();
        // Acquire: as in `lock_as_other`.
        if self.owner.load(Ordering::Acquire) == NOBODY && sys::can_order_all_threads() {
            self.owner.store(me, Ordering::Relaxed);
        }
        self.owner.load(Ordering::Relaxed) == me
    }

    /// If this thread is the owner, it is the last one.
    #[inline]
    pub(super) fn end_owning(&self) {
        if self.owner.load(Ordering::Relaxed) == sys::thread_address() {
            // Release: another thread reads it and takes the mutex, which this one has not held.
            self.owner.store(SHARED, Ordering::Release);
        }
    }

    /// Calls `f` with the value beside, if this thread is the owner.
    #[inline]
    pub(super) fn beside_as_owner<R>(&self, f: impl FnOnce(&B) -> R) -> Option<R> {
        let _held = self.lock_if_owner()?;
        Some(self.with_beside(f))
    }

    /// Calls `f` with the value beside, whoever is the owner.
    pub(super) fn beside_as_other<R>(&self, f: impl FnOnce(&B) -> R) -> R {
        let _mutex = self.mutex.lock();
        self.with_beside(f)
    }

    /// Replaces the value beside, and returns the one before.
    ///
    /// This makes nobody the owner, but if another thread is, then it ends that.
    pub(super) fn replace_beside(&self, new: B) -> B {
        let _mutex = self.mutex.lock();
        // Acquire: as in `lock_as_other`. Nobody becomes the owner without the mutex.
        match self.owner.load(Ordering::Acquire) {
            NOBODY | SHARED => {}
            owner if owner == sys::thread_address() => {}
            _ => self.share(),
        }
        #[cfg(asyncjob_loom)]
        return self.beside.with_mut(|beside| {
            // SAFETY: as below.
            unsafe { std::mem::replace(&mut *beside, new) }
        });
        #[cfg(not(asyncjob_loom))]
        // SAFETY: this thread has the mutex, and it is the owner or there is none. So nobody else uses the value.
        unsafe {
            std::mem::replace(&mut *self.beside.get(), new)
        }
    }

    /// The caller has the mutex or what the owner has, for as long as `f` runs.
    #[inline]
    fn with_beside<R>(&self, f: impl FnOnce(&B) -> R) -> R {
        #[cfg(asyncjob_loom)]
        return self.beside.with(|beside| {
            // SAFETY: as below.
            f(unsafe { &*beside })
        });
        #[cfg(not(asyncjob_loom))]
        // SAFETY: nobody changes the value as long as the caller has what it has.
        f(unsafe { &*self.beside.get() })
    }
}

#[cold]
#[inline(never)]
fn is_held_already() -> ! {
    panic!(concat!(
        "a wait ctx is used while this very thread changes it: neither an allocator nor a handler of a signal may use \
         one",
        guide_page!("engine")
    ));
}

/// The owner is done in some nanoseconds, unless the system does not run it now.
fn wait_a_moment() {
    #[cfg(asyncjob_loom)]
    loom::thread::yield_now();
    #[cfg(not(asyncjob_loom))]
    std::thread::sleep(std::time::Duration::from_micros(20));
}

impl<T, B> Deref for Guard<'_, T, B> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        #[cfg(asyncjob_loom)]
        let value = self.lock.value.with(|value| value);
        #[cfg(not(asyncjob_loom))]
        let value = self.lock.value.get();
        // SAFETY: the lock is held, so no other thread uses the value, and this guard lends it out.
        unsafe { &*value }
    }
}

impl<T, B> DerefMut for Guard<'_, T, B> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        #[cfg(asyncjob_loom)]
        let value = self.lock.value.with_mut(|value| value);
        #[cfg(not(asyncjob_loom))]
        let value = self.lock.value.get();
        // SAFETY: the lock is held, so no other thread uses the value, and this guard is borrowed exclusively.
        unsafe { &mut *value }
    }
}

impl<T, B> Drop for Guard<'_, T, B> {
    #[inline]
    fn drop(&mut self) {
        if self.shared.is_none() {
            self.lock.held.store(false, Ordering::Release);
        }
    }
}

#[cfg(all(test, not(asyncjob_loom)))]
mod tests {
    use super::*;

    fn is_owned(lock: &OwnerLock<i32>) -> bool {
        lock.owner.load(Ordering::Relaxed) == sys::thread_address()
    }

    #[test]
    fn the_first_thread_that_takes_it_owns_it_until_another_takes_it() {
        let lock = OwnerLock::<_>::new(0);
        for _ in 0..2 {
            *lock.lock() += 1;
            assert_eq!(is_owned(&lock), sys::can_order_all_threads());
        }
        std::thread::scope(|scope| {
            scope.spawn(|| *lock.lock() += 1);
        });
        for _ in 0..2 {
            *lock.lock() += 1;
            assert!(!is_owned(&lock), "it has been shared");
        }
        assert_eq!(*lock.lock(), 5);
    }

    #[test]
    fn the_next_thread_owns_what_the_owner_gives_up() {
        let lock = OwnerLock::<_>::new(0);
        *lock.lock() += 1;
        lock.give_up();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                *lock.lock() += 1;
                assert_eq!(is_owned(&lock), sys::can_order_all_threads());
                lock.give_up();
            });
        });
        *lock.lock() += 1;
        assert_eq!(is_owned(&lock), sys::can_order_all_threads());
        assert_eq!(*lock.lock(), 3);
    }

    /// Another thread comes while the owner uses the value again and again.
    #[test]
    fn no_use_of_the_value_is_lost_when_another_thread_comes() {
        let (rounds, uses) = if cfg!(miri) { (8, 20) } else { (500, 200) };
        for round in 0..rounds {
            let lock = OwnerLock::<_>::new(0);
            *lock.lock() += 1;
            let use_it = || (0..uses).for_each(|_| *lock.lock() += 1);
            std::thread::scope(|scope| {
                scope.spawn(use_it);
                use_it();
                if round % 2 == 0 {
                    lock.give_up();
                }
                use_it();
            });
            assert_eq!(*lock.lock(), 1 + 3 * uses);
        }
    }

    #[test]
    #[should_panic(expected = "while this very thread changes it")]
    fn the_owner_does_not_take_it_twice() {
        let lock = OwnerLock::<_>::new(0);
        drop(lock.lock());
        if !sys::can_order_all_threads() {
            is_held_already(); // the second would wait for ever
        }
        let _held = lock.lock();
        drop(lock.lock());
    }
}

/// Every order in which an owner and other threads can meet. `cargo test -p asyncjob-loom` runs them.
#[cfg(all(test, asyncjob_loom))]
mod tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    #[test]
    fn one_thread_at_a_time_uses_the_value() {
        loom::model(|| {
            let lock = Arc::new(OwnerLock::<_>::new(0));
            *lock.lock() += 1;
            let other = Arc::clone(&lock);
            let other = thread::spawn(move || {
                for _ in 0..2 {
                    *other.lock() += 1;
                }
            });
            for _ in 0..2 {
                *lock.lock() += 1;
            }
            other.join().unwrap();
            assert_eq!(*lock.lock(), 5);
        });
    }

    #[test]
    fn one_of_two_becomes_the_owner() {
        loom::model(|| {
            let lock = Arc::new(OwnerLock::<_>::new(0));
            let others = [1, 2].map(|_| {
                let lock = Arc::clone(&lock);
                thread::spawn(move || *lock.lock() += 1)
            });
            others.into_iter().for_each(|other| other.join().unwrap());
            assert_eq!(*lock.lock(), 2);
        });
    }

    #[test]
    fn what_the_owner_did_is_there_after_it_has_given_up() {
        loom::model(|| {
            let lock = Arc::new(OwnerLock::<_>::new(0));
            let other = Arc::clone(&lock);
            let other = thread::spawn(move || {
                *other.lock() += 1;
                other.give_up();
            });
            *lock.lock() += 1;
            *lock.lock() += 1;
            other.join().unwrap();
            assert_eq!(*lock.lock(), 3);
        });
    }

    /// The one who has a stale view of the owner is the third thread.
    #[test]
    fn an_owner_gives_it_up_while_two_threads_take_it() {
        loom::model(|| {
            let lock = Arc::new(OwnerLock::<_>::new(0));
            *lock.lock() += 1;
            let others = [1, 2].map(|_| {
                let lock = Arc::clone(&lock);
                thread::spawn(move || *lock.lock() += 1)
            });
            lock.give_up();
            others.into_iter().for_each(|other| other.join().unwrap());
            assert_eq!(*lock.lock(), 3);
        });
    }
}
