//! What a job waits for.
//!
//! A [`WaitCtx`] stands for one asynchronous session, such as one TLS connection. The code inside the job (an engine,
//! or [`io`](crate::io) and its siblings) writes into the ctx what the job waits for. The driver outside the job reads
//! the ctx to learn when to resume the job. Neither of the two knows the other.
//!
//! ```text
//!              inside the job                           outside: the driver
//!
//!              wait fds, by key   ----------------->    fds(), changes(), version()
//!              arm(key)           ----------------->    armed(), which fds() regards
//!              status             ----------------->    status()    \
//!              deadline           ----------------->    deadline()  / wants()
//!              callback()         <-----------------    set_callback(waker)
//! ```
//!
//! An entry is one wait fd under its key. An entry is in one of these states:
//!
//! | state | entered by | reported by | fields of `Entry` |
//! |---|---|---|---|
//! | added | `add_wait_fd` | `fds`, `changes().added` | `added` |
//! | settled | the next resume of a job that is bound to the ctx (S42) | `fds` | neither |
//! | removed | `clear_fd` of a settled entry | `changes().removed`, until that resume (S58) | `removed` |
//! | gone | `clear_fd` of an added entry (S56); the resume after a removal | nothing | not in the list |
//!
//! `set_interest` of a settled entry makes it an added one, beside a removed one with the old interest.
//!
//! An entry owns a value: an `OwnedFd`, or an engine's request. The drop of the ctx drops the values, newest first, in
//! place of OpenSSL's cleanup routines (S60). To clear a key gives the value back, because OpenSSL calls no cleanup
//! routine then.
//!
//! The manual page is `ASYNC_WAIT_CTX_new(3)`.

#[allow(unsafe_code, reason = "counts the wakers of a callback, and frees what they call")]
mod callback;
#[allow(unsafe_code, reason = "counts references, and frees what they lead to")]
mod counted;
mod entries;
mod locked;
#[cfg(any(feature = "insight", feature = "tracing"))]
mod noted;
#[cfg(feature = "insight")]
mod outside;
#[allow(unsafe_code, reason = "a lock, which lends out the value in it")]
mod owner_lock;
mod published;
#[allow(unsafe_code, reason = "keeps a value of any type in a word")]
mod value;
mod wakes;
mod wants;
#[cfg(any(feature = "insight", feature = "tracing"))]
mod words;

use std::fmt;
use std::mem::offset_of;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use crate::sync::contain;

use callback::Callback;
use counted::{Counted, Renew, Spare, Weak};
pub(crate) use entries::LiveFd;
use entries::{Entries, View};
#[doc(hidden)]
pub use entries::{Fd, Record};
#[doc(hidden)]
pub use locked::Locked;
#[cfg(feature = "insight")]
pub(crate) use outside::Waits;
use owner_lock::{Owner, OwnerLock};
pub use value::WaitValue;
#[cfg_attr(not(feature = "insight"), allow(unreachable_pub, reason = "`insight` exports it"))]
pub use wakes::WakeCause;
pub(crate) use wants::LONGEST_INTERVAL;
pub use wants::Wants;
#[cfg(any(feature = "insight", feature = "tracing"))]
pub(crate) use words::waits_for;

/// Names an entry of a [`WaitCtx`]. It is the `const void *key` of the C interface, which is compared by its address
/// only ([S53](crate::docs::openssl_behaviour#s53)).
///
/// Each piece of code that waits uses a key of its own, so that several of them can share one ctx.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WaitKey(usize);

impl WaitKey {
    /// Makes a key of the address of something that lives as long as the entry. In C that is usually the `ENGINE *`.
    pub fn from_ptr<T: ?Sized>(ptr: *const T) -> Self {
        WaitKey(ptr.cast::<u8>().expose_provenance())
    }

    /// The address that the key was made of.
    #[doc(hidden)] // for asyncjob-capi-lib, which gives it to cleanup routines
    pub fn to_addr(self) -> usize {
        self.0
    }

    /// Makes a key that is different from every other key of the process, those made of an address included.
    pub fn unique() -> Self {
        // User space ends below the top bit of an address on 64-bit Linux, so these numbers are no addresses.
        static NEXT: AtomicUsize = AtomicUsize::new(1 << (usize::BITS - 1));
        WaitKey(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The readiness that a wait fd is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Interest {
    /// The fd is readable. This is the default, and the only interest that C programs know.
    Readable,
    /// The fd is writable.
    Writable,
    /// The fd is readable or writable.
    Both,
}

impl Interest {
    /// Whether readability ends the wait.
    pub fn is_readable(self) -> bool {
        self != Interest::Writable
    }

    /// Whether writability ends the wait.
    pub fn is_writable(self) -> bool {
        self != Interest::Readable
    }
}

/// A wait fd as a driver sees it: the fd to poll, and what to poll it for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WaitFd {
    /// The key of the entry.
    pub key: WaitKey,
    /// The fd to poll. A driver never reads, drains or closes it.
    pub fd: RawFd,
    /// What to poll the fd for.
    pub interest: Interest,
    /// Whether the entry counts only during a pause that has armed its key with [`WaitCtx::arm`]. An ordinary entry
    /// counts at every pause.
    pub only_when_armed: bool,
}

impl WaitFd {
    /// The wait fd `fd` under `key`, with these options.
    pub fn new(key: WaitKey, fd: RawFd, options: WaitFdOptions) -> Self {
        WaitFd {
            key,
            fd,
            interest: options.interest,
            only_when_armed: options.only_when_armed,
        }
    }

    /// Whether the entry counts during a pause that has armed this key.
    pub(crate) fn counts(&self, armed: Option<WaitKey>) -> bool {
        !self.only_when_armed || armed == Some(self.key)
    }
}

/// How a wait fd is waited for: see [`WaitCtx::add_wait_fd_with`]. By default a wait fd is waited for at every pause,
/// until it is readable.
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
    /// The default options: readable, at every pause.
    pub const fn new() -> Self {
        WaitFdOptions {
            interest: Interest::Readable,
            only_when_armed: false,
        }
    }

    /// Sets the readiness to wait for.
    pub const fn interest(mut self, interest: Interest) -> Self {
        self.interest = interest;
        self
    }

    /// Makes the entry count only during a pause that has armed its key with [`WaitCtx::arm`].
    ///
    /// A socket can so stay registered for the life of its connection. Data that arrives while the same job waits for
    /// something else, for a signature, say, does not resume the job.
    pub const fn only_when_armed(mut self) -> Self {
        self.only_when_armed = true;
        self
    }
}

/// The wait fds that were added and removed since the last resume: see [`WaitCtx::changes`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changes {
    /// The fds that were added, newest first.
    pub added: Vec<WaitFd>,
    /// The fds that were removed, newest first. Handle these before `added`, and ignore errors: an fd that was closed
    /// and opened again has the same number.
    pub removed: Vec<WaitFd>,
}

/// What an engine says about the request that the job waits for (`ASYNC_WAIT_CTX_set_status(3)`).
///
/// A status stays until it is set again, across pauses and jobs ([S65](crate::docs::openssl_behaviour#s65)). [`Wants`]
/// says what a driver does for each status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// The engine uses no callback: wait for the fds. This is the default.
    #[default]
    Unsupported,
    /// The engine is broken for this session: cancel the job.
    Err,
    /// The engine has submitted its request and will call the callback.
    Ok,
    /// The engine could not submit its request because a queue was full. Resume the job later. The callback will not be
    /// called.
    Eagain,
    /// Any other number. OpenSSL stores the number and gives it no meaning.
    Other(i32),
}

impl Status {
    /// The status that has this number in C.
    #[inline]
    pub fn from_raw(raw: i32) -> Self {
        match raw {
            0 => Status::Unsupported,
            1 => Status::Err,
            2 => Status::Ok,
            3 => Status::Eagain,
            other => Status::Other(other),
        }
    }

    /// The number that this status has in C ([S2](crate::docs::openssl_behaviour#s2)).
    #[inline]
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

/// Makes a [`Waker`] that calls `f`.
///
/// A callback of a wait ctx is a `Waker`: any thread may call it, any number of times. `f` must not block.
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

/// One asynchronous session: what its job waits for, and how the driver of the job learns that it has happened.
///
/// A clone is another handle to the same ctx. `WaitCtx` is `Send` and `Sync`: any thread may call any method, so that
/// an engine's polling thread can read the callback while the job's thread adds fds
/// ([S47](crate::docs::openssl_behaviour#s47)). A job holds the ctx that it was started with until the job ends.
///
/// | the code inside the job | the driver |
/// |---|---|
/// | [`add_wait_fd`](Self::add_wait_fd), [`clear_fd`](Self::clear_fd), [`set_interest`](Self::set_interest) | [`fds`](Self::fds), [`changes`](Self::changes), [`version`](Self::version) |
/// | [`arm`](Self::arm) | [`armed`](Self::armed) |
/// | [`set_status`](Self::set_status), [`set_deadline`](Self::set_deadline) | [`status`](Self::status), [`deadline`](Self::deadline), [`wants`](Self::wants) |
/// | [`callback`](Self::callback) | [`set_callback`](Self::set_callback) |
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
///
/// # The states of a wait fd
///
/// | state | begins with | is reported by |
/// |---|---|---|
/// | added | `add_wait_fd` | `fds`, `changes().added` |
/// | settled | the next resume of a job that is bound to the ctx ([S42](crate::docs::openssl_behaviour#s42)) | `fds` |
/// | removed | `clear_fd` of a settled fd | `changes().removed`, until the next such resume ([S58](crate::docs::openssl_behaviour#s58)) |
/// | gone | `clear_fd` of an added fd ([S56](crate::docs::openssl_behaviour#s56)), or the resume after a removal | nothing |
///
/// A ctx owns the values that were added to it. `clear_fd` gives a value back. When the last handle to the ctx is
/// dropped, the values that are left are dropped, newest first, where OpenSSL calls its cleanup routines
/// ([S60](crate::docs::openssl_behaviour#s60)).
///
/// # One job at a time
///
/// A ctx has one callback, so it can serve one job of a scheduler or a [`JobFuture`](crate::job_future::JobFuture) at a
/// time. A second one is refused until the first has ended. Jobs that you drive by hand are not counted.
#[derive(Clone)]
pub struct WaitCtx {
    inner: Counted<Inner>,
}

#[repr(C)] // what each pause and resume reads lies together, behind the counts of the handles
struct Inner {
    /// Goes up at every change of the entries. A driver that has seen a version need not look at the entries again.
    version: AtomicU32,
    /// Whether some entry is added or removed, so that the next resume has to settle the entries.
    unsettled: AtomicBool,
    status: AtomicI32,
    /// Nanoseconds after [`epoch`], or [`NO_DEADLINE`].
    deadline: AtomicU64,
    /// The key of the only-when-armed entry that counts now, or 0.
    armed: AtomicUsize,
    /// Whether a driver has a job on this ctx that has not ended: see [`WaitCtx::claim`].
    claimed: AtomicBool,
    /// How many paused jobs of C code have the ctx without a count: see [`Locked::add_job`].
    jobs_of_c: AtomicU32,
    /// What the entries are now, for readers. Whoever changes `entries` writes it, under the lock.
    view: View,
    /// Beside the entries is the callback.
    entries: OwnerLock<Entries, Option<Callback>>,
    /// Goes up by 2 at each change of the callback, of Rust code or of C code, so that who has a callback need not read
    /// it again. The lowest bit says whether one of Rust code is set, which is asked without the lock.
    callback_state: AtomicU32,
    /// The wake that made the job ready, if a hook of the job has asked for it.
    #[cfg(any(feature = "insight", feature = "tracing"))]
    wakes: noted::Wakes,
}

/// Where a debugger finds what in a wait ctx, counted from what the handle points to: see `job::debugger`.
pub(crate) const LAYOUT: [usize; 4] = [
    VALUE_AT + offset_of!(Inner, status),
    VALUE_AT + offset_of!(Inner, deadline),
    VALUE_AT + offset_of!(Inner, armed),
    VALUE_AT + offset_of!(Inner, view) + View::WORDS_AT,
];

const VALUE_AT: usize = Counted::<Inner>::VALUE_AT;
const _: () = assert!(size_of::<WaitCtx>() == size_of::<usize>(), "a wait ctx is one pointer");

/// What [`WaitCtx::begin_wait`] has found, as it lies in the ctx.
pub(crate) struct BeforeWait {
    status: i32,
    armed: usize,
}

/// A value that was taken out of its entry. The drop puts it back.
struct BorrowedValue<'a> {
    ctx: &'a WaitCtx,
    fd: WaitFd,
    value: Option<WaitValue>,
}

impl Drop for BorrowedValue<'_> {
    fn drop(&mut self) {
        let Some(value) = self.value.take() else { return };
        // Readers see no values, so there is nothing to publish.
        let orphan = self.ctx.inner.entries.lock().return_value(self.fd, value);
        drop(orphan); // after the lock is released: the drop of a value whose entry is gone may run any code
    }
}

const NO_DEADLINE: u64 = u64::MAX;
/// [`Status::Unsupported`], as a new ctx has it.
const NO_STATUS: i32 = 0;

/// The time from which deadlines count: the first call. A deadline is stored as a number, so that reading it takes no
/// lock.
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
    #[inline]
    pub fn new() -> Self {
        WaitCtx { inner: Counted::new() }
    }

    /// Whether both are handles to the same ctx.
    pub fn ptr_eq(&self, other: &WaitCtx) -> bool {
        self.address() == other.address()
    }

    /// What the resume of a job reads of its ctx.
    #[inline]
    pub(crate) fn read_by_resume(&self) -> *const u8 {
        (&raw const self.inner.unsettled).cast()
    }

    /// The address of the ctx, which no other ctx has while a handle exists.
    pub(crate) fn address(&self) -> *const () {
        self.inner.as_ptr().cast()
    }

    /// Adds an entry: from now on the job waits for `value` to be readable, at every pause until the key is cleared.
    ///
    /// The ctx owns `value`, and so keeps the fd open. Keys are not unique: a second value under the same key hides the
    /// first until the second is cleared ([S52](crate::docs::openssl_behaviour#s52)).
    pub fn add_wait_fd<V: AsFd + Send + 'static>(&self, key: WaitKey, value: V) {
        self.add_wait_fd_with(key, value, WaitFdOptions::new());
    }

    /// Adds an entry with options: for another interest, or only for the pauses that arm its key.
    ///
    /// The system refuses to poll some fds, those of regular files, say. A driver treats such an fd as always ready,
    /// and resumes the job at growing intervals.
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
        self.add_entry(WaitFd::new(key, fd, options), WaitValue::new(value));
    }

    /// Adds an entry for a bare fd number, with a value of any type: the form of `ASYNC_WAIT_CTX_set_wait_fd(3)`.
    ///
    /// The number is not checked ([S52](crate::docs::openssl_behaviour#s52)).
    ///
    /// # Safety
    ///
    /// The caller must keep the fd open until the entry has left the ctx: until the key is cleared, or the last handle
    /// to the ctx is dropped. A number that never was an open fd, such as -1, is allowed. Drivers poll the number and
    /// duplicate it.
    #[allow(unsafe_code, reason = "its contract is about fds; its body is safe")]
    pub unsafe fn add_raw_wait_fd<V: Send + 'static>(&self, fd: WaitFd, value: V) {
        self.add_entry(fd, WaitValue::new(value));
    }

    /// Does what [`add_raw_wait_fd`](Self::add_raw_wait_fd) does, for code of this crate that keeps the fd open.
    pub(crate) fn add_entry(&self, fd: WaitFd, value: WaitValue) {
        let mut entries = self.inner.entries.lock();
        entries.add(&self.inner.view, fd, value);
        self.inner.changed(true);
    }

    /// The fd that was added last under `key` and not cleared ([S53](crate::docs::openssl_behaviour#s53)).
    #[inline]
    pub fn fd(&self, key: WaitKey) -> Option<RawFd> {
        self.inner.newest(key).map(|(fd, _)| fd.raw())
    }

    /// Changes what the fd that was added last under `key` is waited for. Returns whether there is such an fd.
    ///
    /// The change is reported as a removal and an addition of the same fd.
    pub fn set_interest(&self, key: WaitKey, interest: Interest) -> bool {
        let mut entries = self.inner.entries.lock();
        let changed = entries.set_interest(&self.inner.view, key, interest);
        if changed == Some(true) {
            self.inner.changed(entries.is_unsettled());
        }
        changed.is_some()
    }

    /// Removes the entry that was added last under `key`, and gives its value back
    /// ([S56](crate::docs::openssl_behaviour#s56)).
    ///
    /// Returns `None` if there is no such entry, and also while its value is lent to [`with_value`](Self::with_value).
    pub fn clear_fd(&self, key: WaitKey) -> Option<WaitValue> {
        let mut entries = self.inner.entries.lock();
        let value = entries.remove(&self.inner.view, key)?;
        self.inner.changed(entries.is_unsettled());
        value
    }

    /// Calls `f` with the value under `key`. Returns `None` without a call if there is no such value, or if it is no
    /// `V`.
    ///
    /// The value leaves the ctx during the call, so `f` may use the ctx. Meanwhile another thread sees the fd but no
    /// value, and clearing the key gives no value back. The value returns to the ctx when `f` returns or panics. If its
    /// key was cleared meanwhile, the value is dropped instead.
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

    /// Every wait fd that counts now, newest first ([S54](crate::docs::openssl_behaviour#s54)). These are the fds that
    /// a driver polls while the job is paused.
    ///
    /// An entry that is [`only_when_armed`](WaitFdOptions::only_when_armed) counts while its key is [armed](Self::arm).
    pub fn fds(&self) -> Vec<WaitFd> {
        let armed = self.armed();
        self.inner.read(|records| {
            let live = entries::live(records).map(Record::fd);
            live.filter(|fd| fd.counts(armed)).collect()
        })
    }

    /// The wait fds that were added and removed since a job bound to this ctx was last resumed
    /// ([S42](crate::docs::openssl_behaviour#s42), [S55](crate::docs::openssl_behaviour#s55)).
    ///
    /// Reading the changes does not consume them. An fd that was added after the last pause of a job stays reported,
    /// during later jobs too, until a job pauses and is resumed ([S59](crate::docs::openssl_behaviour#s59)).
    pub fn changes(&self) -> Changes {
        self.inner.read(entries::changes)
    }

    /// What the job of this ctx waits for, and so what its driver does next. The rules are in the table of [`Wants`].
    pub fn wants(&self) -> Wants {
        let armed = self.armed();
        let counts = |records: &[Record]| entries::live(records).any(|record| record.fd().counts(armed));
        let has_wait_fds = self.inner.read(counts);
        Wants::of(self.status(), has_wait_fds, self.deadline())
    }

    /// Whether the job waits for its callback only: it [wants](Self::wants) just that, and the ctx never had a wait fd.
    #[inline]
    pub(crate) fn wants_only_callback(&self) -> bool {
        self.status() == Status::Ok && self.version() == 0 && self.inner.deadline.load(Ordering::Relaxed) == NO_DEADLINE
    }

    /// Makes the only-when-armed entry under `key` count. With `None` none of them counts. Returns the key that was
    /// armed before.
    #[inline]
    pub fn arm(&self, key: Option<WaitKey>) -> Option<WaitKey> {
        // Only the job's own thread arms a key. A driver that reads the key has synchronised with the pause already.
        let before = self.armed();
        self.inner.armed.store(key.map_or(0, |k| k.0), Ordering::Relaxed);
        before
    }

    /// Sets the status and the armed key of a wait. Returns what was set before.
    #[inline]
    pub(crate) fn begin_wait(&self, status: Status, key: Option<WaitKey>) -> BeforeWait {
        let before = BeforeWait {
            status: self.inner.status.load(Ordering::Relaxed),
            armed: self.inner.armed.load(Ordering::Relaxed),
        };
        self.set_status(status);
        self.inner.armed.store(key.map_or(0, |k| k.0), Ordering::Relaxed);
        before
    }

    /// Sets what was set before a wait.
    #[inline]
    pub(crate) fn end_wait(&self, before: &BeforeWait) {
        self.inner.status.store(before.status, Ordering::Relaxed);
        self.inner.armed.store(before.armed, Ordering::Relaxed);
    }

    /// The key that is armed now.
    #[inline]
    pub fn armed(&self) -> Option<WaitKey> {
        let key = self.inner.armed.load(Ordering::Relaxed);
        (key != 0).then_some(WaitKey(key))
    }

    /// Sets the callback, which an engine calls from any thread when its request is done. This is the driver's side of
    /// the callback.
    ///
    /// An engine may call it before the job has paused, and the driver must remember that call
    /// ([S64](crate::docs::openssl_behaviour#s64)). [`waker_fn`] makes a callback of a closure. A scheduler and a
    /// [`JobFuture`](crate::job_future::JobFuture) set the callback of the ctxs of their jobs, and clear it when the
    /// job has ended.
    pub fn set_callback(&self, callback: Option<Waker>) {
        #[cfg(any(feature = "insight", feature = "tracing"))]
        let callback = callback.map(|callback| self.inner.wakes.noting(callback));
        self.inner.set_callback(callback.map(Callback::new));
    }

    /// Sets the callback of a driver. What this calls is one reference less away than a [`Waker`] of it.
    pub(crate) fn set_callback_of<W: Wake + Send + Sync + 'static>(&self, driver: Arc<W>) {
        #[cfg(any(feature = "insight", feature = "tracing"))]
        if self.inner.wakes.are_observed() {
            return self.set_callback(Some(Waker::from(driver)));
        }
        self.inner.set_callback(Some(Callback::new(driver)));
    }

    /// The callback, or `None` if the driver has set none ([S63](crate::docs::openssl_behaviour#s63)). This is the
    /// engine's side of the callback.
    ///
    /// The waker is one of the ctx, which calls the one that was set.
    #[inline]
    pub fn callback(&self) -> Option<Waker> {
        self.callback_in_line()
    }

    /// As [`callback`](Self::callback), for a caller that is itself called by many.
    #[inline(always)] // two locks of the thread alone, which are a few instructions each
    pub(crate) fn callback_in_line(&self) -> Option<Waker> {
        // A callback that is set at the same time is seen or not.
        if self.inner.callback_state.load(Ordering::Relaxed) & 1 == 0 {
            return self.waker_of_c_callback();
        }
        let waker_of = |callback: &Option<Callback>| callback.as_ref().map(Callback::waker);
        let waker = self.inner.entries.beside_as_owner(waker_of);
        waker.unwrap_or_else(|| self.callback_as_other())
    }

    /// As [`callback`](Self::callback), on a thread that is not the owner of the entries.
    #[cold]
    #[inline(never)]
    fn callback_as_other(&self) -> Option<Waker> {
        let entries = &self.inner.entries;
        let (waker, is_setter) = entries.beside_as_other(|callback| match callback {
            Some(callback) => (Some(callback.waker()), callback.is_set_by_this_thread()),
            None => (None, false),
        });
        // The thread that sets the callback is that of the driver, and so that of the job. An engine's thread is not.
        if is_setter && entries.owner() == Owner::Nobody {
            entries.own_if_nobodys();
        }
        waker
    }

    /// A number that changes with every change of the callback.
    #[inline]
    pub(crate) fn callback_version(&self) -> u32 {
        self.inner.callback_state.load(Ordering::Acquire)
    }

    /// Sets the status of the engine's request. It stays until it is set again
    /// ([S65](crate::docs::openssl_behaviour#s65)).
    #[inline]
    pub fn set_status(&self, status: Status) {
        self.inner.status.store(status.to_raw(), Ordering::Relaxed);
    }

    /// The status of the engine's request. It is [`Status::Unsupported`] until it is set.
    #[inline]
    pub fn status(&self) -> Status {
        Status::from_raw(self.inner.status.load(Ordering::Relaxed))
    }

    /// Asks the driver to resume the job at `deadline` even if nothing else happens. A driver resumes the job at that
    /// time or soon after it, and not before. `None` takes the deadline away.
    pub fn set_deadline(&self, deadline: Option<Instant>) {
        let nanos = deadline.map_or(NO_DEADLINE, |at| {
            let since = at.saturating_duration_since(epoch()).as_nanos();
            u64::try_from(since).unwrap_or(NO_DEADLINE)
        });
        self.inner.deadline.store(nanos, Ordering::Relaxed);
    }

    /// The time at which the driver is to resume the job at the latest.
    #[inline]
    pub fn deadline(&self) -> Option<Instant> {
        match self.inner.deadline.load(Ordering::Relaxed) {
            NO_DEADLINE => None,
            nanos => Some(epoch() + Duration::from_nanos(nanos)),
        }
    }

    #[inline]
    pub(crate) fn has_deadline(&self) -> bool {
        self.inner.deadline.load(Ordering::Relaxed) != NO_DEADLINE
    }

    /// A number that changes with every change of the wait fds. A driver that has seen a version need not read the fds
    /// again. It is 0 as long as the ctx has had no wait fd.
    #[inline]
    pub fn version(&self) -> u32 {
        self.inner.version.load(Ordering::Acquire)
    }

    /// A handle that does not keep the ctx alive.
    #[doc(hidden)] // for asyncjob-capi-lib
    pub fn downgrade(&self) -> WeakWaitCtx {
        WeakWaitCtx(self.inner.downgrade())
    }

    /// Takes the ctx for a job of a driver that sets the callback. Returns `None` if the ctx has such a job already.
    pub(crate) fn claim(&self) -> Option<ClaimedCtx> {
        self.begin_claim().then(|| ClaimedCtx(self.clone()))
    }

    /// As [`claim`](Self::claim). Returns whether it has the ctx now, until it calls [`end_claim`](Self::end_claim).
    ///
    /// One callback cannot wake two jobs: the second job would take the wakes of the first.
    pub(crate) fn begin_claim(&self) -> bool {
        // This Acquire pairs with the Release in `end_claim`: the driver before this one has cleared its callback by
        // now.
        !self.inner.claimed.swap(true, Ordering::Acquire)
    }

    /// Clears the callback, and makes the ctx free for another driver.
    pub(crate) fn end_claim(&self) {
        // Before the ctx is free for a driver that sets a callback of its own. The callback may be the user's, and its
        // drop may panic.
        contain(|| self.set_callback(None));
        self.inner.claimed.store(false, Ordering::Release);
    }

    /// A new ctx that is claimed from the start.
    pub(crate) fn new_claimed() -> Self {
        let mut ctx = WaitCtx::new();
        if let Some(inner) = ctx.inner.get_mut() {
            *inner.claimed.get_mut() = true; // nobody else has the ctx
        }
        ctx
    }

    /// Whether there is no other handle to the ctx, and no weak one.
    #[inline]
    pub(crate) fn is_sole(&self) -> bool {
        self.inner.is_sole()
    }

    /// Makes a claimed ctx as good as new for another job, apart from its callback. Returns `false` if there is another
    /// handle to the ctx, if its callback is another one than that of this driver, if anybody but the driver and the
    /// ctx has a handle to the callback, or if the ctx has had a wait fd or anything of C code.
    pub(crate) fn renew_claimed<W>(&mut self, callback: &Arc<W>) -> bool {
        let Some(inner) = self.inner.get_mut() else {
            return false;
        };
        if !inner.entries.get_mut().is_new() {
            return false;
        }
        match inner.entries.beside_mut() {
            Some(set) if set.is_alone_and_of(Arc::as_ptr(callback).addr()) => {}
            _ => return false,
        }
        *inner.status.get_mut() = NO_STATUS;
        *inner.deadline.get_mut() = NO_DEADLINE;
        *inner.armed.get_mut() = 0;
        if Arc::strong_count(callback) != 2 {
            return false;
        }
        // One handle is the driver's and one is in the callback of the ctx, which nobody else has. So nobody else can
        // make another one. The fence comes between the last call of a handle that was dropped on another thread and
        // the reuse.
        fence(Ordering::Acquire);
        true
    }

    /// Every entry that is not removed, newest first.
    pub(crate) fn live_fds(&self) -> Vec<LiveFd> {
        self.inner.read(|records| entries::live(records).copied().collect())
    }

    /// Settles the entries, as [`Job::resume`](crate::Job::resume) does with those of the job's ctx: added entries
    /// become settled, and removed ones are gone ([S42](crate::docs::openssl_behaviour#s42),
    /// [S58](crate::docs::openssl_behaviour#s58)).
    #[doc(hidden)] // for tests
    #[inline]
    pub fn settle(&self) {
        if self.is_unsettled() {
            self.settle_entries();
        }
    }

    #[cold]
    fn settle_entries(&self) {
        let mut entries = self.inner.entries.lock();
        entries.settle(&self.inner.view);
        self.inner.unsettled.store(false, Ordering::Relaxed);
    }
}

impl Inner {
    /// Calls `f` with the records of all entries, oldest first, as they were at one moment during this call. No lock is
    /// held while `f` runs, and none is taken while a ctx has at most two entries and no writer comes between.
    #[inline]
    fn read<R>(&self, f: impl FnOnce(&[Record]) -> R) -> R {
        self.view.read(f).unwrap_or_else(|f| self.read_under_lock(f))
    }

    /// The newest fd under `key`, with its data.
    #[inline]
    fn newest(&self, key: WaitKey) -> Option<(Fd, usize)> {
        let newest = self.view.newest(key);
        newest.unwrap_or_else(|| self.newest_under_lock(key))
    }

    #[cold]
    fn newest_under_lock(&self, key: WaitKey) -> Option<(Fd, usize)> {
        self.entries.lock().newest(key)
    }

    #[cold]
    fn read_under_lock<R>(&self, f: impl FnOnce(&[Record]) -> R) -> R {
        let records = self.entries.lock().records();
        f(&records)
    }

    /// The wait fds have changed, which readers see already: drivers learn of it, and the next resume settles them if
    /// they are unsettled.
    #[inline]
    fn changed(&self, are_unsettled: bool) {
        self.unsettled.store(are_unsettled, Ordering::Relaxed);
        // Only who holds the lock of the entries stores the version. The Release comes after the view was written: a
        // driver that has seen this version reads these entries, or later ones.
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Release);
    }

    fn set_callback(&self, new: Option<Callback>) {
        let is_set = u32::from(new.is_some());
        let old = self.entries.replace_beside(new);
        let was_set = u32::from(old.is_some());
        // Release: who sees the new version reads this callback, or a later one. Both numbers may wrap around.
        let change = (2 + is_set).wrapping_sub(was_set);
        self.callback_state.fetch_add(change, Ordering::Release);
        drop(old); // no lock is held: the drop of a waker may run any code
    }
}

impl Renew for Inner {
    fn new() -> Self {
        Inner {
            version: AtomicU32::new(0),
            unsettled: AtomicBool::new(false),
            status: AtomicI32::new(NO_STATUS),
            deadline: AtomicU64::new(NO_DEADLINE),
            armed: AtomicUsize::new(0),
            claimed: AtomicBool::new(false),
            jobs_of_c: AtomicU32::new(0),
            view: View::new(),
            entries: OwnerLock::new(Entries::new()),
            callback_state: AtomicU32::new(0),
            #[cfg(any(feature = "insight", feature = "tracing"))]
            wakes: noted::Wakes::default(),
        }
    }

    #[inline]
    fn renew(&mut self) {
        if !self.entries.get_mut().is_new() || *self.callback_state.get_mut() != 0 {
            self.drop_contents();
        }
        *self.status.get_mut() = NO_STATUS;
        *self.deadline.get_mut() = NO_DEADLINE;
        *self.armed.get_mut() = 0;
        *self.claimed.get_mut() = false;
        // The next thread that changes the ctx may be another one.
        self.entries.renew();
        #[cfg(any(feature = "insight", feature = "tracing"))]
        {
            self.wakes = noted::Wakes::default();
        }
    }

    fn with_spare<R>(f: impl FnOnce(&Spare<Self>) -> R) -> Option<R> {
        thread_local! {
            static SPARE: Spare<Inner> = const { Spare::new() };
        }
        SPARE.try_with(f).ok()
    }
}

impl Inner {
    /// Drops the values, newest first, in the order of OpenSSL's cleanup routines (S60), and then the callback.
    #[inline(never)]
    fn drop_contents(&mut self) {
        while let Some(value) = self.entries.get_mut().pop() {
            drop(value);
        }
        drop(self.entries.get_mut().renew(&self.view));
        drop(self.entries.beside_mut().take());
        *self.callback_state.get_mut() = 0;
        *self.version.get_mut() = 0;
        *self.unsettled.get_mut() = false;
    }
}

/// A ctx that one driver has taken for one job: see [`WaitCtx::claim`]. The drop clears the callback and makes the ctx
/// free for another driver.
#[derive(Debug)]
pub(crate) struct ClaimedCtx(WaitCtx);

impl ClaimedCtx {
    /// A new ctx that is claimed from the start.
    pub(crate) fn new() -> Self {
        ClaimedCtx(WaitCtx::new_claimed())
    }

    /// As [`WaitCtx::renew_claimed`].
    pub(crate) fn renew<W>(&mut self, callback: &Arc<W>) -> bool {
        self.0.renew_claimed(callback)
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
        self.0.end_claim();
    }
}

/// A handle to a ctx that does not keep it alive.
#[doc(hidden)] // for asyncjob-capi-lib
pub struct WeakWaitCtx(Weak<Inner>);

impl WeakWaitCtx {
    /// The ctx, if another handle keeps it alive.
    pub fn upgrade(&self) -> Option<WaitCtx> {
        self.0.upgrade().map(|inner| WaitCtx { inner })
    }

    /// Whether this is a handle to `ctx`. No other ctx has the same address while this handle exists.
    pub(crate) fn is(&self, ctx: &WaitCtx) -> bool {
        self.0.is_of(&ctx.inner)
    }
}

impl fmt::Debug for WeakWaitCtx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakWaitCtx").finish_non_exhaustive()
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
