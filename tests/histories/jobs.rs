//! A history of jobs that are started, resumed, cancelled, dropped, unwound, given up and looked at, also inside each
//! other, with hooks, values and guards that panic or pause where they can.
//!
//! The code outside and the code inside all jobs read one script, so each act happens wherever the control is:
//!
//! ```text
//!   outside   start a | resume a |                      | cancel a |
//!   job a               pause        start b |            pause fails, returns
//!   job b                                      pause
//! ```
//!
//! The model knows of each job whether it has ended, whether it is cancelled, and how many guards block its pauses. At
//! the end, each value was dropped once, or lies on the stack of a quarantined job; and the pool counts the stacks of
//! quarantined jobs and no other.

use std::cell::{Cell, RefCell};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use asyncjob::hooks::SwitchHooks;
use asyncjob::stack::StackSize;
use asyncjob::{
    BlockPause, Job, JobBuilder, JobId, PauseError, Status, Step, WaitCtx, WaitFd, WaitFdOptions, WaitKey, block_pause,
    current_job, current_job_id, pause_job, pool,
};

/// How many jobs may be quarantined for ever in one process. The memory of each is lost, and a fuzzer runs long.
const MOST_QUARANTINED: usize = 20_000;
static QUARANTINED: AtomicUsize = AtomicUsize::new(0);

const SLOTS: usize = 4;

/// Runs the history that the bytes describe, and compares it with the model at each act.
pub(crate) fn run(bytes: &[u8]) {
    let before = pool::stats().in_use;
    let world = Rc::new(World {
        script: bytes.to_vec(),
        at: Cell::new(0),
        slots: RefCell::default(),
        guards: RefCell::default(),
        ctxs: Default::default(),
        keys: std::array::from_fn(|_| WaitKey::unique()),
        alive: Arc::default(),
        leaked_values: Cell::new(0),
        leaked_jobs: Cell::new(0),
    });
    Actor::new(&world, None).act();
    // The jobs that are left are cancelled here. The script is at its end, so each returns at its pause.
    for slot in 0..SLOTS {
        let held = world.slots.borrow_mut()[slot].take();
        drop(held);
    }
    world.guards.take();
    let (alive, leaked) = (world.alive.clone(), world.leaked_values.get());
    let leaked_jobs = world.leaked_jobs.get();
    for ctx in &world.ctxs {
        for key in world.keys {
            while ctx.clear_fd(key).is_some() {}
        }
    }
    drop(world);
    assert_eq!(
        *alive.lock().unwrap(),
        leaked,
        "values: alive, and on stacks of quarantined jobs"
    );
    assert_eq!(
        pool::stats().in_use - before,
        leaked_jobs,
        "stacks in use, and of quarantined jobs"
    );
    assert_eq!(current_job_id(), None);
}

/// What all code of a history shares.
struct World {
    script: Vec<u8>,
    at: Cell<usize>,
    slots: RefCell<[Option<Held>; SLOTS]>,
    /// Guards that left their jobs.
    guards: RefCell<Vec<Guard>>,
    ctxs: [WaitCtx; 2],
    keys: [WaitKey; 2],
    /// How many values exist.
    alive: Arc<Mutex<usize>>,
    leaked_values: Cell<usize>,
    leaked_jobs: Cell<usize>,
}

impl World {
    fn next(&self) -> Option<u8> {
        let byte = self.script.get(self.at.get()).copied();
        self.at.set(self.at.get() + 1);
        byte
    }

    fn below(&self, limit: usize) -> usize {
        usize::from(self.next().unwrap_or(0)) % limit
    }

    fn counted(&self) -> Counted {
        *self.alive.lock().unwrap() += 1;
        Counted(self.alive.clone())
    }

    fn value(&self, of: Option<&Rc<Model>>) -> Value {
        if let Some(of) = of {
            of.values.set(of.values.get() + 1);
        }
        Value {
            _counted: self.counted(),
            of: of.cloned(),
            pauses: false,
        }
    }

    /// The job will never run again, and nothing that lies on its stack is dropped.
    fn leak(&self, job: &Model) {
        QUARANTINED.fetch_add(1, Ordering::Relaxed);
        self.leaked_jobs.set(self.leaked_jobs.get() + 1);
        self.leaked_values.set(self.leaked_values.get() + job.values.get());
        for held in &*job.holds.borrow() {
            // What the control block of a quarantined job owns is dropped. This job is not quarantined: its handle is
            // lost.
            self.leaked_values
                .set(self.leaked_values.get() + usize::from(held.hooked));
            self.leak(held);
        }
    }
}

/// What is known of a job.
#[derive(Default)]
struct Model {
    id: Cell<Option<JobId>>,
    name: Option<&'static str>,
    ctx: usize,
    hooked: bool,
    cancelled: Cell<bool>,
    /// The job is being looked at: its hooks run, and its code does not.
    reporting: Cell<bool>,
    ended: Cell<bool>,
    blocked: Cell<usize>,
    returned: Cell<Option<u64>>,
    /// How many values lie on its stack or in its closure.
    values: Cell<usize>,
    /// The jobs whose handles lie on its stack.
    holds: RefCell<Vec<Rc<Model>>>,
}

/// A value whose drop is counted.
struct Counted(Arc<Mutex<usize>>);

impl Drop for Counted {
    fn drop(&mut self) {
        *self.0.lock().unwrap() -= 1;
    }
}

/// A value of a job, or of the code outside. Some try to pause when they are dropped.
struct Value {
    _counted: Counted,
    of: Option<Rc<Model>>,
    pauses: bool,
}

impl Drop for Value {
    fn drop(&mut self) {
        if self.pauses {
            let panicking = thread::panicking();
            let pause = pause_job();
            assert!(pause.is_err() || !panicking, "a pause while the thread panics");
        }
        if let Some(of) = &self.of {
            of.values.set(of.values.get() - 1);
        }
    }
}

/// Marks a job as ended, however it ends, and also if it never begins.
struct End(Rc<Model>);

impl Drop for End {
    fn drop(&mut self) {
        assert!(!self.0.ended.replace(true), "a job ends once");
    }
}

/// A guard that blocks the pauses of a job, wherever the guard is.
struct Guard {
    guard: Option<BlockPause>,
    of: Option<Rc<Model>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.guard.take());
        if let Some(of) = &self.of {
            of.blocked.set(of.blocked.get() - 1);
        }
    }
}

/// A paused job and its model.
struct Held {
    job: Option<Job<u64>>,
    model: Rc<Model>,
    world: Rc<World>,
}

impl Held {
    /// Hands the job to a call that ends it, or should.
    fn end_by(mut self, call: impl FnOnce(Job<u64>)) {
        let job = self.job.take().expect("a held job is taken once");
        call(job);
        self.has_ended();
    }

    fn has_ended(&self) {
        if !self.model.ended.get() {
            self.world.leak(&self.model);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(job) = self.job.take() {
            self.model.cancelled.set(true);
            drop(job); // contains the panics of the job
            self.has_ended();
        }
    }
}

/// A job panicked of its own will.
struct OfJob(JobId);
/// A hook of a job panicked.
struct OfHook;

/// Hooks that check that they are called in pairs, and panic at a chosen call.
struct Hooks {
    job: Rc<Model>,
    inside: bool,
    begun: bool,
    calls_until_panic: Option<u8>,
    _counted: Counted,
}

impl Hooks {
    fn call(&mut self, cancels: bool) {
        match &mut self.calls_until_panic {
            Some(0) => {
                self.calls_until_panic = None;
                if cancels && !self.job.reporting.get() {
                    self.job.cancelled.set(true);
                }
                resume_unwind(Box::new(OfHook));
            }
            Some(left) => *left = left.saturating_sub(1),
            None => {}
        }
    }
}

impl SwitchHooks for Hooks {
    fn enter(&mut self) {
        assert!(!self.inside, "entered while inside");
        let begun = mem::replace(&mut self.begun, true);
        self.call(begun);
        self.inside = true;
    }

    fn leave(&mut self) {
        assert!(self.inside, "left while outside");
        self.inside = false;
        self.call(true);
    }
}

/// The code that reads the script: outside of all jobs, or in one.
struct Actor {
    world: Rc<World>,
    me: Option<Rc<Model>>,
    values: Vec<Value>,
    guards: Vec<Guard>,
    jobs: Vec<Held>,
}

impl Drop for Actor {
    fn drop(&mut self) {
        for held in mem::take(&mut self.jobs) {
            drop(held);
            if let Some(me) = &self.me {
                me.holds.borrow_mut().pop();
            }
        }
    }
}

impl Actor {
    fn new(world: &Rc<World>, me: Option<&Rc<Model>>) -> Self {
        Actor {
            world: world.clone(),
            me: me.cloned(),
            values: Vec::new(),
            guards: Vec::new(),
            jobs: Vec::new(),
        }
    }

    /// Performs acts until the script or the job ends. Returns the value of the job.
    fn act(&mut self) -> u64 {
        let world = self.world.clone();
        while let Some(act) = world.next() {
            self.look_around();
            match act % 32 {
                0..=5 => self.pause(),
                6..=8 => self.start(),
                9..=12 => self.resume(),
                13 => self.cancel(),
                14 => drop(self.take()),
                15 => self.force_unwind(),
                16 => self.quarantine(),
                17 => self.report(),
                18 => self.values.push(world.value(self.me.as_ref())),
                19 => {
                    let mut value = world.value(self.me.as_ref());
                    value.pauses = true;
                    self.values.push(value);
                }
                20 => drop(self.values.pop()),
                21 => self.block(),
                22 => drop(self.guards.pop()),
                23 => world.guards.borrow_mut().extend(self.guards.pop()),
                24 => {
                    let guard = world.guards.borrow_mut().pop();
                    drop(guard);
                }
                25 => self.hold(),
                26 => self.change_ctx(),
                27 => self.catch_pause(),
                28 => self.pause_for_ever(),
                29 if self.me.is_some() && !thread::panicking() => {
                    resume_unwind(Box::new(OfJob(current_job_id().expect("this is a job"))))
                }
                30 if self.me.is_some() => return world.next().map_or(0, u64::from),
                _ => {}
            }
        }
        0
    }

    fn look_around(&self) {
        assert_eq!(current_job_id(), self.me.as_ref().and_then(|me| me.id.get()));
        if let Some(me) = &self.me {
            let job = current_job().expect("this is a job");
            assert!(job.wait_ctx().ptr_eq(&self.world.ctxs[me.ctx]));
            assert_eq!(job.name(), me.name);
        }
    }

    /// The pause that the model expects; `None` if the job pauses.
    fn refused(&self) -> Option<PauseError> {
        let Some(me) = &self.me else {
            return Some(PauseError::NotInJob);
        };
        if me.cancelled.get() {
            return Some(PauseError::Cancelled);
        }
        if me.blocked.get() > 0 {
            return Some(PauseError::Blocked);
        }
        thread::panicking().then_some(PauseError::Panicking)
    }

    fn pause(&self) {
        let refused = self.refused();
        let pause = pause_job();
        let expected = match (refused, &self.me) {
            (Some(refused), _) => Err(refused),
            (None, Some(me)) if me.cancelled.get() => Err(PauseError::Cancelled),
            (None, _) => Ok(()),
        };
        assert_eq!(pause, expected);
        self.look_around();
    }

    /// A pause that survives a forced unwinding.
    fn catch_pause(&self) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.pause())) {
            assert!(
                self.me.as_ref().is_some_and(|me| me.cancelled.get()),
                "only a forced unwinding leaves a pause: {:?}",
                payload.downcast_ref::<String>()
            );
        }
    }

    /// A cancelled job that pauses until it is given up, and is not heard of again.
    fn pause_for_ever(&self) {
        let cancelled = self.me.as_ref().is_some_and(|me| me.cancelled.get());
        if cancelled && !thread::panicking() && QUARANTINED.load(Ordering::Relaxed) < MOST_QUARANTINED {
            for _ in 0..=1000 {
                assert_eq!(pause_job(), Err(PauseError::Cancelled));
            }
            panic!("a job that pauses a thousand times after it was cancelled was not given up");
        }
    }

    fn start(&mut self) {
        let world = self.world.clone();
        let form = world.below(256);
        let model = Rc::new(Model {
            name: (form & 1 != 0).then_some("named"),
            ctx: form >> 1 & 1,
            hooked: form & 8 != 0,
            ..Model::default()
        });
        let end = End(model.clone());
        let value = world.value(Some(&model));
        let (inside, closure_world) = (model.clone(), world.clone());
        let job = move || {
            let (_end, _value) = (end, value);
            inside.id.set(current_job_id());
            assert!(inside.id.get().is_some());
            let returned = Actor::new(&closure_world, Some(&inside)).act();
            inside.returned.set(Some(returned));
            returned
        };
        let mut builder = JobBuilder::new().wait_ctx(&world.ctxs[model.ctx]);
        if let Some(name) = model.name {
            builder = builder.name(name);
        }
        if form & 4 != 0 {
            builder = builder.stack_size(StackSize::at_least(64 * 1024));
        }
        let step = if model.hooked {
            let hooks = Hooks {
                job: model.clone(),
                inside: false,
                begun: false,
                calls_until_panic: (form & 16 != 0).then_some((form >> 5) as u8),
                _counted: world.counted(),
            };
            catch_unwind(AssertUnwindSafe(|| builder.hooks(hooks).start(job).expect("a stack")))
        } else {
            catch_unwind(AssertUnwindSafe(|| builder.start(job).expect("a stack")))
        };
        self.stepped(step, model);
    }

    /// Compares how far a job got with the model, and keeps a paused job.
    fn stepped(&mut self, step: thread::Result<Step<u64>>, model: Rc<Model>) {
        match step {
            Ok(Step::Paused(job)) => {
                assert!(!model.ended.get() && !model.cancelled.get());
                assert_eq!(Some(job.id()), model.id.get());
                assert_eq!(job.name(), model.name);
                assert!(job.wait_ctx().ptr_eq(&self.world.ctxs[model.ctx]));
                let held = Held {
                    job: Some(job),
                    model,
                    world: self.world.clone(),
                };
                let slot = self.world.below(SLOTS);
                let before = self.world.slots.borrow_mut()[slot].replace(held);
                drop(before);
            }
            Ok(Step::Finished(value)) => {
                assert!(model.ended.get());
                assert_eq!(model.returned.get(), Some(value));
            }
            Err(payload) => {
                check_payload(&*payload, &model);
                if !model.ended.get() {
                    self.world.leak(&model); // its `enter` panicked when it was cancelled already
                }
            }
        }
        self.look_around();
    }

    fn take(&self) -> Option<Held> {
        let slot = self.world.below(SLOTS);
        self.world.slots.borrow_mut()[slot].take()
    }

    fn resume(&mut self) {
        let Some(mut held) = self.take() else { return };
        let job = held.job.take().expect("a held job is taken once");
        let model = held.model.clone();
        let step = catch_unwind(AssertUnwindSafe(|| job.resume()));
        self.stepped(step, model);
    }

    fn cancel(&mut self) {
        let Some(held) = self.take() else { return };
        let model = held.model.clone();
        model.cancelled.set(true);
        held.end_by(|job| match catch_unwind(AssertUnwindSafe(|| job.cancel())) {
            Ok(Ok(value)) => assert_eq!(model.returned.get(), Some(value)),
            Ok(Err(_)) => assert!(!model.ended.get()),
            Err(payload) => check_payload(&*payload, &model),
        });
    }

    fn force_unwind(&mut self) {
        let Some(held) = self.take() else { return };
        let model = held.model.clone();
        model.cancelled.set(true);
        held.end_by(|job| {
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| job.force_unwind())) {
                check_payload(&*payload, &model);
            }
        });
    }

    fn quarantine(&mut self) {
        if QUARANTINED.load(Ordering::Relaxed) >= MOST_QUARANTINED {
            return;
        }
        if let Some(held) = self.take() {
            held.end_by(Job::quarantine);
        }
    }

    /// Looks at a paused job, which stays as it is.
    fn report(&mut self) {
        let slot = self.world.below(SLOTS);
        let Some(mut held) = self.world.slots.borrow_mut()[slot].take() else {
            return;
        };
        let job = held.job.as_mut().expect("a held job is there");
        job.prefetch();
        job.trim(); // calls no hook, which the model would take for a resume
        assert!(job.high_water() > 0);
        held.model.reporting.set(true);
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| job.backtrace())) {
            assert!(payload.is::<OfHook>());
        }
        held.model.reporting.set(false);
        assert!(!held.model.ended.get() && !held.model.cancelled.get());
        self.world.slots.borrow_mut()[slot] = Some(held);
    }

    fn block(&mut self) {
        if let Some(me) = &self.me {
            me.blocked.set(me.blocked.get() + 1);
        }
        self.guards.push(Guard {
            guard: Some(block_pause()),
            of: self.me.clone(),
        });
    }

    /// Moves a paused job to this stack, where a panic drops it.
    fn hold(&mut self) {
        if let Some(held) = self.take() {
            if let Some(me) = &self.me {
                me.holds.borrow_mut().push(held.model.clone());
            }
            self.jobs.push(held);
        }
    }

    fn change_ctx(&self) {
        let world = &self.world;
        let form = world.below(256);
        let (ctx, key) = (&world.ctxs[form & 1], world.keys[form >> 1 & 1]);
        let version = ctx.version();
        match form >> 2 & 7 {
            0..=2 => {
                let fd = WaitFd::new(key, 1000 + form as i32, WaitFdOptions::new());
                let value = world.counted();
                #[allow(unsafe_code, reason = "no driver polls the number")]
                // SAFETY: no driver polls the number.
                unsafe {
                    ctx.add_raw_wait_fd(fd, value);
                }
                assert_eq!(ctx.fd(key), Some(fd.fd));
                assert_ne!(ctx.version(), version);
            }
            3 | 4 => {
                let fd = ctx.fd(key);
                assert_eq!(ctx.clear_fd(key).is_some(), fd.is_some());
            }
            5 => {
                ctx.set_status(Status::from_raw((form >> 5) as i32));
                assert_eq!(ctx.status(), Status::from_raw((form >> 5) as i32));
            }
            6 => {
                let alive = world.counted();
                ctx.set_callback(Some(asyncjob::waker_fn(move || assert!(*alive.0.lock().unwrap() > 0))));
                ctx.callback().expect("it was set").wake();
                ctx.set_callback(None);
            }
            _ => assert_eq!(
                ctx.fds().iter().filter(|fd| fd.key == key).count() > 0,
                ctx.fd(key).is_some()
            ),
        }
    }
}

/// Only a job's own panic, or one of its hooks, leaves a call that runs the job.
fn check_payload(payload: &(dyn std::any::Any + Send), model: &Model) {
    match payload.downcast_ref::<OfJob>() {
        Some(OfJob(id)) => {
            assert_eq!(Some(*id), model.id.get());
            assert!(model.ended.get());
        }
        None => assert!(payload.is::<OfHook>(), "{:?}", payload.downcast_ref::<String>()),
    }
}
