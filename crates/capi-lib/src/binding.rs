//! Whether OpenSSL, and the engines and providers in this process, reach the functions of this library.

use asyncjob::{debug_with_sentence, guide_page};
use std::error::Error;
use std::ffi::{CStr, c_void};
use std::fmt;
use std::path::PathBuf;

use crate::job;
use crate::libcrypto::{self, object_of, symbol};
use crate::stack_memory;
use crate::thread::{self, OUR_EXPORTS};
use crate::wait_ctx;

/// Why C code in this process does not reach the functions of this library: see [`check`].
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotBound {
    /// A call of this function by C code does not reach this library.
    NotExported {
        /// The function.
        function: &'static str,
        /// The object that has the function that is reached.
        reached: Option<PathBuf>,
    },
    /// There is no libcrypto of OpenSSL 3.0 or later among the shared objects of this process.
    NoLibcrypto,
    /// OpenSSL is part of the same object as this library.
    Static,
}

/// Checks that OpenSSL, its engines and its providers reach the functions of this library when they call `ASYNC_*`.
///
/// Call it once, when the program starts. All 24 functions must be this library's: a handle of one library means
/// nothing to another.
///
/// # Errors
///
/// [`NotBound`] says what is wrong, and what to do.
///
/// ```no_run
/// asyncjob_capi::check()?;
/// # Ok::<(), asyncjob_capi::NotBound>(())
/// ```
pub fn check() -> Result<(), NotBound> {
    for (name, ours) in functions() {
        let reached = symbol(name);
        if reached != Some(ours.cast_mut()) {
            return Err(NotBound::NotExported {
                function: name.to_str().unwrap_or_default(),
                reached: reached.and_then(|reached| object_of(reached)),
            });
        }
    }
    // A program that exports all of its functions shows what it is linked with. One that exports ours only does not.
    let of_openssl = symbol(c"OPENSSL_init_crypto").and_then(|function| object_of(function));
    if of_openssl.is_some() && of_openssl == object_of(check as *const c_void) {
        return Err(NotBound::Static);
    }
    libcrypto::search(std::ptr::null(), OUR_EXPORTS);
    match libcrypto::found() {
        None => Err(NotBound::NoLibcrypto),
        Some(_) => Ok(()),
    }
}

impl fmt::Display for NotBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotBound::NotExported { function, reached } => {
                write!(f, "OpenSSL does not call {function} of asyncjob_capi, but ")?;
                match reached {
                    Some(object) => write!(f, "that of {}", object.display())?,
                    None => write!(f, "none that the program exports")?,
                }
                write!(
                    f,
                    ": the program's build script must print the line that the documentation of asyncjob_capi gives, \
                     which exports ASYNC_* from the executable{}",
                    guide_page!("openssl-engine")
                )
            }
            NotBound::NoLibcrypto => write!(
                f,
                "no libcrypto of OpenSSL 3.0 or later is loaded in this process: if the program has OpenSSL linked \
                 statically, its engines and providers cannot pause; link it dynamically (OPENSSL_STATIC=0, without \
                 the feature `vendored`){}",
                guide_page!("openssl-engine")
            ),
            NotBound::Static => write!(
                f,
                "OpenSSL is linked statically into the object of asyncjob_capi, where its engines and providers cannot \
                 pause: link it dynamically (OPENSSL_STATIC=0, without the feature `vendored`){}",
                guide_page!("openssl-engine")
            ),
        }
    }
}

debug_with_sentence!(NotBound: NotExported, NoLibcrypto, Static);

impl Error for NotBound {}

/// The functions that C code must reach.
fn functions() -> [(&'static CStr, *const c_void); 24] {
    macro_rules! table {
        ($($module:ident :: $name:ident),* $(,)?) => {
            [$((
                const {
                    match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                        Ok(name) => name,
                        Err(_) => unreachable!(),
                    }
                },
                $module::$name as *const c_void,
            )),*]
        };
    }
    table![
        job::ASYNC_block_pause,
        job::ASYNC_get_current_job,
        job::ASYNC_get_wait_ctx,
        job::ASYNC_is_capable,
        job::ASYNC_pause_job,
        job::ASYNC_start_job,
        job::ASYNC_unblock_pause,
        stack_memory::ASYNC_get_mem_functions,
        stack_memory::ASYNC_set_mem_functions,
        thread::ASYNC_cleanup_thread,
        thread::ASYNC_init_thread,
        thread::OPENSSL_thread_stop,
        thread::OSSL_LIB_CTX_set0_default,
        wait_ctx::ASYNC_WAIT_CTX_clear_fd,
        wait_ctx::ASYNC_WAIT_CTX_free,
        wait_ctx::ASYNC_WAIT_CTX_get_all_fds,
        wait_ctx::ASYNC_WAIT_CTX_get_callback,
        wait_ctx::ASYNC_WAIT_CTX_get_changed_fds,
        wait_ctx::ASYNC_WAIT_CTX_get_fd,
        wait_ctx::ASYNC_WAIT_CTX_get_status,
        wait_ctx::ASYNC_WAIT_CTX_new,
        wait_ctx::ASYNC_WAIT_CTX_set_callback,
        wait_ctx::ASYNC_WAIT_CTX_set_status,
        wait_ctx::ASYNC_WAIT_CTX_set_wait_fd,
    ]
}
