//! rustls private keys that pause instead of blocking.
