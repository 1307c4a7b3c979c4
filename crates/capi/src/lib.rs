//! OpenSSL's `ASYNC_JOB` for C programs: the 22 functions of `<openssl/async.h>`, on the `asyncjob` library.
//!
//! Everything is in `asyncjob-capi-lib`, which a Rust program uses as a library. This crate gives it the file names and
//! the linker's options of the drop-in, `libasyncjob.so` and `libasyncjob.a`. A package whose library is a shared
//! object is linked without optimisation across crates if it is a Rust library at the same time, so there are two.
//!
//! README.md has a table of the differences from OpenSSL, with the programs that show each, and says what a call costs.

pub use asyncjob_capi::*;
