//! How large a stack is, and what makes two stacks interchangeable.

/// How large a stack is: 16 KiB to 8 MiB, in powers of two.
///
/// ```
/// use asyncjob::StackSize;
/// assert_eq!(StackSize::at_least(100_000).bytes(), 128 << 10);
/// assert_eq!(StackSize::at_least(1), StackSize::MIN);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StackSize(u32);

impl StackSize {
    /// The smallest: 16 KiB. Enough for plain calls; a panic that prints a backtrace overflows it.
    pub const MIN: StackSize = StackSize(16 << 10);
    /// The largest: 8 MiB, what a process gets for its main thread.
    pub const MAX: StackSize = StackSize(8 << 20);
    /// What a job gets when nobody says anything: 256 KiB of address space, of which a job pays for the pages that it
    /// touches. A panic with a full backtrace in a debug build fits several times (`tests/stack_sizes.rs` measures it).
    pub const DEFAULT: StackSize = StackSize(256 << 10);

    /// The smallest size that has at least `bytes` bytes.
    ///
    /// # Panics
    ///
    /// When `bytes` is more than 8 MiB.
    pub const fn at_least(bytes: usize) -> StackSize {
        assert!(bytes <= 8 << 20, "a stack has at most 8 MiB");
        if bytes <= 16 << 10 {
            return Self::MIN;
        }
        StackSize(bytes.next_power_of_two() as u32)
    }

    /// In bytes. A hundred or so at the top belong to the job's header.
    #[inline]
    pub const fn bytes(self) -> usize {
        self.0 as usize
    }
}

impl Default for StackSize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What may be left of a job's data in memory after it has ended.
///
/// By default nothing is done: a stack is handed to the next job as the last one left it, and a core dump contains it. Each
/// option has a price, measured in `benches/memory.rs`. Registers, and whatever a job copied elsewhere, are not covered.
///
/// ```
/// use asyncjob::{PoolConfig, Secrets, init_thread, start_job, Step, WaitCtx};
/// init_thread(PoolConfig::new().secrets(Secrets::new().scrub().dont_dump()))?;
/// let step = start_job(&WaitCtx::new(), || std::hint::black_box([7u8; 32])[0]).map_err(|_| "no stack")?;
/// assert!(matches!(step, Step::Finished(7)));   // and the 32 bytes are zero again
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Secrets {
    pub(crate) scrub: bool,
    pub(crate) dont_dump: bool,
    pub(crate) lock: bool,
}

impl Secrets {
    /// Nothing is done.
    pub const fn new() -> Self {
        Self {
            scrub: false,
            dont_dump: false,
            lock: false,
        }
    }

    /// What a job has used of its stack is overwritten with zeros when the job ends, before another job can have it.
    pub const fn scrub(mut self) -> Self {
        self.scrub = true;
        self
    }

    /// The stacks are left out of core dumps (`MADV_DONTDUMP`, `madvise(2)`).
    pub const fn dont_dump(mut self) -> Self {
        self.dont_dump = true;
        self
    }

    /// The stacks are never written to swap (`mlock2(2)` with `MLOCK_ONFAULT`: pages are locked as they are touched).
    /// `RLIMIT_MEMLOCK` counts the whole size of each stack with its guard.
    pub const fn lock(mut self) -> Self {
        self.lock = true;
        self
    }
}

/// What makes two stacks interchangeable: each `Spec` has its own [`Depot`](super::depot::Depot).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) size: StackSize,
    /// Bytes of guard below the stack: whole pages.
    pub(crate) guard: u32,
    pub(crate) secrets: Secrets,
    /// The high-water mark is exact to the word, by keeping unused stack zero.
    pub(crate) exact: bool,
}

impl Spec {
    pub(crate) const DEFAULT_GUARD: u32 = 64 << 10;

    pub(crate) const fn new(size: StackSize) -> Self {
        Self {
            size,
            guard: Self::DEFAULT_GUARD,
            secrets: Secrets::new(),
            exact: false,
        }
    }

    /// A stack that has been used must be zeroed before it is used again.
    pub(crate) const fn wipes(self) -> bool {
        self.secrets.scrub || self.exact
    }
}
