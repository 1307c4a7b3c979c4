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
//! An entry is one wait fd under its key. Between two resumes an entry is in one of these states:
//!
//! | state | entered by | reported by |
//! |---|---|---|
//! | added | `add_wait_fd` | `fds`, `changes().added` |
//! | settled | the next resume of a job bound to the ctx (S42) | `fds` |
//! | removed | `clear_fd` of a settled entry | `changes().removed`, until that resume (S58) |
//! | gone | `clear_fd` of an added entry (S56); the resume after a removal | nothing |
//!
//! An entry owns a value: an `OwnedFd`, or an engine's request. Dropping the ctx drops the values, newest first. That is
//! OpenSSL's cleanup routine (S60). Clearing the key gives the value back instead, because OpenSSL calls no cleanup then.
//!
//! The manual page is `ASYNC_WAIT_CTX_new(3)`. Numbers such as S42 are OpenSSL's observed behaviours, defined in
//! [`docs::openssl_behaviour`](crate::docs::openssl_behaviour).

mod entries;
mod wants;

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use entries::{Entries, Value};
pub(crate) use wants::LONGEST_INTERVAL;
pub use wants::Wants;

/// Names an entry of a [`WaitCtx`]: the `const void *key` of the C interface, compared by address only ([S53](crate::docs::openssl_behaviour#s53)).
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
        // User space ends below the top bit of an address on 64-bit Linux, so these numbers are no addresses.
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

/// A wait fd, as a driver sees it: what to poll, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WaitFd {
    /// The entry's name.
    pub key: WaitKey,
    /// The number to poll. A driver never reads, drains or closes it.
    pub fd: RawFd,
    /// What to poll for.
    pub interest: Interest,
    /// Counts only during a pause that names the key with [`WaitCtx::arm`]. An ordinary entry counts at every pause.
    pub only_when_armed: bool,
}

impl WaitFd {
    /// `fd` under `key`, waited for as `options` say.
    pub fn new(key: WaitKey, fd: RawFd, options: WaitFdOptions) -> Self {
        WaitFd {
            key,
            fd,
            interest: options.interest,
            only_when_armed: options.only_when_armed,
        }
    }

    /// Whether the entry counts while `armed` is the armed key.
    pub(crate) fn counts(&self, armed: Option<WaitKey>) -> bool {
        !self.only_when_armed || armed == Some(self.key)
    }
}

/// How a wait fd is waited for: see [`WaitCtx::add_wait_fd_with`]. The default is: for readable, at every pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "options do nothing until a wait fd is added with them"]
pub struct WaitFdOptions {
    interest: Interest,
    only_when_armed: bool,
}

impl Default for WaitFdOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl WaitFdOptions {
    /// For readable, at every pause.
    pub const fn new() -> Self {
        WaitFdOptions {
            interest: Interest::Readable,
            only_when_armed: false,
        }
    }

    /// What to wait for.
    pub const fn interest(mut self, interest: Interest) -> Self {
        self.interest = interest;
        self
    }

    /// Counts only during a pause that names the key with [`WaitCtx::arm`].
    ///
    /// A socket stays registered for the life of its connection this way. Data that arrives during another wait of the same
    /// job, for a signature, say, does not resume the job.
    pub const fn only_when_armed(mut self) -> Self {
        self.only_when_armed = true;
        self
    }
}

/// The wait fds added and removed since the last resume: see [`WaitCtx::changes`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changes {
    /// Newest first.
    pub added: Vec<WaitFd>,
    /// Newest first. Handle these before `added` and ignore their errors: a closed and reopened fd has the same number.
    pub removed: Vec<WaitFd>,
}

/// What an engine says of the request that the job waits for (`ASYNC_WAIT_CTX_set_status(3)`).
///
/// The status stays until it is set again, across pauses and jobs ([S65](crate::docs::openssl_behaviour#s65)). [`Wants`] says what a driver makes of it.
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

    /// The number of this status in C ([S2](crate::docs::openssl_behaviour#s2)).
    pub fn to_raw(self) -> i32 {
        match self {
            Status::Unsupported => 0,
            Status::Err => 1,
            Status::Ok => 2,
            Status::Eagain => 3,
            Status::Other(raw) => raw,
        }
    }
}

/// Makes a [`Waker`] that calls `f`. A callback of a wait ctx is a `Waker`, Rust's name for a small function that any thread
/// may call any number of times.
///
/// `f` must not block.
///
/// ```
/// use asyncjob::{WaitCtx, waker_fn};
/// use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
/// use std::sync::Arc;
///
/// let calls = Arc::new(AtomicU32::new(0));
/// let ctx = WaitCtx::new();
/// let counter = calls.clone();
/// ctx.set_callback(Some(waker_fn(move || { counter.fetch_add(1, Relaxed); })));
///
/// let engine = ctx.clone();
/// std::thread::spawn(move || engine.callback().unwrap().wake()).join().unwrap();
/// assert_eq!(calls.load(Relaxed), 1);
/// ```
pub fn waker_fn<F: Fn() + Send + Sync + 'static>(f: F) -> Waker {
    struct WakerFn<F>(F);
    impl<F: Fn() + Send + Sync + 'static> Wake for WakerFn<F> {
        fn wake(self: Arc<Self>) {
            (self.0)();
        }
        fn wake_by_ref(self: &Arc<Self>) {
            (self.0)();
        }
    }
    Waker::from(Arc::new(WakerFn(f)))
}

/// One asynchronous session: what its job waits for, and how to say that it happened.
///
/// Clones are handles to the same ctx. Every method may be called from any thread: an engine's polling thread reads the
/// callback while the job's thread adds fds ([S47](crate::docs::openssl_behaviour#s47)). A job holds the ctx that it
/// was started with until it ends.
///
/// ```
/// use asyncjob::{WaitCtx, WaitKey};
/// use std::io::pipe;
///
/// let ctx = WaitCtx::new();
/// let key = WaitKey::unique();
/// let (reader, _writer) = pipe()?;
/// ctx.add_wait_fd(key, reader);
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
    /// The key of the only-when-armed entry that counts now, or 0.
    armed: AtomicUsize,
    /// A driver has a job on this ctx that has not ended: see [`WaitCtx::claim`].
    claimed: AtomicBool,
    entries: Mutex<Entries>,
    /// Behind an `Arc`, so that the user's `Waker::clone` and `drop` run after the lock is released.
    callback: Mutex<Option<Arc<Waker>>>,
}

/// A value that is out of its entry, to which it goes back when this is dropped.
struct BorrowedValue<'a> {
    ctx: &'a WaitCtx,
    fd: WaitFd,
    value: Option<Value>,
}

impl Drop for BorrowedValue<'_> {
    fn drop(&mut self) {
        let Some(value) = self.value.take() else { return };
        let orphan = self.ctx.inner.entries.lock().return_value(self.fd, value);
        drop(orphan); // after the lock: a value whose entry was cleared meanwhile
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
        Self::with_claim(false)
    }

    fn with_claim(claimed: bool) -> Self {
        WaitCtx {
            inner: Arc::new(Inner {
                version: AtomicU32::new(0),
                unsettled: AtomicBool::new(false),
                status: AtomicI32::new(0),
                deadline: AtomicU64::new(NO_DEADLINE),
                armed: AtomicUsize::new(0),
                claimed: AtomicBool::new(claimed),
                entries: Mutex::new(Entries::new()),
                callback: Mutex::new(None),
            }),
        }
    }

    /// Whether both are handles to one ctx.
    pub fn ptr_eq(&self, other: &WaitCtx) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Adds an entry: waits for `value` to be readable, at every pause until the key is cleared.
    ///
    /// The ctx owns `value` and so keeps the fd open. Keys are not unique: a second value under the same key hides the first
    /// until the second is cleared ([S52](crate::docs::openssl_behaviour#s52)).
    pub fn add_wait_fd<V: AsFd + Send + 'static>(&self, key: WaitKey, value: V) {
        self.add_wait_fd_with(key, value, WaitFdOptions::new());
    }

    /// As [`add_wait_fd`](Self::add_wait_fd), with another interest or only for the pauses that ask for it.
    ///
    /// A driver treats an fd that the system refuses to poll, a regular file, say, as always ready, with a back-off.
    ///
    /// ```
    /// use asyncjob::{Interest, WaitCtx, WaitFdOptions, WaitKey};
    ///
    /// let (ctx, key) = (WaitCtx::new(), WaitKey::unique());
    /// let (_reader, writer) = std::io::pipe()?;
    /// ctx.add_wait_fd_with(key, writer, WaitFdOptions::new().interest(Interest::Writable).only_when_armed());
    /// assert!(ctx.fds().is_empty());
    /// ctx.arm(Some(key));
    /// assert_eq!(ctx.fds()[0].interest, Interest::Writable);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn add_wait_fd_with<V: AsFd + Send + 'static>(&self, key: WaitKey, value: V, options: WaitFdOptions) {
        let fd = value.as_fd().as_raw_fd();
        self.add_entry(WaitFd::new(key, fd, options), Box::new(value));
    }

    /// Adds an entry for a bare fd number, with any value: the form of `ASYNC_WAIT_CTX_set_wait_fd(3)`.
    ///
    /// The number is not checked ([S52](crate::docs::openssl_behaviour#s52)).
    ///
    /// # Safety
    ///
    /// The caller must keep the fd open for as long as the entry is there: until the key is cleared, or the ctx is dropped. A
    /// number that never was an open fd, such as -1, is allowed. Drivers poll the number and duplicate it.
    #[allow(unsafe_code, reason = "its contract is about fds; its body is safe")]
    pub unsafe fn add_raw_wait_fd(&self, fd: WaitFd, value: Box<dyn Any + Send>) {
        self.add_entry(fd, value);
    }

    /// As [`add_raw_wait_fd`](Self::add_raw_wait_fd), for code of this crate that keeps the fd open.
    pub(crate) fn add_entry(&self, fd: WaitFd, value: Value) {
        self.inner.entries.lock().add(fd, value);
        self.changed();
    }

    /// The fd that was added last under `key` and not cleared ([S53](crate::docs::openssl_behaviour#s53)).
    pub fn fd(&self, key: WaitKey) -> Option<RawFd> {
        self.inner.entries.lock().fd(key).map(|fd| fd.fd)
    }

    /// Waits for something else at the fd that was added last under `key`. `false`: there is none.
    ///
    /// A change is reported as a removal and an addition of the same fd.
    pub fn set_interest(&self, key: WaitKey, interest: Interest) -> bool {
        let changed = self.inner.entries.lock().set_interest(key, interest);
        if changed == Some(true) {
            self.changed();
        }
        changed.is_some()
    }

    /// Removes the entry that was added last under `key` and gives its value back
    /// ([S56](crate::docs::openssl_behaviour#s56)).
    pub fn clear_fd(&self, key: WaitKey) -> Option<Box<dyn Any + Send>> {
        let value = self.inner.entries.lock().remove(key)?;
        self.changed();
        value
    }

    /// Calls `f` with the value under `key`, if there is one and it is a `V`.
    ///
    /// The value leaves the ctx during the call, so that `f` may use the ctx. Another thread sees the fd meanwhile, but no
    /// value, and a clear of the key gives none back. The value returns when `f` does, also by a panic, unless its key was
    /// cleared: then the value is dropped.
    pub fn with_value<V: Send + 'static, R>(&self, key: WaitKey, f: impl FnOnce(&mut V) -> R) -> Option<R> {
        let (fd, value) = self.inner.entries.lock().borrow_value::<V>(key)?;
        let mut borrowed = BorrowedValue {
            ctx: self,
            fd,
            value: Some(value),
        };
        let value = borrowed.value.as_mut()?.downcast_mut()?;
        Some(f(value))
    }

    /// A copy of the value under `key`, if there is one and it is a `V`, with its fd. The value stays in the ctx.
    #[doc(hidden)] // for asyncjob-capi, whose engines' threads read values while the job runs
    pub fn copied_value<V: Copy + Send + 'static>(&self, key: WaitKey) -> Option<(WaitFd, V)> {
        self.inner.entries.lock().copied_value(key)
    }

    /// Copies of all values that are a `V`, with their fds, newest first (S60).
    #[doc(hidden)] // for asyncjob-capi, which calls OpenSSL's cleanup routines for them
    pub fn copied_values<V: Copy + Send + 'static>(&self) -> Vec<(WaitFd, V)> {
        self.inner.entries.lock().copied_values()
    }

    /// Every wait fd that counts now, newest first ([S54](crate::docs::openssl_behaviour#s54)): what to poll while the job is
    /// paused.
    ///
    /// Only-when-armed entries count while they are [armed](Self::arm).
    pub fn fds(&self) -> Vec<WaitFd> {
        let armed = self.armed();
        let entries = self.inner.entries.lock();
        let live = entries.live().map(|(fd, _)| fd);
        live.filter(|fd| fd.counts(armed)).collect()
    }

    /// The wait fds added and removed since a job bound to this ctx was last resumed
    /// ([S42](crate::docs::openssl_behaviour#s42), [S55](crate::docs::openssl_behaviour#s55)).
    ///
    /// Reading consumes nothing. Additions made after the last pause stay reported through later jobs, until one of them
    /// pauses and is resumed ([S59](crate::docs::openssl_behaviour#s59)).
    pub fn changes(&self) -> Changes {
        self.inner.entries.lock().changes()
    }

    /// What the job of this ctx waits for, and so what its driver is to do after a pause: the table of [`Wants`].
    pub fn wants(&self) -> Wants {
        let armed = self.armed();
        let has_wait_fds = self.inner.entries.lock().live().any(|(fd, _)| fd.counts(armed));
        Wants::of(self.status(), has_wait_fds, self.deadline())
    }

    /// Makes the only-when-armed entry under `key` count, or none of them. Returns the key that counted before.
    pub fn arm(&self, key: Option<WaitKey>) -> Option<WaitKey> {
        // Only the job's own thread arms. A driver that reads the key has synchronised with the pause already.
        let before = self.armed();
        self.inner.armed.store(key.map_or(0, |k| k.0), Ordering::Relaxed);
        before
    }

    /// The key of the only-when-armed entry that counts now.
    pub fn armed(&self) -> Option<WaitKey> {
        let key = self.inner.armed.load(Ordering::Relaxed);
        (key != 0).then_some(WaitKey(key))
    }

    /// Sets what an engine calls, from any thread, when the request is done: the driver's side of the callback.
    ///
    /// The callback may be called before the job has paused ([S64](crate::docs::openssl_behaviour#s64)): a driver must
    /// remember that. [`waker_fn`] makes a callback of a closure. A scheduler and a
    /// [`JobFuture`](crate::job_future::JobFuture) set the callback of their jobs' ctxs, and clear it when the job has ended.
    pub fn set_callback(&self, callback: Option<Waker>) {
        let new = callback.map(Arc::new);
        let old = std::mem::replace(&mut *self.inner.callback.lock(), new);
        drop(old); // after the lock: dropping a waker may run anything
    }

    /// The callback, if the driver has set one ([S63](crate::docs::openssl_behaviour#s63)): the engine's side of the callback.
    pub fn callback(&self) -> Option<Waker> {
        let shared = self.inner.callback.lock().clone()?;
        Some(Waker::clone(&shared))
    }

    /// Whether the callback would do the same as `waker`, so that it need not be read again.
    pub(crate) fn callback_will_wake(&self, waker: &Waker) -> bool {
        // Under the lock: `will_wake` compares two pointers and runs nothing of the user's.
        let callback = self.inner.callback.lock();
        callback.as_ref().is_some_and(|callback| callback.will_wake(waker))
    }

    /// Sets the engine's status ([S65](crate::docs::openssl_behaviour#s65)).
    pub fn set_status(&self, status: Status) {
        self.inner.status.store(status.to_raw(), Ordering::Relaxed);
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

    /// Takes the ctx for a job of a driver that sets the callback. `None`: the ctx has such a job already.
    ///
    /// One callback cannot wake two jobs: the second would take the first one's wakes.
    pub(crate) fn claim(&self) -> Option<ClaimedCtx> {
        // Acquire, with the Release in the drop of the claim: the earlier driver has cleared its callback by now.
        let was_claimed = self.inner.claimed.swap(true, Ordering::Acquire);
        (!was_claimed).then(|| ClaimedCtx(self.clone()))
    }

    /// Every entry, newest first, and whether it was added since the last resume.
    pub(crate) fn visit_fds(&self, mut visit: impl FnMut(WaitFd, bool)) {
        let entries = self.inner.entries.lock();
        entries.live().for_each(|(fd, added)| visit(fd, added));
    }

    /// What [`Job::resume`](crate::Job::resume) does to the job's ctx: what was added is settled, what was removed is gone
    /// (S42, S58).
    #[doc(hidden)] // for asyncjob-capi, which binds ctxs to jobs itself: there a ctx may be freed under its job
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
        entries.settle();
    }

    fn changed(&self) {
        self.inner.unsettled.store(true, Ordering::Relaxed);
        self.inner.version.fetch_add(1, Ordering::Release);
    }
}

impl Drop for Inner {
    /// Newest first, as OpenSSL's cleanups run (S60).
    fn drop(&mut self) {
        while let Some(value) = self.entries.get_mut().pop() {
            drop(value);
        }
    }
}

/// A ctx that one driver has taken for one job: see [`WaitCtx::claim`]. Dropping it clears the callback and lets the next
/// driver have the ctx.
#[derive(Debug)]
pub(crate) struct ClaimedCtx(WaitCtx);

impl ClaimedCtx {
    /// A new ctx.
    pub(crate) fn new() -> Self {
        ClaimedCtx(WaitCtx::with_claim(true))
    }
}

impl Deref for ClaimedCtx {
    type Target = WaitCtx;

    #[inline]
    fn deref(&self) -> &WaitCtx {
        &self.0
    }
}

impl Drop for ClaimedCtx {
    fn drop(&mut self) {
        self.0.set_callback(None); // before the ctx is free: the next driver sets one of its own
        self.0.inner.claimed.store(false, Ordering::Release);
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
