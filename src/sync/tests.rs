//! The slot against its table, the line against a model that is a plain list, and wakers that do what they should not.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use asyncjob_testing::Watchdog;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::oneshot::OneshotSlot;
use super::*;

/// Counts its wakes.
#[derive(Default)]
struct Count(AtomicUsize);

impl Count {
    fn waker() -> (Arc<Count>, Waker) {
        let count = Arc::new(Count::default());
        (Arc::clone(&count), Waker::from(count))
    }

    fn get(&self) -> usize {
        self.0.load(SeqCst)
    }
}

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Calls a closure when it is woken, and another one when it is dropped.
struct Calls {
    at_wake: Box<dyn Fn() + Send + Sync>,
    at_drop: Box<dyn Fn() + Send + Sync>,
}

impl Calls {
    fn waker(at_wake: impl Fn() + Send + Sync + 'static, at_drop: impl Fn() + Send + Sync + 'static) -> Waker {
        Waker::from(Arc::new(Calls {
            at_wake: Box::new(at_wake),
            at_drop: Box::new(at_drop),
        }))
    }

    fn panicking() -> Waker {
        Self::waker(|| panic!("a waker, on purpose"), || ())
    }
}

impl Wake for Calls {
    fn wake(self: Arc<Self>) {
        (self.at_wake)();
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        (self.at_drop)();
    }
}

fn poll<F: Future>(future: Pin<&mut F>, waker: &Waker) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(waker))
}

fn take<T>(slot: &OneshotSlot<T>) -> Option<Result<T, Closed>> {
    match slot.poll_take(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(taken) => Some(taken),
        Poll::Pending => None,
    }
}

#[test]
fn a_value_is_stored_and_then_announced_once() {
    let (sender, receiver) = oneshot();
    let (count, waker) = Count::waker();
    let mut receiver = pin!(receiver);
    assert_eq!(poll(receiver.as_mut(), &waker), Poll::Pending);
    sender.send(7);
    assert_eq!(count.get(), 1);
    assert_eq!(poll(receiver.as_mut(), &waker), Poll::Ready(Ok(7)));
    assert_eq!(
        poll(receiver.as_mut(), &waker),
        Poll::Ready(Err(Closed)),
        "it was taken"
    );
    assert_eq!((count.get(), Arc::strong_count(&count)), (1, 2), "no waker is kept");
}

#[test]
fn a_sender_that_is_dropped_closes_the_slot() {
    let (sender, receiver) = oneshot::<u32>();
    let (count, waker) = Count::waker();
    let mut receiver = pin!(receiver);
    assert_eq!(poll(receiver.as_mut(), &waker), Poll::Pending);
    drop(sender);
    assert_eq!(
        (count.get(), poll(receiver.as_mut(), &waker)),
        (1, Poll::Ready(Err(Closed)))
    );
}

#[test]
fn only_the_last_waker_is_called() {
    let slot = OneshotSlot::new();
    let wakers = [Count::waker(), Count::waker()];
    for (_, waker) in &wakers {
        for _ in 0..2 {
            assert!(slot.poll_take(&mut Context::from_waker(waker)).is_pending());
        }
    }
    assert!(!slot.is_finished());
    assert_eq!(slot.put("value"), Ok(()));
    assert!(slot.is_finished());
    assert_eq!(wakers.each_ref().map(|(count, _)| count.get()), [0, 1]);
}

#[test]
fn the_first_value_counts() {
    let slot = OneshotSlot::new();
    assert_eq!(take(&slot), None);
    assert_eq!((slot.put(1), slot.put(2)), (Ok(()), Err(2)));
    slot.close();
    assert_eq!((take(&slot), take(&slot)), (Some(Ok(1)), Some(Err(Closed))));
    assert_eq!(slot.put(3), Err(3));
}

#[test]
fn a_receiver_that_is_dropped_is_not_woken() {
    let (sender, receiver) = oneshot();
    let (count, waker) = Count::waker();
    {
        let mut receiver = pin!(receiver);
        assert_eq!(poll(receiver.as_mut(), &waker), Poll::Pending);
    }
    assert_eq!(Arc::strong_count(&count), 2, "its waker went with it");
    sender.send(1);
    assert_eq!(count.get(), 0);
}

#[test]
fn a_waker_that_panics_costs_neither_the_sender_nor_the_value() {
    for close in [false, true] {
        let slot = OneshotSlot::new();
        assert!(
            slot.poll_take(&mut Context::from_waker(&Calls::panicking()))
                .is_pending()
        );
        if close {
            slot.close();
        } else {
            slot.put(5).unwrap();
        }
        assert_eq!(take(&slot), Some(if close { Err(Closed) } else { Ok(5) }));
    }
}

#[test]
fn wakers_may_use_the_slot_when_they_are_woken_and_dropped() {
    let _watchdog = Watchdog::new();
    let slot = Arc::new(OneshotSlot::new());
    let (calls, found) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let using = || {
        let use_it = || {
            let (slot, calls, found) = (Arc::clone(&slot), Arc::clone(&calls), Arc::clone(&found));
            move || {
                calls.fetch_add(1, SeqCst);
                found.fetch_add(slot.is_finished().into(), SeqCst);
            }
        };
        Calls::waker(use_it(), use_it())
    };
    for expected in [0, 1] {
        assert!(slot.poll_take(&mut Context::from_waker(&using())).is_pending());
        assert_eq!(calls.load(SeqCst), expected, "the replaced waker was dropped");
    }
    slot.put(()).unwrap();
    assert_eq!(calls.load(SeqCst), 3, "woken, then dropped");
    assert_eq!(found.load(SeqCst), 2, "each of these found the value");
    let other = OneshotSlot::<()>::new();
    assert!(other.poll_take(&mut Context::from_waker(&using())).is_pending());
    other.forget_waker();
    assert_eq!(calls.load(SeqCst), 4);
}

#[test]
fn contained_panics_go_no_further_whatever_their_payload_does() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("the drop of a payload, on purpose");
        }
    }
    assert!(contain(|| ()));
    assert!(!contain(|| std::panic::panic_any(Bomb)));
    let (count, waker) = Count::waker();
    assert!(wake_all([Calls::panicking(), waker, Calls::panicking()]));
    assert_eq!(count.get(), 1);
    assert!(!wake_all([Calls::panicking()]));
}

/// A count of free units with a line in front of it, as a pool or a scheduler has.
struct Units {
    queue: WaitQueue,
    free: AtomicUsize,
}

impl Units {
    fn new(free: usize) -> Arc<Self> {
        Arc::new(Units {
            queue: WaitQueue::new(),
            free: AtomicUsize::new(free),
        })
    }

    fn are_free(&self) -> bool {
        self.free.load(SeqCst) > 0
    }

    fn take(&self) -> bool {
        self.free
            .fetch_update(SeqCst, SeqCst, |free| free.checked_sub(1))
            .is_ok()
    }

    fn give(&self) {
        self.free.fetch_add(1, SeqCst);
        self.queue.notify_one();
    }

    fn available(self: &Arc<Self>) -> Available {
        Available {
            units: Arc::clone(self),
            waiter: Waiter::new(),
        }
    }
}

struct Available {
    units: Arc<Units>,
    waiter: Waiter,
}

impl Future for Available {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.units.queue.poll(&mut this.waiter, task, || this.units.are_free())
    }
}

impl Drop for Available {
    fn drop(&mut self) {
        self.units.queue.withdraw(&mut self.waiter, || self.units.are_free());
    }
}

/// A waiter with a waker of its own.
struct Task {
    future: Available,
    count: Arc<Count>,
    waker: Waker,
}

impl Task {
    fn new(units: &Arc<Units>) -> Self {
        let (count, waker) = Count::waker();
        Task {
            future: units.available(),
            count,
            waker,
        }
    }

    fn poll(&mut self) -> bool {
        poll(Pin::new(&mut self.future), &self.waker).is_ready()
    }

    fn poll_blocking(&mut self) -> bool {
        poll_blocking(|| self.poll())
    }
}

#[test]
fn those_in_line_are_notified_in_their_order() {
    let units = Units::new(0);
    let mut tasks = [(); 3].map(|()| Task::new(&units));
    assert!(tasks.iter_mut().all(|task| !task.poll()));
    let wakes = |tasks: &[Task; 3]| tasks.each_ref().map(|task| task.count.get());
    units.give();
    assert_eq!(wakes(&tasks), [1, 0, 0]);
    units.give();
    assert_eq!(wakes(&tasks), [1, 1, 0]);
    units.give();
    assert_eq!(wakes(&tasks), [1, 1, 1]);
    assert!(tasks.iter_mut().all(|task| task.poll() && units.take()));
    assert!(!units.queue.has_waiters());
}

#[test]
fn a_waiter_whose_unit_was_taken_is_first_again() {
    let units = Units::new(0);
    let (mut first, mut second) = (Task::new(&units), Task::new(&units));
    assert!(!first.poll() && !second.poll());
    units.give();
    assert!(units.take(), "another caller takes what `first` was told of");
    assert!(!first.poll());
    units.give();
    assert_eq!((first.count.get(), second.count.get()), (2, 0));
    assert!(first.poll());
}

#[test]
fn a_notified_waiter_that_goes_passes_the_notification_on() {
    let units = Units::new(0);
    let mut tasks = [(); 4].map(|()| Some(Task::new(&units)));
    assert!(tasks.iter_mut().flatten().all(|task| !task.poll()));
    let counts = tasks.each_ref().map(|task| Arc::clone(&task.as_ref().unwrap().count));
    let wakes = || counts.each_ref().map(|count| count.get());
    tasks[1] = None;
    units.give();
    assert_eq!(wakes(), [1, 0, 0, 0]);
    tasks[0] = None;
    assert_eq!(wakes(), [1, 0, 1, 0], "the one that had left was passed over");
    assert!(tasks[2].as_mut().unwrap().poll());
    tasks[2] = None;
    assert_eq!(wakes(), [1, 0, 1, 1], "it was ready and took nothing");
    assert!(units.take());
    tasks[3] = None;
    assert_eq!(wakes(), [1, 0, 1, 1], "there is nothing to pass on");
}

/// What a paused task was told of is not kept for it: the blocked waiter may be what keeps the task from being polled.
#[test]
fn a_waiter_that_blocks_its_thread_does_not_wait_for_those_before_it() {
    let units = Units::new(0);
    let mut paused = [(); 2].map(|()| Task::new(&units));
    assert!(paused.iter_mut().all(|task| !task.poll()));
    let mut blocked = Task::new(&units);
    assert!(!blocked.poll_blocking());
    units.give();
    assert_eq!(
        (paused[0].count.get(), paused[1].count.get(), blocked.count.get()),
        (1, 0, 1)
    );
    assert!(blocked.poll_blocking() && units.take());
    assert!(!paused[0].poll(), "it lost the race, and is first again");
    let mut late = Task::new(&units);
    units.give();
    assert_eq!((paused[0].count.get(), paused[1].count.get()), (2, 0));
    assert!(
        late.poll_blocking(),
        "it passes though others are in line and were told before it"
    );
}

#[test]
fn a_waker_that_panics_is_passed_over() {
    let units = Units::new(0);
    let mut broken = units.available();
    assert!(poll(Pin::new(&mut broken), &Calls::panicking()).is_pending());
    let mut next = Task::new(&units);
    assert!(!next.poll());
    units.give();
    assert_eq!(next.count.get(), 1);
    assert!(next.poll() && units.take());
    assert!(poll(Pin::new(&mut broken), &Calls::panicking()).is_pending());
    let mut last = Task::new(&units);
    assert!(!last.poll());
    units.free.fetch_add(1, SeqCst); // without a notification
    let mut newcomer = Task::new(&units);
    assert!(!newcomer.poll(), "two come before it");
    assert_eq!(
        last.count.get(),
        1,
        "it tells the first, whose waker panics, and so the next"
    );
}

#[test]
fn wakers_may_use_the_queue_when_they_are_woken_and_dropped() {
    let _watchdog = Watchdog::new();
    let units = Units::new(0);
    let calls = Arc::new(AtomicUsize::new(0));
    let using = || {
        let use_it = || {
            let (units, calls) = (Arc::clone(&units), Arc::clone(&calls));
            move || {
                units.queue.notify_one();
                let mut own = units.available();
                let _ = poll(Pin::new(&mut own), Waker::noop());
                calls.fetch_add(1, SeqCst);
            }
        };
        Calls::waker(use_it(), use_it())
    };
    let mut waiting = units.available();
    assert!(poll(Pin::new(&mut waiting), &using()).is_pending());
    assert!(poll(Pin::new(&mut waiting), &using()).is_pending());
    assert!(calls.load(SeqCst) >= 1, "the replaced waker was dropped");
    for end in [WaitQueue::notify_all, WaitQueue::clear] {
        let before = calls.load(SeqCst);
        assert!(poll(Pin::new(&mut waiting), &using()).is_pending());
        end(&units.queue);
        assert!(calls.load(SeqCst) > before);
    }
    assert!(poll(Pin::new(&mut waiting), &using()).is_pending());
    let before = calls.load(SeqCst);
    drop(waiting);
    assert!(calls.load(SeqCst) > before);
}

/// One waker a waiter is kept, however often the waiter is polled, and none after it has gone.
#[test]
fn memory_grows_with_the_waiters_only() {
    let units = Units::new(0);
    let (count, waker) = Count::waker();
    let mut waiting = units.available();
    for _ in 0..if cfg!(miri) { 10 } else { 10_000 } {
        assert!(poll(Pin::new(&mut waiting), &waker).is_pending());
        assert!(poll(Pin::new(&mut units.available()), &waker).is_pending());
    }
    assert_eq!(
        Arc::strong_count(&count),
        3,
        "this test's two, and that of the one that waits"
    );
    units.give();
    assert_eq!((count.get(), Arc::strong_count(&count)), (1, 2));
}

/// A hundred thousand line up; of the newest half each leaves, and of the rest each is notified, passes and leaves.
#[test]
fn a_hundred_thousand_line_up_leave_and_pass() {
    const COUNT: usize = if cfg!(miri) { 100 } else { 100_000 };
    let units = Units::new(0);
    let (count, waker) = Count::waker();
    let mut line: Vec<_> = (0..COUNT).map(|_| units.available()).collect();
    for waiting in &mut line {
        assert!(poll(Pin::new(waiting), &waker).is_pending());
    }
    while line.len() > COUNT / 2 {
        line.pop();
    }
    assert_eq!(count.get(), 0);
    for waiting in &mut line {
        units.give();
        assert!(poll(Pin::new(waiting), &waker).is_ready());
        assert!(units.take());
    }
    drop(line);
    assert_eq!((count.get(), units.queue.has_waiters()), (COUNT / 2, false));
}

/// What a waiter does, or what happens around it.
#[derive(Clone, Copy, Debug)]
enum Event {
    Arrives,
    Polls(usize),
    PollsBlocking(usize),
    Leaves(usize),
    Give,
    Take,
    NotifyAll,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => Just(Event::Arrives),
        6 => (0..6usize).prop_map(Event::Polls),
        2 => (0..6usize).prop_map(Event::PollsBlocking),
        2 => (0..6usize).prop_map(Event::Leaves),
        4 => Just(Event::Give),
        3 => Just(Event::Take),
        1 => Just(Event::NotifyAll),
    ];
    proptest::collection::vec(event, 0..80)
}

/// The line as a list, read from front to back for every question.
#[derive(Default)]
struct Model {
    free: usize,
    waiters: Vec<Modelled>,
    arrivals: usize,
}

struct Modelled {
    /// When it first had to wait.
    arrival: Option<usize>,
    in_line: bool,
    blocks: bool,
    wakes: usize,
}

impl Model {
    /// In the order in which they came.
    fn in_line(&mut self) -> Vec<&mut Modelled> {
        let mut line: Vec<_> = self.waiters.iter_mut().filter(|waiter| waiter.in_line).collect();
        line.sort_by_key(|waiter| waiter.arrival);
        line
    }

    fn notify(&mut self) {
        let mut line = self.in_line();
        let blocking = line.iter().position(|waiter| waiter.blocks).filter(|&at| at != 0);
        for at in [Some(0), blocking.filter(|_| !line[0].blocks)].into_iter().flatten() {
            if let Some(waiter) = line.get_mut(at) {
                waiter.in_line = false;
                waiter.wakes += 1;
            }
        }
    }

    fn poll(&mut self, at: usize, blocks: bool) -> bool {
        let anyone = self.waiters.iter().any(|waiter| waiter.in_line);
        if self.waiters[at].arrival.is_none() {
            if self.free > 0 && !anyone {
                return true;
            }
            self.waiters[at].arrival = Some(self.arrivals);
            self.arrivals += 1;
        }
        let arrival = self.waiters[at].arrival;
        let is_first = self
            .waiters
            .iter()
            .all(|waiter| !waiter.in_line || waiter.arrival >= arrival);
        self.waiters[at].in_line = true;
        self.waiters[at].blocks = blocks;
        if self.free == 0 {
            return false;
        }
        if blocks || is_first {
            self.waiters[at].in_line = false;
            return true;
        }
        self.notify();
        false
    }

    fn leave(&mut self, at: usize) {
        let waiter = self.waiters.remove(at);
        if waiter.arrival.is_some() && !waiter.in_line && self.free > 0 && !self.in_line().is_empty() {
            self.notify();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 1000 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_queue_does_what_a_list_does(events in events()) {
        let units = Units::new(0);
        let mut model = Model::default();
        let mut tasks: Vec<Task> = Vec::new();
        for event in events {
            match event {
                Event::Arrives => {
                    tasks.push(Task::new(&units));
                    model.waiters.push(Modelled { arrival: None, in_line: false, blocks: false, wakes: 0 });
                }
                Event::Polls(at) if at < tasks.len() => prop_assert_eq!(tasks[at].poll(), model.poll(at, false)),
                Event::PollsBlocking(at) if at < tasks.len() => {
                    prop_assert_eq!(tasks[at].poll_blocking(), model.poll(at, true));
                }
                Event::Leaves(at) if at < tasks.len() => {
                    tasks.remove(at);
                    model.leave(at);
                }
                Event::Polls(_) | Event::PollsBlocking(_) | Event::Leaves(_) => {}
                Event::Give => {
                    model.free += 1;
                    if !model.in_line().is_empty() {
                        model.notify();
                    }
                    units.give();
                }
                Event::Take => {
                    prop_assert_eq!(units.take(), model.free > 0);
                    model.free = model.free.saturating_sub(1);
                }
                Event::NotifyAll => {
                    for waiter in model.in_line() {
                        waiter.in_line = false;
                        waiter.wakes += 1;
                    }
                    units.queue.notify_all();
                }
            }
            let wakes: Vec<_> = tasks.iter().map(|task| task.count.get()).collect();
            let expected: Vec<_> = model.waiters.iter().map(|waiter| waiter.wakes).collect();
            prop_assert_eq!(wakes, expected);
            prop_assert_eq!(units.queue.has_waiters(), !model.in_line().is_empty());
            // What the module promises: while a unit is free and the line is not empty, some waiter was told and will
            // look.
            let some_waiter_was_told = model.waiters.iter().any(|waiter| waiter.arrival.is_some() && !waiter.in_line);
            prop_assert!(model.free == 0 || model.in_line().is_empty() || some_waiter_was_told);
        }
        // Each that is polled until it passes does.
        for _ in 0..tasks.len() {
            units.give();
        }
        while !tasks.is_empty() {
            let before = tasks.len();
            tasks.retain_mut(|task| !(task.poll() && units.take()));
            prop_assert!(tasks.len() < before);
        }
        prop_assert!(!units.queue.has_waiters());
    }
}

/// Blocks the thread until the future is ready.
fn block_on(mut future: impl Future<Output = ()> + Unpin) {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    while poll_blocking(|| poll(Pin::new(&mut future), &waker)).is_pending() {
        thread::park();
    }
}

/// More threads than units, each with more turns than there are units: none is lost, and no thread waits for ever.
#[test]
fn threads_share_the_units_and_none_is_forgotten() {
    const TURNS: usize = if cfg!(miri) { 10 } else { 300 };
    let _watchdog = Watchdog::new();
    let units = Units::new(2);
    let at_once = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let threads: Vec<_> = (0..6)
        .map(|_| {
            let (units, at_once) = (Arc::clone(&units), Arc::clone(&at_once));
            thread::spawn(move || {
                for _ in 0..TURNS {
                    while !units.take() {
                        block_on(units.available());
                    }
                    at_once.1.fetch_max(at_once.0.fetch_add(1, SeqCst) + 1, SeqCst);
                    thread::yield_now();
                    at_once.0.fetch_sub(1, SeqCst);
                    units.give();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!((units.free.load(SeqCst), units.queue.has_waiters()), (2, false));
    assert!(at_once.1.load(SeqCst) <= 2);
}

/// Tasks of one thread, each polled when its waker was called and only then: a lost notification leaves one behind.
#[test]
fn tasks_are_polled_when_they_are_told_and_all_pass() {
    #[derive(Default)]
    struct Ready(Mutex<Vec<usize>>);
    struct TaskWaker(Arc<Ready>, usize);
    impl Wake for TaskWaker {
        fn wake(self: Arc<Self>) {
            self.0.0.lock().push(self.1);
        }
    }
    let (units, ready) = (Units::new(0), Arc::new(Ready::default()));
    let mut tasks: BTreeMap<_, _> = (0..if cfg!(miri) { 50 } else { 1000 })
        .map(|n| (n, units.available()))
        .collect();
    let waker = |n| Waker::from(Arc::new(TaskWaker(Arc::clone(&ready), n)));
    for (n, task) in &mut tasks {
        assert!(poll(Pin::new(task), &waker(*n)).is_pending());
    }
    let mut in_use = 0;
    let mut random = 12345u64;
    let mut next = move || {
        random = random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (random >> 33) as usize
    };
    for _ in 0..3 {
        units.give();
    }
    while !tasks.is_empty() {
        let woken = std::mem::take(&mut *ready.0.lock());
        if woken.is_empty() {
            assert!(
                in_use > 0,
                "{} are left, {} units are free",
                tasks.len(),
                units.free.load(SeqCst)
            );
            in_use -= 1;
            units.give();
        }
        for n in woken {
            let Some(task) = tasks.get_mut(&n) else { continue };
            match next() % 4 {
                0 => drop(tasks.remove(&n)), // goes, though it was told
                _ => {
                    if poll(Pin::new(task), &waker(n)).is_ready() {
                        if next() % 8 != 0 && units.take() {
                            in_use += 1;
                        }
                        drop(tasks.remove(&n)); // some take nothing
                    }
                }
            }
        }
    }
}
