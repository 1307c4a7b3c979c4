//! The size of a stack, and what makes two stacks interchangeable.

/// The size of a stack: a power of two from 16 KiB to 8 MiB.
///
/// ```
/// use asyncjob::stack::StackSize;
/// assert_eq!(StackSize::at_least(100_000).bytes(), 128 << 10);
/// assert_eq!(StackSize::at_least(1), StackSize::MIN);
/// assert_eq!(StackSize::try_at_least(9 << 20), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StackSize(u32);

impl StackSize {
    /// The smallest stack: 16 KiB. It is enough for plain calls. A panic that prints a backtrace overflows it.
    pub const MIN: StackSize = StackSize(16 << 10);
    /// The largest stack: 8 MiB, the usual size of a program's main stack.
    pub const MAX: StackSize = StackSize(8 << 20);
    /// The stack of a job that asks for no other size: 256 KiB of address space. The job pays for the pages that it
    /// touches. A panic with a full backtrace in a debug build takes less than a quarter of it (`tests/stack_sizes.rs`
    /// measures this).
    pub const DEFAULT: StackSize = StackSize(256 << 10);

    /// The smallest size of at least `bytes` bytes.
    ///
    /// # Panics
    ///
    /// When `bytes` is more than 8 MiB. For a number that comes from outside the program, use
    /// [`try_at_least`](Self::try_at_least).
    pub const fn at_least(bytes: usize) -> StackSize {
        match Self::try_at_least(bytes) {
            Some(size) => size,
            None => panic!(concat!(
                "a stack has at most 8 MiB: ask StackSize::try_at_least for a number that comes from outside",
                guide_page!("stack-size")
            )),
        }
    }

    /// The smallest size of at least `bytes` bytes, or `None` when `bytes` is more than 8 MiB.
    pub const fn try_at_least(bytes: usize) -> Option<StackSize> {
        if bytes <= Self::MIN.bytes() {
            return Some(Self::MIN);
        }
        if bytes > Self::MAX.bytes() {
            return None;
        }
        Some(StackSize(bytes.next_power_of_two() as u32))
    }

    /// The size in bytes. At most 736 of them, at the top, hold what the library knows of the job. The others are for
    /// the job's code.
    #[inline]
    pub const fn bytes(self) -> usize {
        self.0 as usize
    }

    /// The figure in the documentation of [`bytes`](Self::bytes). `job::control_block` asserts that it is true.
    pub(crate) const MAX_RESERVED: usize = 736;
}

impl Default for StackSize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What is done so that a job's data does not stay in memory after the job has ended.
///
/// By default nothing is done: the next job gets a stack as the last job left it, and a core dump contains it. Each
/// option has a price, which the part `options` of `crates/bench` measures.
///
/// No option covers what a job copied elsewhere, nor what the compiler did. Optimised code moves values by vector
/// registers, in which they stay until other code uses them, and a core dump contains the registers. It also copies the
/// unused bytes of a value, such as those of an `Option` that is `None`, with what lies there: up to 96 bytes of a
/// secret on the stack of the job that called `spawn` were found in the heap. Keep a key in a `Box` that clears itself.
///
/// The closure of a job may wait on the heap: any that is spawned, and one of more than 4 KiB. It is overwritten there
/// when it moves to the stack of its job, and when it is dropped. A closure that is larger than a quarter of the stack
/// is called where it lies, and not overwritten: let it hold a `Box` that clears itself.
///
/// ```
/// use asyncjob::stack::SecretPolicy;
/// use asyncjob::pool::{PoolConfig, init_thread};
/// use asyncjob::{start_job, Step, WaitCtx};
/// init_thread(PoolConfig::new().secrets(SecretPolicy::new().scrub().dont_dump()))?;
/// let step = start_job(&WaitCtx::new(), || std::hint::black_box([7u8; 32])[0]).map_err(|_| "no stack")?;
/// assert!(matches!(step, Step::Finished(7)));   // and the 32 bytes are zero again
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SecretPolicy {
    pub(crate) scrub: bool,
    pub(crate) dont_dump: bool,
    pub(crate) mlock: bool,
}

impl SecretPolicy {
    /// A policy that does nothing.
    pub const fn new() -> Self {
        Self {
            scrub: false,
            dont_dump: false,
            mlock: false,
        }
    }

    /// Overwrites what a job has used of its stack with zeros when the job ends, before another job can have the stack.
    pub const fn scrub(mut self) -> Self {
        self.scrub = true;
        self
    }

    /// Leaves the stacks out of core dumps (`MADV_DONTDUMP` of `madvise(2)`).
    pub const fn dont_dump(mut self) -> Self {
        self.dont_dump = true;
        self
    }

    /// Keeps the stacks out of swap (`mlock2(2)` with `MLOCK_ONFAULT`: each page is locked when it is first touched).
    /// `RLIMIT_MEMLOCK` counts the whole size of each stack and its guard. A child of `fork(2)` locks the stacks that
    /// it inherits again: see [`docs::fork`](crate::docs::fork).
    pub const fn mlock(mut self) -> Self {
        self.mlock = true;
        self
    }
}

/// What makes two stacks interchangeable. Each `Spec` has its own [`Depot`](super::depot::Depot).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) size: StackSize,
    /// Bytes of the guard below the stack. `slab` rounds it up to whole pages.
    pub(crate) guard: u32,
    pub(crate) secrets: SecretPolicy,
    /// The high-water mark is exact to the word. Unused stack is kept zero for that.
    pub(crate) exact: bool,
}

impl Spec {
    pub(crate) const DEFAULT_GUARD: u32 = 64 << 10;

    pub(crate) const fn new(size: StackSize) -> Self {
        Self {
            size,
            guard: Self::DEFAULT_GUARD,
            secrets: SecretPolicy::new(),
            exact: false,
        }
    }

    /// Whether a used stack must be zeroed before another job uses it.
    pub(crate) const fn wipes(self) -> bool {
        self.secrets.scrub || self.exact
    }
}
