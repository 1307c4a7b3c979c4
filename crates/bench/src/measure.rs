//! Rounds: every candidate of a group runs once in each round, and only figures of the same round are compared.
//!
//! ```text
//!            candidate a   candidate b   control     order turns every round
//!  round 1   [  1 ms   ]   [  1 ms   ]   [ 1 ms ]
//!  round 2   [  1 ms   ]   [  1 ms   ]   [ 1 ms ]    ratio of b = median over rounds of (b / a)
//!  ...
//! ```
//!
//! When the machine changes its clock, or runs other programs, it slows a whole round down, and the ratio stays. The
//! control is the floor's own code once more. A ratio can be trusted as far as the control's ratio is close to 1.

use std::time::Duration;

use crate::progress::Progress;

/// Runs an operation `n` times and returns how long that took. The clock starts after all preparations.
pub(crate) type Run = Box<dyn FnMut(u64) -> Duration>;

/// One thing to measure.
pub(crate) struct Candidate {
    pub(crate) name: String,
    pub(crate) run: Run,
}

impl Candidate {
    pub(crate) fn new(name: impl Into<String>, run: impl FnMut(u64) -> Duration + 'static) -> Self {
        Candidate {
            name: name.into(),
            run: Box::new(run),
        }
    }
}

/// How much to measure.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    /// Rounds that count. One more is run before them, and its figures are dropped.
    pub(crate) rounds: usize,
    /// How long one candidate runs in one round.
    pub(crate) batch: Duration,
}

/// The figures of one candidate over all rounds. Times are nanoseconds for each operation.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    /// The median, over all rounds, of this candidate's time divided by the floor's time in the same round.
    pub(crate) ratio: f64,
    /// The middle half of those ratios.
    pub(crate) ratio_quartiles: (f64, f64),
}

/// Measures a group. The first candidate is the floor that the ratios are taken to.
pub(crate) fn interleave(group: &mut [Candidate], effort: Effort, progress: &Progress) -> Vec<Summary> {
    let sizes: Vec<u64> = group.iter_mut().map(|c| calibrate(&mut c.run, effort.batch)).collect();
    let mut times = vec![Vec::with_capacity(effort.rounds); group.len()];
    for round in 0..=effort.rounds {
        for at in order(round, group.len()) {
            progress.tick(&group[at].name);
            let took = (group[at].run)(sizes[at]);
            if round > 0 {
                times[at].push(took.as_nanos() as f64 / sizes[at] as f64);
            }
        }
    }
    times.iter().map(|own| summarise(own, &times[0])).collect()
}

/// The number of ticks that `interleave` will make.
pub(crate) fn ticks(group: usize, effort: Effort) -> u64 {
    (group * (effort.rounds + 1)) as u64
}

/// The order of a round. No candidate always runs after the same one, and none always runs last.
fn order(round: usize, len: usize) -> impl Iterator<Item = usize> {
    let forward = round.is_multiple_of(2);
    (0..len).map(move |i| {
        let i = if forward { i } else { len - 1 - i };
        (i + round / 2) % len
    })
}

/// The number of operations that fill a batch. It starts at 1, because the first operation of some peers takes a
/// millisecond.
fn calibrate(run: &mut Run, batch: Duration) -> u64 {
    let mut n = 1;
    loop {
        let took = run(n);
        if took * 2 >= batch || n >= 1 << 40 {
            let each = took.as_secs_f64() / n as f64;
            return ((batch.as_secs_f64() / each) as u64).max(1);
        }
        n *= 2;
    }
}

/// What the times of one candidate say, beside those of the floor in the same rounds.
pub(crate) fn summarise(own: &[f64], floor: &[f64]) -> Summary {
    let ratios: Vec<f64> = own.iter().zip(floor).map(|(own, floor)| own / floor).collect();
    Summary {
        median: quantile(own, 0.5),
        min: quantile(own, 0.0),
        ratio: quantile(&ratios, 0.5),
        ratio_quartiles: (quantile(&ratios, 0.25), quantile(&ratios, 0.75)),
    }
}

/// The value below which `share` of the values lie.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = share * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_candidate_runs_once_a_round() {
        for len in 1..6 {
            for round in 0..12 {
                let mut seen: Vec<usize> = order(round, len).collect();
                seen.sort();
                assert_eq!(seen, (0..len).collect::<Vec<_>>(), "round {round} of {len}");
            }
        }
    }

    #[test]
    fn no_candidate_always_runs_first() {
        let firsts: std::collections::HashSet<usize> = (0..8).map(|round| order(round, 4).next().unwrap()).collect();
        assert!(firsts.len() > 2, "only {firsts:?} ever ran first");
    }

    #[test]
    fn a_slow_round_changes_the_median_time_but_no_ratio() {
        let floor = [10.0, 20.0, 10.0];
        let own = [30.0, 60.0, 30.0];
        let summary = summarise(&own, &floor);
        assert_eq!((summary.median, summary.min), (30.0, 30.0));
        assert_eq!((summary.ratio, summary.ratio_quartiles), (3.0, (3.0, 3.0)));
    }

    #[test]
    fn quantiles_interpolate() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!([0.0, 0.5, 1.0].map(|q| quantile(&values, q)), [1.0, 2.5, 4.0]);
    }
}
