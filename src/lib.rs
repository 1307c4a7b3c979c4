//! Runs synchronous-looking code asynchronously.
