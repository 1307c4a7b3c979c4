//! Promise: a `JobFuture` resumes its job only when it should, and wakes the task that polled it last. Each test polls
//! by hand and asserts all counters after each step.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use asyncjob::hooks::SwitchHooks;
use asyncjob::job_future::{JobError, JobFuture};
use asyncjob::pool::{self, PoolConfig, available, init_thread};
use asyncjob::waiting::{AwaitError, await_future, await_or_block};
use asyncjob::{JobBuilder, Status, WaitCtx, WaitKey, block_pause, current_job, in_job, pause_job};
use asyncjob_testing::Watchdog;

/// A task that counts how often it was woken.
#[derive(Default)]
struct Task(AtomicU32);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Task {
    fn new() -> Arc<Task> {
        Arc::default()
    }

    fn poll<F: Future>(self: &Arc<Self>, future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(&Waker::from(Arc::clone(self))))
    }

    fn wakes(&self) -> u32 {
        self.0.load(SeqCst)
    }
}

/// A future that is ready after `set` was called. `set` wakes the task that polled last, as an I/O driver does.
#[derive(Clone, Default)]
struct Event(Rc<EventState>);

#[derive(Default)]
struct EventState {
    is_set: Cell<bool>,
    polls: Cell<u32>,
    waker: RefCell<Option<Waker>>,
}

impl Event {
    fn set(&self) {
        self.0.is_set.set(true);
        if let Some(waker) = self.0.waker.take() {
            waker.wake();
        }
    }

    fn polls(&self) -> u32 {
        self.0.polls.get()
    }

    fn waker(&self) -> Waker {
        self.0.waker.borrow().clone().expect("the event was polled")
    }
}

impl Future for Event {
    type Output = ();

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        self.0.polls.set(self.0.polls.get() + 1);
        if self.0.is_set.get() {
            return Poll::Ready(());
        }
        *self.0.waker.borrow_mut() = Some(task.waker().clone());
        Poll::Pending
    }
}

/// Runs a test that changes the pool of its thread. A test runner with one thread runs all tests on it.
fn on_its_own_thread(test: impl FnOnce() + Send + 'static) {
    if let Err(panic) = thread::spawn(test).join() {
        std::panic::resume_unwind(panic);
    }
}

/// A value that counts its drops.
struct Guard(Rc<Cell<u32>>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

#[test]
fn a_poll_resumes_the_job_only_after_a_wake() {
    let (task, event, resumes) = (Task::new(), Event::default(), Rc::new(Cell::new(0)));
    let mut job = pin!({
        let (event, resumes) = (event.clone(), Rc::clone(&resumes));
        JobFuture::new(move || {
            await_future(event).unwrap();
            resumes.set(resumes.get() + 1);
            "done"
        })
    });
    assert_eq!(
        (event.polls(), task.wakes(), resumes.get()),
        (0, 0, 0),
        "nothing runs before the first poll"
    );
    assert!(task.poll(job.as_mut()).is_pending());
    assert_eq!((event.polls(), task.wakes(), resumes.get()), (1, 0, 0));
    assert!(task.poll(job.as_mut()).is_pending());
    assert_eq!(
        (event.polls(), task.wakes(), resumes.get()),
        (1, 0, 0),
        "a poll without a wake resumes nothing"
    );
    event.set();
    assert_eq!((event.polls(), task.wakes(), resumes.get()), (1, 1, 0));
    let Poll::Ready(Ok("done")) = task.poll(job.as_mut()) else {
        panic!("the event is set")
    };
    assert_eq!((event.polls(), task.wakes(), resumes.get()), (2, 1, 1));
}

/// A poll without a reason looks at the waker and for a wake, and not at the ctx. What is written into the ctx
/// meanwhile counts from the next call of the callback.
#[test]
fn a_change_of_the_ctx_counts_from_the_call_of_its_callback() {
    let task = Task::new();
    let was_cancelled = Rc::new(Cell::new(false));
    let mut job = pin!({
        let was_cancelled = Rc::clone(&was_cancelled);
        JobFuture::new(move || {
            current_job().unwrap().wait_ctx().set_status(Status::Ok);
            was_cancelled.set(pause_job().is_err());
        })
    });
    assert!(task.poll(job.as_mut()).is_pending());
    let ctx = job.wait_ctx().clone();
    let engine = thread::spawn({
        let ctx = ctx.clone();
        move || ctx.set_status(Status::Err)
    });
    engine.join().unwrap();
    assert!(task.poll(job.as_mut()).is_pending());
    assert_eq!((task.wakes(), was_cancelled.get()), (0, false));
    ctx.callback().unwrap().wake();
    assert_eq!(task.wakes(), 1);
    assert!(matches!(
        task.poll(job.as_mut()),
        Poll::Ready(Err(JobError::EngineFailed))
    ));
    assert!(was_cancelled.get());
}

/// A ctx that gets a wait fd while its job waits for its callback is watched from the next poll that looks at it, and
/// every later poll asks the watch again.
#[test]
fn a_wait_fd_that_comes_during_the_pause_is_watched_at_each_poll() {
    let (task, other, asked, ready) = (
        Task::new(),
        Task::new(),
        Rc::new(Cell::new(0)),
        Rc::new(Cell::new(false)),
    );
    let mut job = pin!({
        let (asked, ready) = (Rc::clone(&asked), Rc::clone(&ready));
        let job = JobFuture::new(|| {
            current_job().unwrap().wait_ctx().set_status(Status::Ok);
            pause_job().unwrap();
        });
        job.watch(move |_, _| {
            asked.set(asked.get() + 1);
            if ready.get() { Poll::Ready(()) } else { Poll::Pending }
        })
    });
    assert!(task.poll(job.as_mut()).is_pending());
    assert!(task.poll(job.as_mut()).is_pending());
    let (reader, _writer) = std::io::pipe().unwrap();
    job.wait_ctx().add_wait_fd(WaitKey::unique(), reader);
    assert!(other.poll(job.as_mut()).is_pending(), "another task looks at the ctx");
    assert_eq!(asked.get(), 1);
    ready.set(true);
    assert!(other.poll(job.as_mut()).is_ready());
    assert_eq!(asked.get(), 2);
}

/// A wake that a later poll will see wakes the task once, however often it comes.
#[test]
fn a_task_is_woken_once_for_what_its_next_poll_sees() {
    let (task, event) = (Task::new(), Event::default());
    let mut job = pin!({
        let event = event.clone();
        JobFuture::new(move || {
            // Wakes itself three times in each poll, before its job pauses.
            let itself = std::future::poll_fn(move |task| {
                let polled = Pin::new(&mut event.clone()).poll(task);
                (0..3).for_each(|_| task.waker().wake_by_ref());
                polled
            });
            await_future(itself).unwrap();
        })
    });
    for polls in 1..4 {
        assert!(task.poll(job.as_mut()).is_pending());
        assert_eq!(
            (event.polls(), task.wakes()),
            (polls, polls),
            "by the poll, when the job had paused"
        );
        let waker = event.waker();
        waker.wake_by_ref();
        thread::spawn(move || waker.wake()).join().unwrap();
        assert_eq!(
            task.wakes(),
            polls + 1,
            "by the other thread, which does not see what happens on this one"
        );
        task.0.fetch_sub(1, SeqCst);
    }
    event.set();
    assert!(task.poll(job.as_mut()).is_ready());
    assert_eq!((event.polls(), task.wakes()), (4, 3));
}

#[test]
fn two_interleaved_jobs_wake_their_own_tasks() {
    let (first_task, second_task) = (Task::new(), Task::new());
    let (first_event, second_event) = (Event::default(), Event::default());
    let job = |event: &Event| {
        let event = event.clone();
        // The inner wait pauses in the middle of a poll of the outer future, as a signature does during a handshake.
        in_job(async move {
            let before = current_job().unwrap().id();
            await_future(event).unwrap();
            (before, current_job().unwrap().id())
        })
    };
    let (mut first, mut second) = (pin!(job(&first_event)), pin!(job(&second_event)));
    assert!(first_task.poll(first.as_mut()).is_pending());
    assert!(second_task.poll(second.as_mut()).is_pending());
    second_event.set();
    assert_eq!((first_task.wakes(), second_task.wakes()), (0, 1));
    first_event.set();
    assert_eq!(
        (first_task.wakes(), second_task.wakes()),
        (1, 1),
        "the waker of the first job, not of the job that paused last"
    );
    let Poll::Ready(Ok((first, first_after))) = first_task.poll(first.as_mut()) else {
        panic!()
    };
    let Poll::Ready(Ok((second, second_after))) = second_task.poll(second.as_mut()) else {
        panic!()
    };
    assert_eq!((first, second), (first_after, second_after));
    assert_ne!(first, second);
}

#[test]
fn a_waker_kept_across_a_pause_wakes_the_task_of_the_last_poll() {
    let (old, new) = (Task::new(), Task::new());
    let (socket, signature) = (Event::default(), Event::default());
    let mut handshake = pin!({
        let (mut socket, signature) = (socket.clone(), signature.clone());
        let mut signed = false;
        in_job(std::future::poll_fn(move |task| {
            if !signed {
                await_future(signature.clone()).unwrap(); // pauses in the middle of this poll
                signed = true;
            }
            Pin::new(&mut socket).poll(task) // with the context from before the pause
        }))
    });
    assert!(old.poll(handshake.as_mut()).is_pending());
    assert!(new.poll(handshake.as_mut()).is_pending());
    signature.set();
    assert_eq!((old.wakes(), new.wakes()), (0, 1));
    assert!(new.poll(handshake.as_mut()).is_pending());
    // The wake of the socket could have come during the wait for the signature, so the job looks once more.
    assert_eq!((socket.polls(), signature.polls()), (2, 2));
    socket.set();
    assert_eq!(
        (old.wakes(), new.wakes()),
        (0, 2),
        "the task of the last poll is woken, not the task of the first"
    );
    assert!(matches!(new.poll(handshake.as_mut()), Poll::Ready(Ok(()))));
}

#[test]
fn a_job_in_a_job_pauses_to_the_outer_job() {
    let (task, inner, outer) = (Task::new(), Event::default(), Event::default());
    let mut both = pin!({
        let (inner, outer) = (inner.clone(), outer.clone());
        JobFuture::new(move || {
            let around = current_job().unwrap().id();
            let within = JobFuture::new(move || {
                await_future(inner).unwrap();
                current_job().unwrap().id()
            });
            let within = await_future(within).unwrap().unwrap();
            assert_eq!(current_job().unwrap().id(), around, "the outer job is current again");
            await_future(outer).unwrap();
            within != around
        })
    });
    assert!(task.poll(both.as_mut()).is_pending());
    assert_eq!((inner.polls(), outer.polls(), task.wakes()), (1, 0, 0));
    inner.set();
    assert_eq!((inner.polls(), outer.polls(), task.wakes()), (1, 0, 1));
    assert!(task.poll(both.as_mut()).is_pending());
    assert_eq!((inner.polls(), outer.polls(), task.wakes()), (2, 1, 1));
    outer.set();
    assert!(matches!(task.poll(both.as_mut()), Poll::Ready(Ok(true))));
    assert_eq!((inner.polls(), outer.polls(), task.wakes()), (2, 2, 2));
    assert_eq!(pool::stats().in_use, 0);
}

#[test]
fn a_future_dropped_while_its_job_is_paused_cancels_it_and_leaks_nothing() {
    let (drops, ends) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(Vec::new())));
    let mut events = Vec::new();
    for _ in 0..3 {
        let event = Event::default();
        events.push(Rc::downgrade(&event.0));
        let (guard, ends) = (Guard(Rc::clone(&drops)), Rc::clone(&ends));
        let mut job = in_job(async move {
            let _guard = guard;
            let end = await_future(event);
            ends.borrow_mut().push(format!("{end:?}"));
        });
        assert!(Task::new().poll(pin!(&mut job)).is_pending());
        drop(job);
    }
    assert_eq!(drops.get(), 3, "destructors on the job's stack ran");
    assert_eq!(
        *ends.borrow(),
        ["Err(Interrupted: the job was cancelled: return from it)"; 3],
        "and the job's code saw the error"
    );
    assert!(
        events.iter().all(|event| event.upgrade().is_none()),
        "everything that the job owned was dropped"
    );
    assert_eq!(pool::stats().in_use, 0, "the pool has the stacks back");
}

#[test]
fn a_future_dropped_before_its_first_poll_drops_its_closure() {
    let drops = Rc::new(Cell::new(0));
    let guard = Guard(Rc::clone(&drops));
    drop(JobFuture::new(move || drop(guard)));
    assert_eq!(drops.get(), 1);
}

#[test]
fn a_dropped_future_quarantines_a_job_that_does_not_end() {
    on_its_own_thread(|| {
        let mut job: JobFuture<()> = JobFuture::new(|| {
            loop {
                let _ = pause_job();
            }
        });
        assert!(Task::new().poll(pin!(&mut job)).is_pending());
        drop(job);
        assert_eq!(
            pool::stats().in_use,
            1,
            "the stack stays counted as in use, and the drop returns"
        );
    });
}

#[test]
fn a_waker_called_from_another_thread_resumes_the_job() {
    let _watchdog = Watchdog::new();
    let (task, channel) = (Task::new(), NumberChannel::default());
    let mut job = pin!({
        let channel = channel.clone();
        JobFuture::new(move || await_future(channel).unwrap())
    });
    assert!(task.poll(job.as_mut()).is_pending());
    thread::spawn(move || channel.send(7)).join().unwrap();
    assert_eq!(task.wakes(), 1);
    assert!(matches!(task.poll(job.as_mut()), Poll::Ready(Ok(7))));
}

/// Sends one number from one thread to another.
#[derive(Clone, Default)]
struct NumberChannel(Arc<Mutex<(Option<u32>, Option<Waker>)>>);

impl NumberChannel {
    fn is_awaited(&self) -> bool {
        self.0.lock().unwrap().1.is_some()
    }

    fn send(&self, number: u32) {
        let waker = {
            let mut inside = self.0.lock().unwrap();
            inside.0 = Some(number);
            inside.1.take()
        };
        waker.expect("the receiver waits").wake();
    }
}

impl Future for NumberChannel {
    type Output = u32;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<u32> {
        let mut inside = self.0.lock().unwrap();
        inside.1 = Some(task.waker().clone());
        inside.0.take().map_or(Poll::Pending, Poll::Ready)
    }
}

#[test]
fn a_waker_called_after_the_end_wakes_no_task() {
    let (task, event) = (Task::new(), Event::default());
    let mut job = {
        let event = event.clone();
        JobFuture::new(move || await_future(event).unwrap())
    };
    assert!(task.poll(pin!(&mut job)).is_pending());
    let waker = event.waker();
    event.set();
    assert!(task.poll(pin!(&mut job)).is_ready());
    assert_eq!(task.wakes(), 1);
    waker.wake_by_ref();
    assert_eq!(task.wakes(), 1, "the job has ended");
    drop(job);
    waker.wake();
    assert_eq!(task.wakes(), 1, "the future was dropped");
    assert_eq!(Arc::strong_count(&task), 1, "the waker keeps no task alive");
}

/// The thread keeps the ctx of a future and what is called by its callback for the next future, but not while somebody
/// has a waker of it.
#[test]
fn a_waker_kept_from_a_job_that_has_ended_does_not_call_the_next_job() {
    let task = Task::new();
    let paused_at = |event: &Event| {
        let event = event.clone();
        let mut job = JobFuture::new(move || await_future(event).unwrap());
        assert!(task.poll(pin!(&mut job)).is_pending());
        job
    };
    let events = [Event::default(), Event::default(), Event::default()];
    let mut first = paused_at(&events[0]);
    let kept = events[0].waker();
    events[0].set();
    assert!(task.poll(pin!(&mut first)).is_ready());
    drop(first);
    let dropped = paused_at(&events[1]);
    let kept_from_cancelled = events[1].waker();
    drop(dropped);
    let mut last = paused_at(&events[2]);
    assert_eq!((task.wakes(), events[2].polls()), (1, 1));
    kept.wake();
    thread::spawn(move || kept_from_cancelled.wake()).join().unwrap();
    assert!(task.poll(pin!(&mut last)).is_pending());
    assert_eq!(
        (task.wakes(), events[2].polls()),
        (1, 1),
        "the wakes are those of jobs that are gone"
    );
    events[2].set();
    assert!(task.poll(pin!(&mut last)).is_ready());
    assert_eq!((task.wakes(), events[2].polls()), (2, 2));
}

#[test]
fn a_wake_that_a_job_has_not_used_is_none_of_the_next_job() {
    let task = Task::new();
    let wake_here: fn(&Waker) = Waker::wake_by_ref;
    let wake_elsewhere: fn(&Waker) = |waker| thread::scope(|scope| drop(scope.spawn(|| waker.wake_by_ref())));
    for wake in [wake_here, wake_elsewhere] {
        let woken = std::future::poll_fn(move |task| {
            wake(task.waker());
            Poll::Ready(())
        });
        assert!(task.poll(pin!(in_job(woken))).is_ready());
        let event = Event::default();
        let mut next = pin!(in_job(event.clone()));
        for _ in 0..2 {
            assert!(task.poll(next.as_mut()).is_pending());
            assert_eq!((event.polls(), task.wakes()), (1, 0));
        }
    }
}

/// Each future leaves something behind in its ctx. The next one finds a ctx as good as new, whether it is the same or
/// another one.
#[test]
fn a_job_finds_nothing_of_the_last_one_in_its_ctx() {
    thread_local!(static KEPT: RefCell<Option<WaitCtx>> = const { RefCell::new(None) });
    let changes: [fn(&WaitCtx); 6] = [
        |_| (),
        |ctx| ctx.set_status(Status::Eagain),
        |ctx| ctx.set_deadline(Some(Instant::now())),
        |ctx| assert!(ctx.arm(Some(WaitKey::unique())).is_none()),
        |ctx| ctx.add_wait_fd(WaitKey::unique(), std::io::pipe().unwrap().0),
        |ctx| KEPT.set(Some(ctx.clone())),
    ];
    for change in changes {
        for may_start in [true, false] {
            let mut job = JobFuture::new(move || {
                let ctx = current_job().unwrap().wait_ctx().clone();
                let found = (ctx.status(), ctx.deadline(), ctx.armed(), ctx.fds(), ctx.version());
                assert_eq!(found, (Status::Unsupported, None, None, Vec::new(), 0));
                assert!(ctx.callback().is_some());
                assert_ne!(
                    KEPT.with_borrow(|kept| kept.as_ref().map(|kept| kept.ptr_eq(&ctx))),
                    Some(true)
                );
                change(&ctx);
            });
            if may_start {
                assert!(matches!(Task::new().poll(pin!(&mut job)), Poll::Ready(Ok(()))));
                let is_bound = KEPT.with_borrow(|kept| kept.as_ref().is_some_and(|kept| kept.callback().is_some()));
                assert!(!is_bound, "the future has ended");
            } else {
                change(job.wait_ctx());
            }
            drop(job);
            if let Some(kept) = KEPT.take() {
                assert!(kept.callback().is_none(), "the future is gone");
            }
        }
    }
}

#[test]
fn the_ctx_of_a_future_that_has_ended_is_free_for_another_job() {
    let task = Task::new();
    let panicking = || -> () { std::panic::resume_unwind(Box::new("this panic is part of the test")) };
    let ended: [JobFuture<()>; 2] = [JobFuture::new(|| ()), JobFuture::new(panicking)];
    for mut ended in ended {
        let event = Event::default();
        let _ = catch_unwind(AssertUnwindSafe(|| task.poll(pin!(&mut ended))));
        assert!(ended.wait_ctx().callback().is_none());
        let mut next = {
            let event = event.clone();
            JobBuilder::new()
                .wait_ctx(ended.wait_ctx())
                .future(move || await_future(event).unwrap())
        };
        let wakes = task.wakes();
        assert!(task.poll(pin!(&mut next)).is_pending());
        assert!(ended.wait_ctx().callback().is_some(), "that of the other future");
        drop(ended);
        event.set();
        assert_eq!(task.wakes(), wakes + 1);
        assert!(matches!(task.poll(pin!(&mut next)), Poll::Ready(Ok(()))));
    }
}

#[test]
fn a_callback_whose_drop_panics_leaves_its_ctx_free() {
    on_its_own_thread(|| {
        let ctx = WaitCtx::new();
        ctx.set_callback(Some(reentrant::waker(&1)));
        reentrant::CALLBACK.set(Some(asyncjob::waker_fn(|| panic!("this panic is part of the test"))));
        let future = || JobBuilder::new().wait_ctx(&ctx).future(|| ());
        assert!(catch_unwind(AssertUnwindSafe(future)).is_err());
        assert!(ctx.callback().is_none());
        assert!(matches!(Task::new().poll(pin!(future())), Poll::Ready(Ok(()))));
        reentrant::CALLBACK.take();
    });
}

/// The forwarder has no task before the first pause, and the wake finds none. The poll sees it.
#[test]
fn a_wake_of_another_thread_that_comes_before_the_first_pause_wakes_the_task() {
    let (task, channel) = (Task::new(), NumberChannel::default());
    let mut job = pin!({
        let channel = channel.clone();
        in_job(async move {
            let mut channel = pin!(channel);
            let first = std::future::poll_fn(|task| Poll::Ready(channel.as_mut().poll(task))).await;
            assert!(first.is_pending());
            let sender = NumberChannel::clone(&channel);
            thread::spawn(move || sender.send(7)).join().unwrap();
            let mut is_first = true;
            std::future::poll_fn(|task| {
                if std::mem::take(&mut is_first) {
                    return Poll::Pending;
                }
                channel.as_mut().poll(task)
            })
            .await
        })
    });
    assert!(task.poll(job.as_mut()).is_pending());
    assert_eq!(task.wakes(), 1);
    assert!(matches!(task.poll(job.as_mut()), Poll::Ready(Ok(7))));
}

/// A job that ends without a pause needs no task to wake.
#[test]
fn the_waker_of_the_task_is_cloned_at_the_first_pause() {
    let (task, event) = (Task::new(), Event::default());
    let mut job = pin!({
        let (task, event) = (Arc::downgrade(&task), event.clone());
        JobFuture::new(move || {
            let before = task.strong_count();
            await_future(event).unwrap();
            (before, task.strong_count())
        })
    });
    assert!(task.poll(job.as_mut()).is_pending());
    assert_eq!(Arc::strong_count(&task), 2);
    event.set();
    let Poll::Ready(Ok((before, after))) = task.poll(job.as_mut()) else {
        panic!("the event is set")
    };
    assert_eq!((before, after), (2, 3), "one is that of the poll");
    assert_eq!(Arc::strong_count(&task), 1);
}

#[test]
fn a_waker_whose_clone_panics_leaves_the_job_paused() {
    on_its_own_thread(|| {
        let (task, event) = (Task::new(), Event::default());
        let mut job = pin!({
            let event = event.clone();
            JobFuture::new(move || await_future(event).is_ok())
        });
        reentrant::CALLBACK.set(Some(asyncjob::waker_fn(|| panic!("this panic is part of the test"))));
        let panicking = reentrant::waker(&1);
        let polled = catch_unwind(AssertUnwindSafe(|| {
            job.as_mut().poll(&mut Context::from_waker(&panicking))
        }));
        assert!(polled.is_err());
        assert_eq!((event.polls(), pool::stats().in_use), (1, 1));
        assert!(task.poll(job.as_mut()).is_pending());
        event.set();
        assert_eq!(task.wakes(), 1);
        assert!(matches!(task.poll(job.as_mut()), Poll::Ready(Ok(true))));
        assert_eq!(event.polls(), 2);
        reentrant::CALLBACK.take();
    });
}

#[test]
fn a_poll_after_the_end_panics_with_an_explanation() {
    let mut job = JobFuture::new(|| 1);
    assert!(Task::new().poll(pin!(&mut job)).is_ready());
    let panic = catch_unwind(AssertUnwindSafe(|| Task::new().poll(pin!(&mut job)))).unwrap_err();
    let text = *panic.downcast::<&str>().unwrap();
    assert!(text.starts_with("a JobFuture was polled after it had ended"), "{text}");
    assert!(text.ends_with("/docs/guide/tokio.md]"), "{text}");
}

#[test]
fn a_panic_of_the_job_comes_out_of_the_poll_and_harms_no_other_job() {
    let (task, event) = (Task::new(), Event::default());
    let mut other = pin!({
        let event = event.clone();
        JobFuture::new(move || await_future(event).unwrap())
    });
    assert!(task.poll(other.as_mut()).is_pending());
    let drops = Rc::new(Cell::new(0));
    let guard = Guard(Rc::clone(&drops));
    let mut job: JobFuture<()> = JobFuture::new(move || {
        let _guard = guard;
        let _ = pause_job();
        panic!("on purpose");
    });
    assert!(task.poll(pin!(&mut job)).is_pending());
    let panic = catch_unwind(AssertUnwindSafe(|| task.poll(pin!(&mut job)))).unwrap_err();
    assert_eq!(*panic.downcast::<&str>().unwrap(), "on purpose");
    assert_eq!(
        (drops.get(), pool::stats().in_use),
        (1, 1),
        "one job has ended, the other is paused"
    );
    assert!(current_job().is_none());
    event.set();
    assert!(task.poll(other.as_mut()).is_ready());
}

#[test]
fn status_eagain_resumes_after_a_turn_of_the_runtime() {
    let task = Task::new();
    let mut job = pin!(JobFuture::new(|| {
        current_job().unwrap().wait_ctx().set_status(Status::Eagain);
        pause_job()
    }));
    assert!(task.poll(job.as_mut()).is_pending());
    assert_eq!(task.wakes(), 1, "no callback will come, so the task wakes itself");
    assert!(matches!(task.poll(job.as_mut()), Poll::Ready(Ok(Ok(())))));
}

#[test]
fn status_err_cancels_the_job() {
    let was_cancelled = Rc::new(Cell::new(false));
    let mut job = {
        let was_cancelled = Rc::clone(&was_cancelled);
        JobFuture::new(move || {
            current_job().unwrap().wait_ctx().set_status(Status::Err);
            was_cancelled.set(pause_job().is_err());
        })
    };
    let Poll::Ready(Err(error)) = Task::new().poll(pin!(&mut job)) else {
        panic!("the job does not wait")
    };
    assert!(matches!(error, JobError::EngineFailed), "{error}");
    assert_eq!((was_cancelled.get(), pool::stats().in_use), (true, 0));
}

#[test]
fn status_ok_waits_for_the_callback_even_if_it_came_before_the_pause() {
    let task = Task::new();
    let mut job = pin!(JobFuture::new(|| {
        let job = current_job().unwrap();
        job.wait_ctx().set_status(Status::Ok);
        job.wait_ctx().callback().unwrap().wake(); // the engine is done before the pause (S64)
        pause_job().unwrap()
    }));
    assert!(task.poll(job.as_mut()).is_pending());
    assert!(task.wakes() >= 1, "the wake is not lost");
    assert!(matches!(task.poll(job.as_mut()), Poll::Ready(Ok(()))));
}

/// A waker that calls back into the job while it is cloned and while it is dropped, as a waker of the user may.
mod reentrant {
    use std::cell::{Cell, RefCell};
    use std::task::{RawWaker, RawWakerVTable, Waker};

    thread_local! {
        pub(super) static CALLBACK: RefCell<Option<Waker>> = const { RefCell::new(None) };
        static CALLS: Cell<usize> = const { Cell::new(0) };
        static CALLING: Cell<bool> = const { Cell::new(false) };
    }

    fn call() {
        if CALLING.replace(true) {
            return; // called by the call below
        }
        if let Some(callback) = CALLBACK.with_borrow(Option::clone) {
            callback.wake();
            CALLS.set(CALLS.get() + 1);
        }
        CALLING.set(false);
    }

    fn clone(data: *const ()) -> RawWaker {
        call();
        RawWaker::new(data, &VTABLE)
    }

    static VTABLE: RawWakerVTable = RawWakerVTable::new(clone, |_| (), |_| (), |_| call());

    #[allow(unsafe_code, reason = "the only way to make a waker whose clone runs code")]
    pub(super) fn waker(task: &'static u8) -> Waker {
        // SAFETY: the functions do not use the data.
        unsafe { Waker::new(std::ptr::from_ref(task).cast(), &VTABLE) }
    }

    pub(super) fn calls() -> usize {
        CALLS.get()
    }
}

#[test]
fn a_waker_of_the_task_may_call_the_job_while_it_is_cloned_or_dropped() {
    let _watchdog = Watchdog::new();
    let mut job = pin!(JobFuture::new(|| {
        let job = current_job().unwrap();
        job.wait_ctx().set_status(Status::Ok);
        reentrant::CALLBACK.set(job.wait_ctx().callback());
        while pause_job().is_ok() {}
    }));
    for task in [&1u8, &2, &1] {
        let waker = reentrant::waker(task);
        assert!(job.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    let callback = reentrant::CALLBACK.with_borrow(|callback| callback.clone().unwrap());
    callback.wake_by_ref();
    assert!(reentrant::calls() >= 6, "{} calls", reentrant::calls());
    reentrant::CALLBACK.take();
}

/// A waker that takes the last stack of the pool while it is cloned or dropped: the future waits for the next one. `at`
/// says which of the calls takes it.
#[test]
fn a_waker_of_the_task_may_take_the_last_stack() {
    thread_local! {
        static TAKEN: RefCell<Option<asyncjob::Job<()>>> = const { RefCell::new(None) };
        static COUNTDOWN: Cell<usize> = const { Cell::new(0) };
    }
    fn paused() -> Option<asyncjob::Job<()>> {
        match asyncjob::start_job(&asyncjob::WaitCtx::new(), || pause_job().unwrap_or_default()) {
            Ok(asyncjob::Step::Paused(job)) => Some(job),
            _ => None,
        }
    }
    on_its_own_thread(|| {
        let _watchdog = Watchdog::new();
        init_thread(PoolConfig::new().limit(1)).unwrap();
        reentrant::CALLBACK.set(Some(asyncjob::waker_fn(|| {
            if COUNTDOWN.replace(COUNTDOWN.get().wrapping_sub(1)) == 1 {
                TAKEN.set(paused());
            }
        })));
        let waker = reentrant::waker(&1);
        let mut task = Context::from_waker(&waker);
        let mut times_taken = 0;
        for (at, has_to_wait) in (1..8).flat_map(|at| [(at, false), (at, true)]) {
            let mut future = pin!(JobFuture::new(|| 7));
            COUNTDOWN.set(at);
            if has_to_wait {
                let job = paused();
                assert!(future.as_mut().poll(&mut task).is_pending());
                drop(job);
            }
            let mut polled = future.as_mut().poll(&mut task);
            while polled.is_pending() {
                let taken = TAKEN.take().expect("the stack is there, and nothing else has taken it");
                assert!(future.as_mut().poll(&mut task).is_pending());
                drop(taken);
                times_taken += 1;
                polled = future.as_mut().poll(&mut task);
            }
            assert!(matches!(polled, Poll::Ready(Ok(7))));
            COUNTDOWN.set(0);
            TAKEN.take();
        }
        assert!(times_taken >= 2, "{times_taken}");
        reentrant::CALLBACK.take();
    });
}

#[test]
fn a_pause_with_nothing_to_wait_for_is_polled() {
    let task = Task::new();
    let mut job = pin!(JobFuture::new(|| pause_job().unwrap()));
    assert!(task.poll(job.as_mut()).is_pending());
    assert_eq!(task.wakes(), 1);
    assert!(matches!(task.poll(job.as_mut()), Poll::Ready(Ok(()))));
}

#[test]
fn a_wait_for_an_fd_or_a_deadline_needs_a_watch() {
    let for_an_fd = JobFuture::new(|| {
        let (reader, _writer) = std::io::pipe().unwrap();
        current_job().unwrap().wait_ctx().add_wait_fd(WaitKey::unique(), reader);
        pause_job().is_err()
    });
    let for_time = JobFuture::new(|| {
        current_job().unwrap().wait_ctx().set_deadline(Some(Instant::now()));
        pause_job().is_err()
    });
    for mut job in [for_an_fd, for_time] {
        let Poll::Ready(Err(error)) = Task::new().poll(pin!(&mut job)) else {
            panic!("the future has no watch")
        };
        assert!(
            matches!(error, JobError::Unwatched) && error.to_string().contains("asyncjob-tokio"),
            "{error}"
        );
    }
}

#[test]
fn the_watch_decides_when_to_resume() {
    let (task, asked, ready) = (Task::new(), Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
    let mut job = pin!({
        let (asked, ready) = (Rc::clone(&asked), Rc::clone(&ready));
        let job = JobFuture::new(|| {
            let (reader, writer) = std::io::pipe().unwrap();
            let ctx = current_job().unwrap().wait_ctx().clone();
            ctx.add_wait_fd(WaitKey::unique(), reader);
            pause_job().unwrap();
            drop(writer);
        });
        job.watch(move |ctx, _task| {
            asked.set(asked.get() + 1);
            assert_eq!(ctx.fds().len(), 1);
            if ready.get() { Poll::Ready(()) } else { Poll::Pending }
        })
    });
    assert!(task.poll(job.as_mut()).is_pending());
    assert!(task.poll(job.as_mut()).is_pending());
    assert_eq!((asked.get(), task.wakes()), (2, 0));
    ready.set(true);
    assert!(task.poll(job.as_mut()).is_ready());
    assert_eq!((asked.get(), task.wakes()), (3, 0));
}

#[test]
fn a_deadline_in_the_wait_ctx_reaches_the_watch() {
    let (task, seen) = (Task::new(), Rc::new(Cell::new(None)));
    let at = Instant::now() + Duration::from_secs(3600);
    let mut job = pin!({
        let seen = Rc::clone(&seen);
        let job = JobFuture::new(move || {
            current_job().unwrap().wait_ctx().set_deadline(Some(at));
            pause_job().unwrap()
        });
        job.watch(move |ctx, _| {
            seen.set(ctx.deadline());
            Poll::Ready(())
        })
    });
    assert!(task.poll(job.as_mut()).is_pending());
    assert_eq!(
        task.wakes(),
        1,
        "the watch is ready at once, and the job is resumed in the next poll"
    );
    assert!(task.poll(job.as_mut()).is_ready());
    assert_eq!(seen.get(), Some(at));
}

#[test]
fn at_the_limit_tasks_wait_in_a_queue_for_a_job() {
    on_its_own_thread(|| {
        init_thread(PoolConfig::new().limit(1)).unwrap();
        let event = Event::default();
        let tasks = [(); 4].map(|()| Task::new());
        let mut jobs = [(); 4].map(|()| {
            let event = event.clone();
            Some(JobFuture::new(move || await_future(event).unwrap()))
        });
        let poll = |at: usize, jobs: &mut [Option<JobFuture<()>>; 4]| tasks[at].poll(pin!(jobs[at].as_mut().unwrap()));
        let wakes = || [0, 1, 2, 3].map(|at: usize| tasks[at].wakes());
        for at in 0..4 {
            assert!(poll(at, &mut jobs).is_pending());
        }
        assert_eq!((event.polls(), wakes()), (1, [0; 4]), "one job runs, and no task spins");

        jobs[1] = None; // leaves the queue
        event.set();
        assert_eq!(wakes(), [1, 0, 0, 0]);
        assert!(poll(0, &mut jobs).is_ready());
        assert_eq!(wakes(), [1, 0, 1, 0], "only the first in the queue");
        jobs[2] = None; // was woken and is dropped, so its wake goes to the next
        assert_eq!(wakes(), [1, 0, 1, 1]);
        assert!(poll(3, &mut jobs).is_ready());
        assert_eq!((event.polls(), pool::stats().in_use), (3, 0));
    });
}

#[test]
fn a_waiter_that_was_woken_and_finds_no_free_job_stays_first() {
    on_its_own_thread(|| {
        init_thread(PoolConfig::new().limit(1)).unwrap();
        let ctx = asyncjob::WaitCtx::new();
        let start = || match asyncjob::start_job(&ctx, pause_job).unwrap() {
            asyncjob::Step::Paused(job) => job,
            asyncjob::Step::Finished(_) => panic!("it pauses"),
        };
        let (first, second) = (Task::new(), Task::new());
        let (mut first_wait, mut second_wait) = (pin!(available()), pin!(available()));
        let job = start();
        assert!(first.poll(first_wait.as_mut()).is_pending());
        assert!(second.poll(second_wait.as_mut()).is_pending());
        job.cancel().unwrap().unwrap_err();
        assert_eq!((first.wakes(), second.wakes()), (1, 0));
        let job = start(); // a start that did not wait
        assert!(first.poll(first_wait.as_mut()).is_pending());
        job.cancel().unwrap().unwrap_err();
        assert_eq!((first.wakes(), second.wakes()), (2, 0));
        init_thread(PoolConfig::new().limit(2)).unwrap();
        assert_eq!(
            (first.wakes(), second.wakes()),
            (2, 1),
            "a higher limit wakes every waiter"
        );
        assert!(first.poll(first_wait.as_mut()).is_ready() && second.poll(second_wait.as_mut()).is_ready());
    });
}

#[test]
fn outside_a_job_await_future_fails_with_an_explanation_and_await_or_block_blocks() {
    let _watchdog = Watchdog::new();
    let error = await_future(async { 1 }).unwrap_err();
    assert!(
        matches!(error, AwaitError::NotInJob) && error.to_string().contains("await_or_block"),
        "{error}"
    );
    let channel = NumberChannel::default();
    let sender = channel.clone();
    let sending = thread::spawn(move || {
        while !sender.is_awaited() {
            thread::yield_now();
        }
        sender.send(3);
    });
    assert_eq!(await_or_block(channel).unwrap(), 3);
    sending.join().unwrap();

    let mut job = JobFuture::new(|| {
        let _lock_is_held = block_pause();
        let error = await_future(std::future::pending::<()>()).unwrap_err();
        assert!(
            matches!(error, AwaitError::CannotPause) && error.to_string().contains("block_pause"),
            "{error}"
        );
        await_or_block(async { 4 }).unwrap()
    });
    assert!(matches!(Task::new().poll(pin!(&mut job)), Poll::Ready(Ok(4))));
}

thread_local!(static REQUEST: Cell<u32> = const { Cell::new(0) });

/// A hook that swaps the thread's value for the job's around each switch. This is the recipe for task-locals.
struct Request(u32);

impl SwitchHooks for Request {
    fn enter(&mut self) {
        self.0 = REQUEST.replace(self.0);
    }
    fn leave(&mut self) {
        self.0 = REQUEST.replace(self.0);
    }
}

#[test]
fn hooks_keep_the_task_locals_of_interleaved_jobs_apart() {
    let task = Task::new();
    let mut jobs = [1, 2].map(|request| {
        let event = Event::default();
        let job = {
            let event = event.clone();
            let builder = JobBuilder::new().hooks(Request(request)).name("request");
            builder.future(move || {
                REQUEST.set(REQUEST.get() * 10);
                await_future(event).unwrap();
                REQUEST.get()
            })
        };
        (event, job)
    });
    for (_, job) in &mut jobs {
        assert!(task.poll(pin!(job)).is_pending());
        assert_eq!(REQUEST.get(), 0, "the thread has its own value again");
    }
    for ((event, job), expected) in jobs.iter_mut().zip([10, 20]) {
        event.set();
        let Poll::Ready(Ok(request)) = task.poll(pin!(job)) else {
            panic!("the event is set")
        };
        assert_eq!((request, REQUEST.get()), (expected, 0));
    }
}
