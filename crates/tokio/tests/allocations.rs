//! Promise: a future of a job makes one heap allocation under tokio, too: for what it is given. What looks after wait
//! fds and deadlines is made for a job that has some.

use std::pin::pin;
use std::task::{Context, Waker};

use asyncjob_testing::{Counting, allocations};
use asyncjob_tokio::{in_job, job};

#[global_allocator]
static GLOBAL: Counting = Counting;

#[test]
#[cfg_attr(feature = "tracing", ignore = "the spans of each job are on the heap there")]
fn a_future_of_a_job_allocates_once() {
    let number = std::hint::black_box(7);
    let polled = |future: &mut dyn FnMut(&mut Context<'_>) -> bool| {
        allocations(|| assert!(future(&mut Context::from_waker(Waker::noop()))))
    };
    let closure = || polled(&mut |task| pin!(job(move || number)).poll(task).is_ready());
    let future = || polled(&mut |task| pin!(in_job(async move { number })).poll(task).is_ready());
    assert!(closure() > 1, "the first job makes a stack");
    assert_eq!((closure(), future()), (1, 1));
}
