//! A job on tokio is resumed when what it waits for has happened, and for no other reason. Counters, and no clock.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io::{PipeReader, Read, Write, pipe};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use asyncjob::io::Pausing;
use asyncjob::job_future::JobFuture;
use asyncjob::offload::Offload;
use asyncjob::pool::{self, PoolConfig, cleanup_thread, init_thread};
use asyncjob::waiting::{AwaitError, await_future};
use asyncjob::{Interest, Interrupted, WaitCtx, WaitFdOptions, WaitKey, Wants, current_job, pause_job};
use asyncjob_testing::Watchdog;
use asyncjob_tokio::{in_job, job, spawn_local};
use rustix::io::dup2;
use tokio::task::{LocalSet, yield_now};
use tokio::time::advance;

fn on_one_thread(test: impl Future<Output = ()>) {
    run(false, test);
}

/// With tokio's clock standing still: it advances where the test says so, and at no other time.
fn on_a_paused_clock(test: impl Future<Output = ()>) {
    run(true, test);
}

fn run(paused: bool, test: impl Future<Output = ()>) {
    let _watchdog = Watchdog::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(paused)
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test);
    assert_eq!(pool::stats().in_use, 0, "every job has ended");
}

fn ctx() -> WaitCtx {
    current_job().unwrap().wait_ctx().clone()
}

/// Pauses until `ready`, and counts the resumes.
fn pause_until(ready: impl Fn() -> bool, resumes: &Cell<u32>) {
    while !ready() {
        pause_job().unwrap();
        resumes.set(resumes.get() + 1);
    }
}

/// Enough turns of the runtime for everything that is due: tokio asks the kernel for events at least every 61 turns.
async fn many_turns() {
    for _ in 0..200 {
        yield_now().await;
    }
}

#[test]
fn a_job_that_waits_for_an_fd_is_resumed_once_and_only_when_it_is_ready() {
    on_one_thread(async {
        let (mut reader, mut writer) = pipe().unwrap();
        let resumes = Rc::new(Cell::new(0));
        let counter = Rc::clone(&resumes);
        let job = spawn_local(move || {
            ctx().add_wait_fd(WaitKey::unique(), reader.try_clone().unwrap());
            let mut bytes = Vec::new();
            for _ in 0..2 {
                pause_job().unwrap();
                counter.set(counter.get() + 1);
                let mut byte = [0];
                reader.read_exact(&mut byte).unwrap(); // blocks if it is not ready, as an engine does
                bytes.push(byte[0]);
            }
            bytes
        });
        many_turns().await;
        assert_eq!(resumes.get(), 0);
        writer.write_all(&[1]).unwrap();
        many_turns().await;
        assert_eq!(
            resumes.get(),
            1,
            "once for a byte, though tokio remembers that the fd was ready"
        );
        writer.write_all(&[2]).unwrap();
        assert_eq!(job.await.unwrap().unwrap(), [1, 2]);
        assert_eq!(resumes.get(), 2);
    });
}

#[test]
fn wakes_of_the_task_do_not_resume_a_job_whose_fd_is_not_ready() {
    on_one_thread(async {
        let (reader, writer) = pipe().unwrap();
        let resumes = Rc::new(Cell::new(0));
        let counter = Rc::clone(&resumes);
        let mut job = job(move || {
            ctx().add_wait_fd(WaitKey::unique(), reader);
            pause_job().unwrap();
            counter.set(counter.get() + 1);
        });
        for _ in 0..10 {
            let polled = poll_fn(|task| Poll::Ready(Pin::new(&mut job).poll(task))).await;
            assert!(polled.is_pending());
            yield_now().await;
        }
        assert_eq!(resumes.get(), 0, "ten polls, no resume");
        drop(writer); // makes the pipe readable: it has ended
        job.await.unwrap();
        assert_eq!(resumes.get(), 1);
    });
}

#[test]
fn an_fd_that_stays_ready_does_not_starve_the_other_tasks() {
    on_one_thread(async {
        let (reader, mut writer) = pipe().unwrap();
        writer.write_all(&[1]).unwrap();
        let (stop, resumes) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
        let (stopped, counter) = (Rc::clone(&stop), Rc::clone(&resumes));
        let job = spawn_local(move || {
            ctx().add_wait_fd(WaitKey::unique(), reader); // never drained
            pause_until(|| stopped.get(), &counter);
        });
        many_turns().await;
        assert!(resumes.get() > 1, "level-triggered: {} resumes", resumes.get());
        stop.set(true);
        job.await.unwrap().unwrap();
    });
}

#[test]
fn two_jobs_and_a_task_of_tokio_may_wait_for_the_same_fd() {
    on_one_thread(async {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let jobs = [(); 2].map(|()| {
            let ours = ours.try_clone().unwrap();
            spawn_local(move || {
                ctx().add_wait_fd(WaitKey::unique(), ours);
                pause_job().unwrap();
            })
        });
        let stream = tokio::net::UnixStream::from_std(ours).unwrap();
        let task = spawn_local_future(async move { stream.readable().await.unwrap() });
        many_turns().await;
        theirs.write_all(b"x").unwrap();
        for job in jobs {
            job.await.unwrap().unwrap();
        }
        task.await.unwrap();
    });
}

fn spawn_local_future(task: impl Future<Output = ()> + 'static) -> tokio::task::JoinHandle<()> {
    tokio::task::spawn_local(task)
}

#[test]
fn a_number_that_is_closed_and_opened_again_is_watched_as_what_it_is_now() {
    on_one_thread(async {
        let (first, mut first_writer) = pipe().unwrap();
        let (second, mut second_writer) = pipe().unwrap();
        let resumes = Rc::new(Cell::new(0));
        let counter = Rc::clone(&resumes);
        let job = spawn_local(move || {
            let (ctx, key, number) = (ctx(), WaitKey::unique(), first.as_raw_fd());
            ctx.add_wait_fd(key, first);
            pause_job().unwrap();
            counter.set(counter.get() + 1);
            let first = ctx.clear_fd(key).unwrap().downcast::<PipeReader>().unwrap();
            // By one call, so that no other test of this process gets the number in between.
            let mut reopened = OwnedFd::from(first);
            dup2(&second, &mut reopened).unwrap();
            ctx.add_wait_fd(key, reopened);
            let again = ctx.fd(key).unwrap();
            pause_job().unwrap();
            counter.set(counter.get() + 1);
            (number, again)
        });
        many_turns().await;
        first_writer.write_all(&[1]).unwrap();
        many_turns().await;
        assert_eq!(resumes.get(), 1);
        assert!(
            first_writer.write_all(&[1]).is_err(),
            "no duplicate holds the first pipe open"
        );
        many_turns().await;
        assert_eq!(resumes.get(), 1, "the second pipe is empty");
        second_writer.write_all(&[1]).unwrap();
        let (number, again) = job.await.unwrap().unwrap();
        assert_eq!((resumes.get(), number), (2, again), "it was the same number");
    });
}

#[test]
fn a_job_that_closes_its_fd_closes_it_for_the_other_side_too() {
    on_one_thread(async {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let go_on = Rc::new(tokio::sync::Notify::new());
        let told = Rc::clone(&go_on);
        let job = spawn_local(move || {
            let (ctx, key) = (ctx(), WaitKey::unique());
            ctx.add_wait_fd(key, ours);
            pause_job().unwrap();
            drop(ctx.clear_fd(key));
            await_future(told.notified()).unwrap();
        });
        many_turns().await;
        theirs.write_all(b"x").unwrap();
        many_turns().await;
        theirs.set_nonblocking(true).unwrap();
        let end = theirs.read(&mut [0]);
        assert!(
            end.is_ok_and(|n| n == 0) || theirs.write_all(b"x").is_err(),
            "no duplicate holds it open"
        );
        go_on.notify_one();
        job.await.unwrap().unwrap();
    });
}

/// A future may be kept after it was ready: `select!`, `join!` and `&mut` do so.
#[test]
fn a_future_that_is_kept_after_its_end_keeps_no_fd_open() {
    on_one_thread(async {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut job = job(move || {
            let mut ours = Pausing::new(ours).unwrap();
            ours.read(&mut [0; 1]).unwrap() // pauses, and drops its end of the connection
        });
        let write = async {
            many_turns().await;
            theirs.write_all(b"x").unwrap();
        };
        let (read, ()) = tokio::join!(&mut job, write);
        assert_eq!(read.unwrap(), 1);
        theirs.set_nonblocking(true).unwrap();
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0, "the end of the connection");
        drop(job);
    });
}

#[test]
fn an_fd_may_be_waited_for_as_writable() {
    on_one_thread(async {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut filled = 0;
        while let Ok(more) = (&ours).write(&[0; 4096]) {
            filled += more;
        }
        let resumes = Rc::new(Cell::new(0));
        let counter = Rc::clone(&resumes);
        let job = spawn_local(move || {
            let options = WaitFdOptions::new().interest(Interest::Writable);
            ctx().add_wait_fd_with(WaitKey::unique(), ours, options);
            pause_job().unwrap();
            counter.set(counter.get() + 1);
        });
        many_turns().await;
        assert_eq!(resumes.get(), 0, "its buffer is full");
        theirs.read_exact(&mut vec![0; filled]).unwrap();
        job.await.unwrap().unwrap();
        assert_eq!(resumes.get(), 1);
    });
}

#[test]
fn a_job_that_waits_for_a_regular_file_is_polled() {
    on_one_thread(async {
        let resumes = Rc::new(Cell::new(0));
        let counter = Rc::clone(&resumes);
        let job = spawn_local(move || {
            ctx().add_wait_fd(WaitKey::unique(), std::fs::File::open("/proc/self/exe").unwrap());
            for _ in 0..20 {
                pause_job().unwrap();
                counter.set(counter.get() + 1);
            }
        });
        job.await.unwrap().unwrap();
        assert_eq!(resumes.get(), 20);
    });
}

/// How many polls have no interval before them.
fn eager_polls() -> u32 {
    (0..).find(|polls| Wants::poll_interval(*polls).is_some()).unwrap()
}

#[test]
fn a_job_that_wants_to_be_polled_is_resumed_at_the_intervals_of_the_library() {
    on_a_paused_clock(async {
        let (stop, resumes) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
        let (stopped, counter) = (Rc::clone(&stop), Rc::clone(&resumes));
        let job = spawn_local(move || pause_until(|| stopped.get(), &counter));
        many_turns().await;
        assert_eq!(resumes.get(), eager_polls(), "at once, and then no more");
        for polls in eager_polls()..20 {
            let interval = Wants::poll_interval(polls).unwrap();
            // tokio's timer rounds up to a millisecond.
            for _ in 0..interval.as_micros().div_ceil(1000) {
                assert_eq!(resumes.get(), polls, "not before {interval:?} have passed");
                advance(Duration::from_millis(1)).await;
                many_turns().await;
            }
            assert_eq!(resumes.get(), polls + 1);
        }
        stop.set(true);
        advance(Duration::from_millis(10)).await;
        job.await.unwrap().unwrap();
    });
}

#[test]
fn a_deadline_that_had_passed_before_the_pause_does_not_keep_the_thread_busy() {
    on_a_paused_clock(async {
        let (stop, resumes) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
        let (stopped, counter) = (Rc::clone(&stop), Rc::clone(&resumes));
        let job = spawn_local(move || {
            ctx().set_deadline(Some(Instant::now()));
            pause_until(|| stopped.get(), &counter);
        });
        many_turns().await;
        assert_eq!(resumes.get(), eager_polls(), "polled, as under the scheduler");
        stop.set(true);
        advance(Duration::from_millis(10)).await;
        job.await.unwrap().unwrap();
    });
}

#[test]
fn a_deadline_resumes_the_job_when_it_has_passed() {
    on_one_thread(async {
        let started = Instant::now();
        let job = spawn_local(move || {
            ctx().set_deadline(Some(started + Duration::from_millis(20)));
            pause_job().unwrap();
            started.elapsed()
        });
        let elapsed = job.await.unwrap().unwrap();
        assert!(elapsed >= Duration::from_millis(20), "resumed after {elapsed:?}");
    });
}

#[test]
fn sockets_sleep_and_offload_work_in_a_job_on_tokio() {
    on_one_thread(async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let pool = Offload::new(1).unwrap();
        let echo = spawn_local(move || {
            let mut stream = Pausing::new(theirs)?;
            let mut request = [0; 4];
            stream.read_exact(&mut request)?;
            let answer = pool.run(move || u32::from_be_bytes(request) + 1).unwrap();
            asyncjob::time::sleep(Duration::from_millis(1))?;
            stream.write_all(&answer.to_be_bytes())?;
            stream.get_ref().shutdown(Shutdown::Both)
        });
        let ask = spawn_local(move || {
            let mut stream = Pausing::new(ours)?;
            stream.write_all(&41u32.to_be_bytes())?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok::<_, std::io::Error>(answer)
        });
        echo.await.unwrap().unwrap().unwrap();
        assert_eq!(ask.await.unwrap().unwrap().unwrap(), 42u32.to_be_bytes());
    });
}

#[test]
fn a_timeout_around_a_wait_for_a_callback_is_kept() {
    on_one_thread(async {
        let job = spawn_local(|| {
            asyncjob::time::with_timeout(Duration::from_millis(5), || await_future(std::future::pending::<()>()))
        });
        let error = job.await.unwrap().unwrap().unwrap_err();
        assert!(
            matches!(error, AwaitError::Interrupted(Interrupted::TimedOut)),
            "{error}"
        );
    });
}

#[test]
fn at_the_limit_jobs_wait_for_the_end_of_others() {
    init_thread(PoolConfig::new().limit(2)).unwrap();
    on_one_thread(async {
        let (most, done) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let jobs: Vec<_> = (0..50)
            .map(|_| {
                let (most, done) = (Rc::clone(&most), Rc::clone(&done));
                spawn_local(move || {
                    most.set(most.get().max(pool::stats().in_use));
                    await_future(yield_now()).unwrap();
                    done.set(done.get() + 1);
                })
            })
            .collect();
        for job in jobs {
            job.await.unwrap().unwrap();
        }
        assert_eq!((most.get(), done.get()), (2, 50));
    });
    cleanup_thread().unwrap(); // a test runner with one thread runs the other tests on this thread
}

tokio::task_local!(static USER: u32);

#[test]
fn a_task_local_scope_around_a_job_is_its_own() {
    on_one_thread(async {
        let jobs = [1, 2].map(|user| {
            let job = in_job(async {
                let before = USER.get();
                await_future(yield_now()).unwrap();
                (before, USER.get())
            });
            tokio::task::spawn_local(USER.scope(user, job))
        });
        let mut seen = Vec::new();
        for job in jobs {
            seen.push(job.await.unwrap().unwrap());
        }
        assert_eq!(seen, [(1, 1), (2, 2)]);
    });
}

/// Counts drops.
struct Guard(Rc<Cell<u32>>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

#[test]
fn aborting_the_handle_cancels_the_job() {
    on_one_thread(async {
        let (drops, cancelled) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        let (guard, saw) = (Guard(Rc::clone(&drops)), Rc::clone(&cancelled));
        let job = spawn_local(move || {
            let _guard = guard;
            saw.set(await_future(std::future::pending::<()>()).is_err());
        });
        yield_now().await;
        assert_eq!((drops.get(), cancelled.get(), pool::stats().in_use), (0, false, 1));
        job.abort();
        assert!(job.await.unwrap_err().is_cancelled());
        assert_eq!((drops.get(), cancelled.get(), pool::stats().in_use), (1, true, 0));
    });
}

/// The guide (cancel.md) says so: the handle is tokio's.
#[test]
fn a_job_goes_on_when_the_handle_of_spawn_local_is_dropped() {
    on_one_thread(async {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let (asked, question) = tokio::sync::oneshot::channel();
        drop(spawn_local(move || reply.send(await_future(question).is_ok())));
        many_turns().await;
        asked.send(()).expect("the job waits for it");
        assert_eq!(answer.await, Ok(true));
    });
}

/// The guide (cancel.md) says so.
#[test]
fn a_timeout_around_the_future_of_a_job_cancels_the_job() {
    on_a_paused_clock(async {
        let seen = Rc::new(Cell::new(None));
        let sees = Rc::clone(&seen);
        let limited = job(move || sees.set(Some(await_future(std::future::pending::<()>()))));
        let late = tokio::time::timeout(Duration::from_secs(1), limited).await;
        assert!(late.is_err());
        let error = seen.take().expect("the job has ended").unwrap_err();
        assert!(
            matches!(error, AwaitError::Interrupted(Interrupted::Cancelled)),
            "{error}"
        );
    });
}

#[test]
fn a_panic_is_the_panic_of_the_task() {
    on_one_thread(async {
        let job = spawn_local(|| {
            await_future(yield_now()).unwrap();
            panic!("out of paper");
        });
        let panic = job
            .await
            .map(|result: Result<(), _>| drop(result))
            .unwrap_err()
            .into_panic();
        assert_eq!(*panic.downcast::<&str>().unwrap(), "out of paper");
    });
}

#[test]
fn a_runtime_that_shuts_down_cancels_its_paused_jobs() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let tasks = LocalSet::new();
    let (drops, cancelled) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let waiting_for_fd: JobFuture<()> = {
        let (guard, cancelled) = (Guard(Rc::clone(&drops)), Rc::clone(&cancelled));
        let (reader, writer) = pipe().unwrap();
        job(move || {
            let _guards = (guard, writer);
            ctx().add_wait_fd(WaitKey::unique(), reader);
            cancelled.set(cancelled.get() + u32::from(pause_job().is_err()));
        })
    };
    let waiting_for_a_future = {
        let (guard, cancelled) = (Guard(Rc::clone(&drops)), Rc::clone(&cancelled));
        job(move || {
            let _guard = guard;
            let end = await_future(tokio::time::sleep(Duration::from_secs(3600)));
            cancelled.set(cancelled.get() + u32::from(end.is_err()));
        })
    };
    tasks.block_on(&runtime, async {
        tokio::task::spawn_local(waiting_for_fd);
        tokio::task::spawn_local(waiting_for_a_future);
        many_turns().await;
    });
    assert_eq!((drops.get(), cancelled.get(), pool::stats().in_use), (0, 0, 2));
    drop(runtime); // first the driver that the jobs wait with, then the jobs
    drop(tasks);
    assert_eq!((drops.get(), cancelled.get(), pool::stats().in_use), (2, 2, 0));
}

#[test]
fn hangup_is_ready_when_the_other_side_leaves_and_reads_nothing() {
    on_one_thread(async {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let left = spawn_local_hangup(&ours);
        many_turns().await;
        theirs.write_all(b"x").unwrap();
        many_turns().await;
        assert!(!left.is_finished(), "data does not count");
        drop(theirs);
        left.await.unwrap().unwrap();
        let mut rest = Vec::new();
        ours.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"x", "nothing was read");
    });
}

fn spawn_local_hangup(stream: &UnixStream) -> tokio::task::JoinHandle<std::io::Result<()>> {
    tokio::task::spawn_local(asyncjob_tokio::hangup(stream.as_fd()).unwrap())
}

/// A job that never has to wait gives way to tokio's driver, and not only to the tasks that are ready already: a byte
/// that arrives is noticed within a few turns of the job. A task that wakes itself is polled 60 times before that.
#[test]
fn a_job_that_never_has_to_wait_lets_tokio_look_at_its_fds() {
    on_one_thread(async {
        let (stream, mut peer) = UnixStream::pair().unwrap();
        stream.set_nonblocking(true).unwrap();
        let stream = tokio::net::UnixStream::from_std(stream).unwrap();
        let is_noticed = Rc::new(Cell::new(false));
        let (noticed, seen) = (Rc::clone(&is_noticed), Rc::clone(&is_noticed));
        let waits = tokio::task::spawn_local(async move {
            stream.readable().await.unwrap();
            noticed.set(true);
        });
        many_turns().await;
        let greedy = spawn_local(move || {
            peer.write_all(b"x").unwrap();
            let mut operations = 0;
            while !seen.get() && operations < 100_000 {
                await_future(std::future::ready(())).unwrap();
                operations += 1;
            }
            operations
        });
        let operations = greedy.await.unwrap().unwrap();
        assert!(
            operations <= 4 * 128,
            "{operations} operations before the byte was noticed"
        );
        waits.await.unwrap();
    });
}
