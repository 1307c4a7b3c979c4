//! Longer texts about this crate: prose only, no code.
//!
//! [The guide] in the repository has a page for each question, with programs.
//!
//! [The guide]: https://github.com/asyncjob/asyncjob/tree/HEAD/docs/guide

/// `docs/openssl-behaviour.md`, as it is in the repository.
#[doc = include_str!("../../docs/openssl-behaviour.md")]
pub mod openssl_behaviour {}

#[doc = include_str!("fork.md")]
pub mod fork {}

#[doc = include_str!("hang.md")]
pub mod hang {}

#[doc = include_str!("soundness.md")]
pub mod soundness {}
