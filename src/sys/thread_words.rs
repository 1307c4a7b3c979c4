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
//!    +-------------+-------------+-------------+------+
//!    | current_job | next_job_id | c_interface | pool |     ThreadWords: 0 when the thread begins
//!    +-------------+-------------+-------------+------+
//!                                       |          |
//!                                       v          v
//!                         boxes, made at their first use on the thread (Boxed)
//! ```
//!
//! Why a descriptor and not the model `initial-exec`, which needs no call: that model makes the loader put all
//! thread-locals of the object beside those of the program. There is little room for objects that are loaded with
//! `dlopen`, so that such a load may fail. A descriptor works wherever the words are: the loader fills in the function
//! that finds them. If the object file is linked into a program after all, the linker replaces the call by the offset.
//!
//! The call is short where the thread-locals of the object are beside those of the program. glibc puts them there for
//! an object that is there when the program starts, and for one that is loaded with `dlopen` if all its thread-locals
//! have room in 512 bytes, which it keeps for that (`glibc.rtld.optional_static_tls`). Hence the boxes: in a shared
//! object the large values of a thread are not thread-locals.
//!
//! The words have no destructor. So they can be used until the thread is gone, in destructors of other thread-locals
//! and of pthread keys, too. A box is freed by the C interface, in the destructor of its pthread key: a later use makes
//! a new one, and that destructor runs again. The memory of a thread that has ended is zeroed before another thread has
//! it: that is what the section `.tbss` means.

use std::cell::Cell;
use std::ptr;
use std::ptr::NonNull;

/// The words of one thread.
#[repr(C)]
pub(crate) struct ThreadWords {
    /// The control block of the innermost job that runs on this thread. `job` writes it and knows what it points to.
    /// The pool must know, too, whether it is called by one of its jobs. `current_job` reads it as the first word.
    pub(crate) current_job: Cell<Option<NonNull<()>>>,
    /// The next id for a job: see `job::id`.
    pub(crate) next_job_id: Cell<u64>,
    /// What the C interface has for the thread.
    pub(crate) c_interface: Boxed,
    /// The pool of the thread. In a program it is a thread-local, which is reached by one load less.
    #[cfg(asyncjob_tlsdesc)]
    pub(crate) pool: Boxed,
}

/// A value on the heap, once the thread has used it; null before.
pub(crate) struct Boxed(Cell<*mut ()>);

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
    ".p2align 5", // the words are in one cache line
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
                    c_interface: Boxed(Cell::new(ptr::null_mut())),
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

/// Calls `f` with the value in this box, which is made by `new` if there is none.
///
/// # Safety
///
/// All calls with the same `word` must have the same `T`. `f` must not call anything that [frees](free_boxed) the box
/// and returns.
#[inline(always)]
pub(crate) unsafe fn with_boxed<T: 'static, R>(
    word: impl FnOnce(&ThreadWords) -> &Boxed,
    new: fn() -> T,
    f: impl FnOnce(&T) -> R,
) -> R {
    ThreadWords::with(|words| {
        let Boxed(word) = word(words);
        let mut at = word.get();
        if at.is_null() {
            at = make(word, new);
        }
        // SAFETY: the box of this thread, which the caller promises to keep, with a value of this type.
        f(unsafe { &*at.cast::<T>() })
    })
}

#[cold]
#[inline(never)]
fn make<T: 'static>(word: &Cell<*mut ()>, new: fn() -> T) -> *mut () {
    let at = Box::into_raw(Box::new(new())).cast();
    word.set(at);
    at
}

/// Calls `before` with the value in this box, if there is one, then drops the value and frees the box.
///
/// # Safety
///
/// All calls with the same `word` must have the same `T`, which is that of [`with_boxed`]. The code that uses the value
/// now must never run again.
pub(crate) unsafe fn free_boxed<T: 'static>(word: impl FnOnce(&ThreadWords) -> &Boxed, before: fn(&T)) {
    ThreadWords::with(|words| {
        let Boxed(word) = word(words);
        let at = word.get().cast::<T>();
        if !at.is_null() {
            // SAFETY: the box of this thread, with a value of this type.
            before(unsafe { &*at });
            word.set(ptr::null_mut());
            // SAFETY: `make` has leaked the box, and nothing leads to it any more.
            drop(unsafe { Box::from_raw(at) });
        }
    });
}
