//! The questions that a run answers, one file each.

pub(crate) mod life;
pub(crate) mod switch;
