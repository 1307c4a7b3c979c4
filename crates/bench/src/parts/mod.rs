//! The questions that a run answers, one file each.

pub(crate) mod counts;
pub(crate) mod life;
pub(crate) mod memory;
pub(crate) mod options;
pub(crate) mod poll;
pub(crate) mod scale;
pub(crate) mod switch;
pub(crate) mod wait_ctx;
pub(crate) mod wake;
pub(crate) mod work;

use crate::measure::Candidate;
use crate::peer::Depth;
use crate::setup::{Group, Setup};

/// Every group of candidates, with its name in `counts` and `--list`.
pub(crate) fn groups(setup: &Setup) -> Vec<(String, Group<'_>)> {
    let switches = Depth::ALL
        .iter()
        .map(|depth| (switch::name(*depth), switch::group(setup, *depth)));
    switches
        .chain([("life".to_string(), life::group(setup))])
        .chain(wake::groups(setup))
        .chain(poll::groups(setup))
        .collect()
}

/// The candidate of that name in that group.
pub(crate) fn find(setup: &Setup, group: &str, name: &str) -> Option<Candidate> {
    let (_, group) = groups(setup).into_iter().find(|(other, _)| other == group)?;
    group.take(name)
}
