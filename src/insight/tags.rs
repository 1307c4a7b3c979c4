//! What the code of a job says of the job: the peer of its connection, say.

use std::collections::HashMap;
use std::fmt::Display;
use std::marker::PhantomData;
use std::sync::{Mutex, MutexGuard};

use super::fork::lock;
use crate::job::{JobId, current_job_id};

/// The tags of all jobs, the oldest first. A job that has none is not in the table, so that a job without tags costs
/// nothing.
static TAGS: Mutex<Tags> = Mutex::new(None);

type Tags = Option<HashMap<JobId, Vec<Entry>>>;

/// What the thread that forks holds.
pub(super) type Held = MutexGuard<'static, Tags>;

pub(super) fn hold() -> Held {
    lock(&TAGS)
}

pub(super) struct Entry {
    serial: u64,
    key: &'static str,
    value: String,
}

/// Attaches `value` to the job that runs this code, for [`dump`](super::dump), until the returned guard is dropped.
/// Outside a job the call does nothing.
///
/// A job may have any number of tags, also several under one key.
///
/// ```
/// use asyncjob::scheduler::Scheduler;
/// use asyncjob::{Status, current_job, insight, pause_job};
/// use std::time::Duration;
///
/// let scheduler = Scheduler::new()?;
/// let job = scheduler.spawn(|| {
///     let _peer = insight::tag("peer", "10.0.0.7:4431");
///     current_job().unwrap().wait_ctx().set_status(Status::Ok); // as an engine that will call back
///     pause_job()
/// })?;
/// scheduler.turn(Some(Duration::ZERO))?;
/// let text = insight::dump(Duration::from_secs(1)).to_string();
/// assert!(text.contains("peer=10.0.0.7:4431"), "{text}");
/// # drop(job);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
pub fn tag(key: &'static str, value: impl Display) -> Tag {
    let job = current_job_id().map(|job| {
        let value = value.to_string(); // runs code of the user, so before the lock
        let mut tags = lock(&TAGS);
        let tags = tags.get_or_insert_default().entry(job).or_default();
        let serial = tags.last().map_or(0, |last| last.serial + 1);
        tags.push(Entry { serial, key, value });
        (job, serial)
    });
    Tag {
        job,
        _stays_in_its_job: PhantomData,
    }
}

/// The guard that [`tag`] returns. The job has the tag while the guard exists.
#[derive(Debug)]
#[must_use = "the tag is gone when the guard is dropped"]
pub struct Tag {
    job: Option<(JobId, u64)>,
    _stays_in_its_job: PhantomData<*const ()>,
}

impl Drop for Tag {
    fn drop(&mut self) {
        let Some((job, serial)) = self.job else { return };
        let mut all = lock(&TAGS);
        let Some(all) = all.as_mut() else { return };
        if let Some(tags) = all.get_mut(&job) {
            tags.retain(|tag| tag.serial != serial);
            if tags.is_empty() {
                all.remove(&job);
            }
        }
    }
}

/// The tags of a job.
pub(super) fn of(job: JobId) -> Vec<(String, String)> {
    let tags = lock(&TAGS);
    let tags = tags.as_ref().and_then(|tags| tags.get(&job));
    let tags = tags.into_iter().flatten();
    tags.map(|tag| (tag.key.to_string(), tag.value.clone())).collect()
}
