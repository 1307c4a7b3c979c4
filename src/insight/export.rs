//! The numbers of a recorder through the facade of the crate `metrics`, for any exporter that a program has installed.

use std::time::Duration;

use metrics::{Label, counter, gauge};

use super::gauges::SchedulerNumbers;
use super::numbers::{JobNumbers, Numbers, Times};
use crate::stack::StackStats;

impl Numbers {
    /// Hands these numbers to the recorder of the crate `metrics` that the program has installed. Call it before each
    /// scrape, or every few seconds.
    ///
    /// Without an installed recorder the call does nothing. Times are in seconds and memory is in bytes. Each series of
    /// times is a histogram as Prometheus has it: `_bucket` with the label `le`, `_count` and `_sum`.
    ///
    /// | name | labels | kind |
    /// |---|---|---|
    /// | `asyncjob_jobs_{started,ended,cancelled,quarantined,refused}_total` | `job` | counter |
    /// | `asyncjob_hogs_total` | `job` | counter |
    /// | `asyncjob_run_seconds`, `asyncjob_delay_seconds` | `job` | times |
    /// | `asyncjob_pause_seconds` | `job`, `waits_for` | times |
    /// | `asyncjob_job_stack_bytes_max` | `job` | gauge |
    /// | `asyncjob_scheduler_jobs` | `thread`, `scheduler`, `queue` | gauge |
    /// | `asyncjob_scheduler_{spawns_refused,resumes,kernel_waits}_total` | `thread`, `scheduler` | counter |
    /// | `asyncjob_turn_seconds` | `thread`, `scheduler` | times |
    /// | `asyncjob_turn_seconds_so_far` | `thread`, `scheduler` | gauge |
    /// | `asyncjob_pool_stacks` | `thread`, `scheduler`, `state` | gauge |
    /// | `asyncjob_stacks`, `asyncjob_stack_{reserved,resident,used_max}_bytes` | `size` | gauge |
    ///
    /// ```
    /// use asyncjob::insight::Recorder;
    ///
    /// let recorder = Recorder::builder().build();
    /// recorder.numbers().export();
    /// ```
    #[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
    pub fn export(&self) {
        for (name, jobs) in &self.by_name {
            jobs.export(name);
        }
        for scheduler in &self.schedulers {
            scheduler.export();
        }
        for stacks in &self.stacks {
            export_stacks(stacks);
        }
    }
}

impl JobNumbers {
    fn export(&self, name: &str) {
        let labels = vec![Label::new("job", name.to_owned())];
        let counts = [
            ("asyncjob_jobs_started_total", self.started),
            ("asyncjob_jobs_ended_total", self.ended),
            ("asyncjob_jobs_cancelled_total", self.cancelled),
            ("asyncjob_jobs_quarantined_total", self.quarantined),
            ("asyncjob_jobs_refused_total", self.never_started),
            ("asyncjob_hogs_total", self.hogs),
        ];
        for (name, count) in counts {
            counter!(name, labels.clone()).absolute(count);
        }
        gauge!("asyncjob_job_stack_bytes_max", labels.clone()).set(self.high_water as f64);
        export_times("asyncjob_run_seconds", &labels, &self.runs);
        export_times("asyncjob_delay_seconds", &labels, &self.delays);
        for (key, times) in &self.pauses_by_key {
            let mut labels = labels.clone();
            labels.push(Label::new("waits_for", key.clone()));
            export_times("asyncjob_pause_seconds", &labels, times);
        }
    }
}

impl SchedulerNumbers {
    fn export(&self) {
        let labels = vec![
            Label::new("thread", self.thread.clone()),
            Label::new("scheduler", self.number.to_string()),
        ];
        let with = |name: &'static str, value: &'static str| {
            let mut labels = labels.clone();
            labels.push(Label::new(name, value));
            labels
        };
        let queues = [
            ("ready", self.queues.ready),
            ("unstarted", self.queues.unstarted),
            ("submitted", self.queues.submitted),
            ("paused", self.queues.paused),
        ];
        for (queue, jobs) in queues {
            gauge!("asyncjob_scheduler_jobs", with("queue", queue)).set(jobs as f64);
        }
        let counts = [
            ("asyncjob_scheduler_spawns_refused_total", self.stats.refused),
            ("asyncjob_scheduler_resumes_total", self.stats.resumes),
            ("asyncjob_scheduler_kernel_waits_total", self.stats.kernel_waits),
        ];
        for (name, count) in counts {
            counter!(name, labels.clone()).absolute(count);
        }
        export_times("asyncjob_turn_seconds", &labels, &self.turns);
        let so_far = self.in_turn.map_or(0.0, |time| time.as_secs_f64());
        gauge!("asyncjob_turn_seconds_so_far", labels.clone()).set(so_far);
        if let Some(pool) = self.pool {
            gauge!("asyncjob_pool_stacks", with("state", "in use")).set(pool.in_use as f64);
            gauge!("asyncjob_pool_stacks", with("state", "idle")).set(pool.idle as f64);
        }
    }
}

fn export_stacks(stacks: &StackStats) {
    let labels = vec![Label::new("size", stacks.size.to_string())];
    let values = [
        ("asyncjob_stacks", stacks.stacks),
        ("asyncjob_stack_reserved_bytes", stacks.reserved),
        ("asyncjob_stack_resident_bytes", stacks.resident),
        ("asyncjob_stack_used_max_bytes", stacks.high_water),
    ];
    for (name, value) in values {
        gauge!(name, labels.clone()).set(value as f64);
    }
}

/// A histogram whose buckets were counted here. The facade's own histograms take each value by itself, as it comes:
/// that would be a call of the exporter for each switch.
fn export_times(name: &str, labels: &[Label], times: &Times) {
    let bounds = Times::BOUNDS
        .iter()
        .map(Duration::as_secs_f64)
        .map(|bound| bound.to_string());
    let buckets = bounds.zip(times.within).chain([("+Inf".to_owned(), times.count)]);
    for (bound, count) in buckets {
        let mut labels = labels.to_vec();
        labels.push(Label::new("le", bound));
        counter!(format!("{name}_bucket"), labels).absolute(count);
    }
    counter!(format!("{name}_count"), labels.to_vec()).absolute(times.count);
    gauge!(format!("{name}_sum"), labels.to_vec()).set(times.sum.as_secs_f64());
}
