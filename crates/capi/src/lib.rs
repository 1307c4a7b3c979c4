//! The C ABI of OpenSSL's ASYNC_JOB: a drop-in by LD_PRELOAD or by linking.
