//! What a job waits for.
//!
//! A [`WaitCtx`] stands for one asynchronous session (in TLS: one connection). The code inside the job (an engine, or
//! [`io`](crate::io) and its siblings) writes into it why the job pauses; the driver outside reads it to know when to
//! resume. Neither knows the other.
//!
//! ```text
//!              inside: says why                     outside: knows when
//!
//!              wait fds, by key   -------------->   fds(), changes()
//!              status             -------------->   status()
//!              deadline           -------------->   deadline()
//!              callback()         <--------------   set_callback(waker)
//! ```
//!
//! An entry, one wait fd under its key, is in one of these states between two resumes:
//!
//! | state | entered by | reported by |
//! |---|---|---|
//! | added | `set_wait_fd` | `fds`, `changes().added` |
//! | settled | the next resume of a job bound to the ctx (S42) | `fds` |
//! | removed | `clear_fd` of a settled entry | `changes().removed`, until that resume (S58) |
//! | gone | `clear_fd` of an added entry (S56); the resume after a removal | nothing |
//!
//! An entry owns a value (an `OwnedFd`, an engine's request). Dropping the ctx drops the values, newest first: that is
//! OpenSSL's cleanup routine (S60). Clearing the key gives the value back instead, because OpenSSL calls no cleanup then.
//!
//! The manual page is `ASYNC_WAIT_CTX_new(3)`; numbers such as S42 are observed behaviours of OpenSSL, listed in the
//! tests that cite them.

use std::any::Any;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Names an entry of a [`WaitCtx`]: the `const void *key` of the C interface, compared by address only (S53).
///
/// Each piece of code that waits uses a key of its own, so that several can share one ctx.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WaitKey(usize);

impl WaitKey {
    /// The address of something that lives as long as the entry: in C, usually the `ENGINE *`.
    pub fn from_ptr<T: ?Sized>(ptr: *const T) -> Self {
        WaitKey(ptr.cast::<u8>() as usize)
    }

    /// A key that no other call and no address equals.
    pub fn unique() -> Self {
        // User space ends below the top bit on every Linux that we run on, so these are no addresses.
        static NEXT: AtomicUsize = AtomicUsize::new(1 << (usize::BITS - 1));
        WaitKey(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What a wait fd is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Interest {
    /// The fd is readable: the only kind that C programs see, and the default.
    Readable,
    /// The fd is writable.
    Writable,
    /// Either.
    Both,
}

impl Interest {
    /// Whether to wake for readable.
    pub fn is_readable(self) -> bool {
        self != Interest::Writable
    }

    /// Whether to wake for writable.
    pub fn is_writable(self) -> bool {
        self != Interest::Readable
    }
}

/// A wait fd as a driver sees it, and as the detailed way to register one: [`WaitCtx::set_wait_fd_with`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitFd {
    /// Who waits.
    pub key: WaitKey,
    /// The number to poll. Never read, drained or closed by a driver.
    pub fd: RawFd,
    /// What to poll for.
    pub interest: Interest,
    /// Waited for only during a pause that names its key with [`WaitCtx::arm`], where an ordinary entry counts at every
    /// pause.
    ///
    /// A socket stays registered for the life of its connection this way, and data that arrives during another wait of
    /// the same job (for a signature, say) does not resume it again and again.
    pub on_call: bool,
}

impl WaitFd {
    /// `fd` under `key`: readable, counted at every pause.
    pub fn new(key: WaitKey, fd: RawFd) -> Self {
        WaitFd {
            key,
            fd,
            interest: Interest::Readable,
            on_call: false,
        }
    }

    /// Whether it is waited for while `armed` is the armed key.
    pub(crate) fn counts(&self, armed: Option<WaitKey>) -> bool {
        !self.on_call || armed == Some(self.key)
    }
}

/// The wait fds added and removed since the last resume: see [`WaitCtx::changes`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Newest first.
    pub added: Vec<WaitFd>,
    /// Newest first. Handle these before `added` and ignore their errors: a closed and reopened fd has the same number.
    pub removed: Vec<WaitFd>,
}

/// What an engine says of the request that the job waits for (`ASYNC_WAIT_CTX_set_status(3)`, S65, S66).
///
/// It stays until it is set again, across pauses and jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// The engine uses no callback: wait for the fds. The default.
    #[default]
    Unsupported,
    /// The engine is broken for this session: cancel the job.
    Err,
    /// Submitted: the callback will be called.
    Ok,
    /// Not submitted, a queue was full: resume the job later, no callback will come.
    Eagain,
    /// Any other number: OpenSSL stores it and interprets nothing.
    Other(i32),
}

impl Status {
    /// The status with this number in C.
    pub fn from_raw(raw: i32) -> Self {
        match raw {
            0 => Status::Unsupported,
            1 => Status::Err,
            2 => Status::Ok,
            3 => Status::Eagain,
            other => Status::Other(other),
        }
    }

    /// Its number in C (S2).
    pub fn raw(self) -> i32 {
        match self {
            Status::Unsupported => 0,
            Status::Err => 1,
            Status::Ok => 2,
            Status::Eagain => 3,
            Status::Other(raw) => raw,
        }
    }
}

/// Makes a callback from a closure: small, non-blocking, called from any thread, any number of times.
///
/// Rust's name for such a function is [`Waker`], so that is what [`WaitCtx::set_callback`] takes.
///
/// ```
/// use asyncjob::{WaitCtx, callback};
/// use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
/// use std::sync::Arc;
///
/// let calls = Arc::new(AtomicU32::new(0));
/// let ctx = WaitCtx::new();
/// let counter = calls.clone();
/// ctx.set_callback(Some(callback(move || { counter.fetch_add(1, Relaxed); })));
///
/// let engine = ctx.clone();
/// std::thread::spawn(move || engine.callback().unwrap().wake()).join().unwrap();
/// assert_eq!(calls.load(Relaxed), 1);
/// ```
pub fn callback<F: Fn() + Send + Sync + 'static>(f: F) -> Waker {
    struct Callback<F>(F);
    impl<F: Fn() + Send + Sync + 'static> Wake for Callback<F> {
        fn wake(self: Arc<Self>) {
            (self.0)();
        }
        fn wake_by_ref(self: &Arc<Self>) {
            (self.0)();
        }
    }
    Waker::from(Arc::new(Callback(f)))
}

/// One asynchronous session: what its job waits for, and how to say that it happened.
///
/// Clones are handles to the same ctx. Every method may be called from any thread: an engine's polling thread reads the
/// callback while the job's thread adds fds (S47). A job holds the ctx that it was started with until it ends.
///
/// ```
/// use asyncjob::{WaitCtx, WaitKey};
/// use std::io::pipe;
///
/// let ctx = WaitCtx::new();
/// let key = WaitKey::unique();
/// let (reader, _writer) = pipe()?;
/// ctx.set_wait_fd(key, reader);
/// assert_eq!(ctx.fds().len(), 1);
/// assert_eq!(ctx.changes().added, ctx.fds());
///
/// let reader = ctx.clear_fd(key).unwrap().downcast::<std::io::PipeReader>().unwrap();
/// assert!(ctx.fds().is_empty());
/// # drop(reader);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct WaitCtx {
    inner: Arc<Inner>,
}

struct Inner {
    /// Goes up at every change of the entries, so that a driver that has seen a version need not look again.
    version: AtomicU32,
    /// Some entry is added or removed: the next resume has to settle them.
    unsettled: AtomicBool,
    status: AtomicI32,
    /// Nanoseconds after [`epoch`], or [`NO_DEADLINE`].
    deadline: AtomicU64,
    /// The key of the on-call entry that counts now, or 0.
    armed: AtomicUsize,
    /// Oldest first.
    entries: Mutex<Vec<Entry>>,
    /// Behind an `Arc`, so that the user's `Waker::clone` and `drop` run after the lock is released.
    callback: Mutex<Option<Arc<Waker>>>,
}

struct Entry {
    fd: WaitFd,
    added: bool,
    removed: bool,
    value: Option<Box<dyn Any + Send>>,
}

impl Entry {
    fn is_live(&self, key: WaitKey) -> bool {
        !self.removed && self.fd.key == key
    }

    fn copied<V: Copy + 'static>(&self) -> Option<(WaitFd, V)> {
        let value = self.value.as_ref()?.downcast_ref::<V>()?;
        Some((self.fd, *value))
    }
}

/// A value on loan from its entry, which it goes back to when this is dropped.
struct BorrowedValue<'a> {
    ctx: &'a WaitCtx,
    fd: WaitFd,
    value: Option<Box<dyn Any + Send>>,
}

impl Drop for BorrowedValue<'_> {
    fn drop(&mut self) {
        let mut entries = self.ctx.inner.entries.lock();
        // By the fd too: an older entry under the same key may have lent its value to another thread meanwhile.
        let owner = |e: &&mut Entry| e.is_live(self.fd.key) && e.fd.fd == self.fd.fd && e.value.is_none();
        if let Some(entry) = entries.iter_mut().rev().find(owner) {
            entry.value = self.value.take();
        }
        drop(entries); // before a value that was cleared meanwhile
    }
}

const NO_DEADLINE: u64 = u64::MAX;

/// Deadlines are stored as a number, so that reading one takes no lock: nanoseconds since the first call.
fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

impl Default for WaitCtx {
    fn default() -> Self {
        Self::new()
    }
}

impl WaitCtx {
    /// A ctx with no wait fds, no callback, no deadline and status [`Status::Unsupported`].
    pub fn new() -> Self {
        WaitCtx {
            inner: Arc::new(Inner {
                version: AtomicU32::new(0),
                unsettled: AtomicBool::new(false),
                status: AtomicI32::new(0),
                deadline: AtomicU64::new(NO_DEADLINE),
                armed: AtomicUsize::new(0),
                entries: Mutex::new(Vec::new()),
                callback: Mutex::new(None),
            }),
        }
    }

    /// Whether both are handles to one ctx.
    pub fn ptr_eq(&self, other: &WaitCtx) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Waits for `value` to be readable, under `key`, at every pause until the key is cleared.
    ///
    /// The ctx owns `value` and so keeps the fd open. Keys are not unique (S52): a second value under the same key hides
    /// the first until it is cleared.
    pub fn set_wait_fd<V: AsFd + Send + 'static>(&self, key: WaitKey, value: V) {
        let fd = value.as_fd().as_raw_fd();
        self.set_wait_fd_with(WaitFd::new(key, fd), Box::new(value));
    }

    /// The detailed form: any fd number, interest and value.
    ///
    /// Nothing is checked (S52): a driver treats a number that the system refuses to poll as always ready, with a
    /// back-off. Keep the fd open while it is registered, or clear its key first.
    pub fn set_wait_fd_with(&self, fd: WaitFd, value: Box<dyn Any + Send>) {
        let entry = Entry {
            fd,
            added: true,
            removed: false,
            value: Some(value),
        };
        self.inner.entries.lock().push(entry);
        self.changed();
    }

    /// The fd that was registered last under `key` and not cleared, if any (S53).
    pub fn fd(&self, key: WaitKey) -> Option<RawFd> {
        let entries = self.inner.entries.lock();
        let entry = entries.iter().rev().find(|e| e.is_live(key));
        entry.map(|e| e.fd.fd)
    }

    /// Waits for something else at the fd that was registered last under `key`; `false` if there is none.
    ///
    /// A change is reported as a removal and an addition of the same fd.
    pub fn set_interest(&self, key: WaitKey, interest: Interest) -> bool {
        let mut entries = self.inner.entries.lock();
        let Some(entry) = entries.iter_mut().rev().find(|e| e.is_live(key)) else {
            return false;
        };
        if entry.fd.interest == interest {
            return true;
        }
        let old = entry.fd;
        entry.fd.interest = interest;
        if !entry.added {
            entry.added = true;
            entries.push(Entry {
                fd: old,
                added: false,
                removed: true,
                value: None,
            });
        }
        drop(entries);
        self.changed();
        true
    }

    /// Forgets the fd that was registered last under `key` and gives its value back, without calling any cleanup (S56).
    pub fn clear_fd(&self, key: WaitKey) -> Option<Box<dyn Any + Send>> {
        let mut entries = self.inner.entries.lock();
        let at = entries.iter().rposition(|e| e.is_live(key))?;
        let value = if entries[at].added {
            entries.remove(at).value
        } else {
            entries[at].removed = true;
            entries[at].value.take()
        };
        drop(entries);
        self.changed();
        value
    }

    /// Calls `f` with the value under `key`, if there is one and it is a `V`.
    ///
    /// The value leaves the ctx during the call, so that `f` may use the ctx; another thread sees the fd meanwhile, but
    /// no value, and a clear of the key gives none back. It returns when `f` does, also by a panic, unless its key was
    /// cleared: then it is dropped.
    pub fn with_value<V: Send + 'static, R>(&self, key: WaitKey, f: impl FnOnce(&mut V) -> R) -> Option<R> {
        let mut borrowed = self.borrow_value::<V>(key)?;
        let value = borrowed.value.as_mut()?.downcast_mut()?;
        Some(f(value))
    }

    fn borrow_value<V: 'static>(&self, key: WaitKey) -> Option<BorrowedValue<'_>> {
        let mut entries = self.inner.entries.lock();
        let entry = entries.iter_mut().rev().find(|e| e.is_live(key))?;
        let value = entry.value.take_if(|value| value.is::<V>())?;
        Some(BorrowedValue {
            ctx: self,
            fd: entry.fd,
            value: Some(value),
        })
    }

    /// A copy of the value under `key`, if there is one and it is a `V`, with its fd.
    ///
    /// The value stays in the ctx: this is [`with_value`](Self::with_value) for an engine's polling thread, which must
    /// not take it out of the job's sight.
    ///
    /// ```
    /// use asyncjob::{WaitCtx, WaitFd, WaitKey};
    ///
    /// let (ctx, key) = (WaitCtx::new(), WaitKey::unique());
    /// ctx.set_wait_fd_with(WaitFd::new(key, 0), Box::new(7u32));
    /// assert_eq!(ctx.copied_value::<u32>(key).unwrap().1, 7);
    /// assert!(ctx.copied_value::<u64>(key).is_none());
    /// ```
    pub fn copied_value<V: Copy + Send + 'static>(&self, key: WaitKey) -> Option<(WaitFd, V)> {
        let entries = self.inner.entries.lock();
        let entry = entries.iter().rev().find(|e| e.is_live(key))?;
        entry.copied()
    }

    /// Copies of all values that are a `V`, with their fds, newest first: what OpenSSL's cleanup routines are called for,
    /// while the ctx stays readable (S60).
    pub fn copied_values<V: Copy + Send + 'static>(&self) -> Vec<(WaitFd, V)> {
        let entries = self.inner.entries.lock();
        let live = entries.iter().rev().filter(|e| !e.removed);
        live.filter_map(Entry::copied).collect()
    }

    /// Every wait fd that counts now, newest first (S54): what to poll while the job is paused.
    ///
    /// On-call entries count while they are [armed](Self::arm).
    pub fn fds(&self) -> Vec<WaitFd> {
        let armed = self.armed();
        let mut fds = Vec::new();
        self.visit_fds(|fd, _| {
            if fd.counts(armed) {
                fds.push(fd);
            }
        });
        fds
    }

    /// The wait fds added and removed since a job bound to this ctx was last resumed (S42, S55).
    ///
    /// Reading consumes nothing. Additions made after the last pause stay reported through later jobs, until one of them
    /// pauses and is resumed (S59).
    pub fn changes(&self) -> Changes {
        let entries = self.inner.entries.lock();
        let newest = |pick: fn(&Entry) -> bool| entries.iter().rev().filter(|e| pick(e)).map(|e| e.fd).collect();
        Changes {
            added: newest(|e| e.added && !e.removed),
            removed: newest(|e| e.removed && !e.added),
        }
    }

    /// Makes the on-call entry under `key` count, or none of them; returns the key that counted before.
    pub fn arm(&self, key: Option<WaitKey>) -> Option<WaitKey> {
        // Only the job's own thread arms; a driver that reads it has synchronised with the pause already.
        let before = self.armed();
        self.inner.armed.store(key.map_or(0, |k| k.0), Ordering::Relaxed);
        before
    }

    /// The key of the on-call entry that counts now.
    pub fn armed(&self) -> Option<WaitKey> {
        let key = self.inner.armed.load(Ordering::Relaxed);
        (key != 0).then_some(WaitKey(key))
    }

    /// Sets what an engine calls, from any thread, when the request is done. The driver's side of the callback.
    ///
    /// The callback may be called before the job has paused (S64): a driver must remember that. See [`callback`].
    pub fn set_callback(&self, callback: Option<Waker>) {
        let new = callback.map(Arc::new);
        let old = std::mem::replace(&mut *self.inner.callback.lock(), new);
        drop(old); // after the lock: dropping a waker may run anything
    }

    /// The callback, if the driver has set one (S63). The engine's side of it.
    pub fn callback(&self) -> Option<Waker> {
        let shared = self.inner.callback.lock().clone()?;
        Some(Waker::clone(&shared))
    }

    /// Whether the callback would do the same as `waker`, so that setting it again can be saved.
    pub fn callback_will_wake(&self, waker: &Waker) -> bool {
        // Under the lock: it compares two pointers and runs nothing of the user's.
        let callback = self.inner.callback.lock();
        callback.as_ref().is_some_and(|callback| callback.will_wake(waker))
    }

    /// Sets the engine's status (S65).
    pub fn set_status(&self, status: Status) {
        self.inner.status.store(status.raw(), Ordering::Relaxed);
    }

    /// The engine's status, [`Status::Unsupported`] until it is set.
    pub fn status(&self) -> Status {
        Status::from_raw(self.inner.status.load(Ordering::Relaxed))
    }

    /// Asks to be resumed at `deadline` even if nothing else happens. A driver resumes at it or soon after, not before.
    pub fn set_deadline(&self, deadline: Option<Instant>) {
        let nanos = deadline.map_or(NO_DEADLINE, |at| {
            let since = at.saturating_duration_since(epoch()).as_nanos();
            u64::try_from(since).unwrap_or(NO_DEADLINE)
        });
        self.inner.deadline.store(nanos, Ordering::Relaxed);
    }

    /// The deadline, if one is set.
    pub fn deadline(&self) -> Option<Instant> {
        match self.inner.deadline.load(Ordering::Relaxed) {
            NO_DEADLINE => None,
            nanos => Some(epoch() + Duration::from_nanos(nanos)),
        }
    }

    /// A number that is different after every change of the wait fds, so that a driver that has seen it need not look.
    pub fn version(&self) -> u32 {
        self.inner.version.load(Ordering::Acquire)
    }

    /// A handle that does not keep the ctx.
    pub(crate) fn downgrade(&self) -> WeakWaitCtx {
        WeakWaitCtx(Arc::downgrade(&self.inner))
    }

    /// Every registered fd, newest first, and whether it was added since the last resume.
    pub(crate) fn visit_fds(&self, mut visit: impl FnMut(WaitFd, bool)) {
        for entry in self.inner.entries.lock().iter().rev().filter(|e| !e.removed) {
            visit(entry.fd, entry.added);
        }
    }

    /// What [`Job::resume`](crate::Job::resume) does to the job's ctx: what was added is settled, what was removed is gone
    /// (S42, S58).
    ///
    /// For a driver that binds ctxs to jobs itself, as the C interface does: there a ctx may be freed under its job.
    #[inline]
    pub fn settle(&self) {
        if self.inner.unsettled.load(Ordering::Relaxed) {
            self.settle_entries();
        }
    }

    #[cold]
    fn settle_entries(&self) {
        let mut entries = self.inner.entries.lock();
        self.inner.unsettled.store(false, Ordering::Relaxed);
        entries.retain(|e| !e.removed); // a removed entry has given its value away, so this drops nothing of the user's
        entries.iter_mut().for_each(|e| e.added = false);
    }

    fn changed(&self) {
        self.inner.unsettled.store(true, Ordering::Relaxed);
        self.inner.version.fetch_add(1, Ordering::Release);
    }
}

impl Drop for Inner {
    /// Newest first, as OpenSSL's cleanups run (S60).
    fn drop(&mut self) {
        while let Some(entry) = self.entries.get_mut().pop() {
            drop(entry);
        }
    }
}

/// A handle to a ctx for something that must leave it when it goes, if the ctx is still there.
pub(crate) struct WeakWaitCtx(Weak<Inner>);

impl WeakWaitCtx {
    /// The ctx, if somebody keeps it.
    pub(crate) fn upgrade(&self) -> Option<WaitCtx> {
        self.0.upgrade().map(|inner| WaitCtx { inner })
    }

    /// Whether this is a handle to `ctx`. Its address is nobody else's while this handle exists.
    pub(crate) fn is(&self, ctx: &WaitCtx) -> bool {
        self.0.as_ptr() == Arc::as_ptr(&ctx.inner)
    }
}

impl fmt::Debug for WaitCtx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitCtx")
            .field("fds", &self.fds())
            .field("status", &self.status())
            .field("deadline", &self.deadline())
            .finish_non_exhaustive()
    }
}

const _: () = {
    const fn send_and_sync<T: Send + Sync>() {}
    send_and_sync::<WaitCtx>();
};
