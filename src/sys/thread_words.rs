//! The words of a thread that each switch looks up.
//!
//! In a program they are an ordinary thread-local, whose address the linker knows: one instruction. In a shared object
//! it does not. The compiler then calls `__tls_get_addr`, which reads four words one after the other, and every load of
//! the switch waits for them. With the feature `tlsdesc` the words are reached through a *TLS descriptor* instead, the
//! other way that the ABI of x86-64 has: the call that it makes reads one word and returns.
//!
//! ```text
//!   thread pointer
//!      |  + offset, from the descriptor
//!      v
//!    +-------------+-------------+------+-------------+
//!    | current_job | next_job_id | pool | c_interface |     ThreadWords: 0 when the thread begins
//!    +-------------+-------------+------+-------------+
//!                                   |          |
//!                                   v          v
//!                          thread-locals of std, whose addresses stay the same as long as the thread exists
//! ```
//!
//! Why a descriptor and not the model `initial-exec`, which needs no call: that model makes the loader put all
//! thread-locals of the object (a kilobyte) beside those of the program. There is little room for objects that are
//! loaded with `dlopen`, so that such a load may fail. A descriptor works wherever the words are: the loader fills in
//! the function that finds them. If the object file is linked into a program after all, the linker replaces the call by
//! the offset.
//!
//! The words have no destructor, and neither have the values that two of them point to. So they can be used until the
//! thread is gone, in destructors of other thread-locals and of pthread keys, too. The memory of a thread that has
//! ended is zeroed before another thread has it: that is what the section `.tbss` means.

use std::cell::Cell;
use std::ptr;
use std::ptr::NonNull;
use std::thread::LocalKey;

/// The words of one thread.
#[repr(C)]
pub(crate) struct ThreadWords {
    /// The control block of the innermost job that runs on this thread. `job` writes it and knows what it points to.
    /// The pool must know, too, whether it is called by one of its jobs. `current_job` reads it as the first word.
    pub(crate) current_job: Cell<Option<NonNull<()>>>,
    /// The next id for a job: see `job::id`.
    pub(crate) next_job_id: Cell<u64>,
    /// Where the pool of the thread is.
    pub(crate) pool: Cached,
    /// Where the C interface keeps what it has for the thread.
    pub(crate) c_interface: Cached,
}

/// The address of a thread-local, once it was looked up; null before.
pub(crate) struct Cached(Cell<*const ()>);

/// The name of the words for the linker. Two versions of this crate in one object have words of their own.
#[cfg(asyncjob_tlsdesc)]
macro_rules! symbol {
    () => {
        concat!("asyncjob_thread_words_", env!("CARGO_PKG_VERSION"))
    };
}

#[cfg(asyncjob_tlsdesc)]
std::arch::global_asm!(
    ".pushsection .tbss.asyncjob_thread_words, \"awT\", @nobits",
    ".p2align 6",
    concat!(".globl ", symbol!()), // for the other object files of the library
    concat!(".hidden ", symbol!()), // and for nothing else
    concat!(".type ", symbol!(), ", @object"),
    concat!(symbol!(), ":"),
    ".zero {size}",
    concat!(".size ", symbol!(), ", {size}"),
    ".popsection",
    size = const size_of::<ThreadWords>(),
);

/// The two instructions and the call of a TLS descriptor, which leave the offset of the words from the thread pointer
/// in `rax`, and then one more instruction.
///
/// By its ABI the call changes no register but `rax` and the flags. At the first call of a thread in an object that was
/// loaded with `dlopen`, the glibc before 2.40 may allocate memory in it, and does not keep the vector registers
/// (sourceware bug 31372): hence the list. The compiler aligns the stack for a call, and keeps nothing below the stack
/// pointer, as the option `nostack` is not there.
#[cfg(asyncjob_tlsdesc)]
macro_rules! at_words {
    ($last:literal, $($option:ident),+) => {{
        let found;
        std::arch::asm!(
            concat!("lea rax, [rip + ", symbol!(), "@tlsdesc]"),
            concat!("call qword ptr [rax + ", symbol!(), "@tlscall]"),
            $last,
            out("rax") found,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
            out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _, out("xmm16") _, out("xmm17") _,
            out("xmm18") _, out("xmm19") _, out("xmm20") _, out("xmm21") _, out("xmm22") _, out("xmm23") _,
            out("xmm24") _, out("xmm25") _, out("xmm26") _, out("xmm27") _, out("xmm28") _, out("xmm29") _,
            out("xmm30") _, out("xmm31") _, out("k1") _, out("k2") _, out("k3") _, out("k4") _, out("k5") _,
            out("k6") _, out("k7") _,
            options($($option),+),
        );
        found
    }};
}

impl ThreadWords {
    /// Calls `f` with the words of this thread.
    #[cfg(not(asyncjob_tlsdesc))]
    #[inline(always)]
    pub(crate) fn with<R>(f: impl FnOnce(&ThreadWords) -> R) -> R {
        thread_local! {
            static WORDS: ThreadWords = const {
                ThreadWords {
                    current_job: Cell::new(None),
                    next_job_id: Cell::new(0),
                    pool: Cached(Cell::new(ptr::null())),
                    c_interface: Cached(Cell::new(ptr::null())),
                }
            };
        }
        WORDS.with(f)
    }

    /// Calls `f` with the words of this thread.
    #[cfg(asyncjob_tlsdesc)]
    #[inline(always)]
    pub(crate) fn with<R>(f: impl FnOnce(&ThreadWords) -> R) -> R {
        // SAFETY: the first word behind the thread pointer is its own address. The result is the same at each time on a
        // thread, and a job never changes its thread: `pure`.
        let at: *const ThreadWords = unsafe { at_words!("add rax, fs:[0]", pure, nomem) };
        // SAFETY: the words of this thread, which exist as long as the thread does. All their bits are 0 at first,
        // which is a `None` and null pointers.
        f(unsafe { &*at })
    }

    /// The word `current_job` of this thread. In a shared object this waits for one load less than [`with`](Self::with)
    /// does, and a pause, whose return is mispredicted, waits for all of its loads.
    #[inline(always)]
    pub(crate) fn current_job() -> Option<NonNull<()>> {
        #[cfg(not(asyncjob_tlsdesc))]
        return Self::with(|words| words.current_job.get());
        #[cfg(asyncjob_tlsdesc)]
        {
            const _: () = assert!(std::mem::offset_of!(ThreadWords, current_job) == 0);
            // SAFETY: the instruction reads the first of the words.
            let current: *mut () = unsafe { at_words!("mov rax, fs:[rax]", readonly) };
            NonNull::new(current)
        }
    }
}

/// Calls `f` with the value of this thread-local, whose address is in `word` from the first call of a thread on.
///
/// # Safety
///
/// All calls with the same `word` must have the same `local`.
#[inline(always)]
pub(crate) unsafe fn with_local<T: 'static, R>(
    word: impl FnOnce(&ThreadWords) -> &Cached,
    local: &'static LocalKey<T>,
    f: impl FnOnce(&T) -> R,
) -> R {
    const {
        assert!(
            !std::mem::needs_drop::<T>(),
            "the value is used until the thread is gone"
        )
    };
    if cfg!(not(asyncjob_tlsdesc)) {
        return local.with(f); // where a thread-local is, is known there, so that a word would make it slower
    }
    ThreadWords::with(|words| {
        let Cached(word) = word(words);
        let mut at = word.get();
        if at.is_null() {
            at = look_up(word, local);
        }
        // SAFETY: the address of the value on this thread. It has no destructor, so it exists as long as the thread,
        // and the caller promises that it is of this type.
        f(unsafe { &*at.cast::<T>() })
    })
}

#[cold]
#[inline(never)]
fn look_up<T: 'static>(word: &Cell<*const ()>, local: &'static LocalKey<T>) -> *const () {
    local.with(|value| {
        let at = ptr::from_ref(value).cast();
        word.set(at);
        at
    })
}
