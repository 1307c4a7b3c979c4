//! A history of a scheduler: jobs are spawned here, inside jobs and on another thread; they yield, sleep, wait for
//! gates and for offloaded closures, spawn and join, panic and return; their handles cancel, join, let go and are
//! dropped, here and elsewhere.
//!
//! A gate is a future, or a socket, that opens when the history says so, from any thread. At the end all gates open. So
//! each job ends by itself or is cancelled, and a scheduler that waits for ever has lost a wake.
//!
//! The model is what each job's code says of itself: it returned, it panicked, it never ran. The scheduler must say the
//! same.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use asyncjob::io::Pausing;
use asyncjob::offload::Offload;
use asyncjob::scheduler::{self, Handle, JoinError, JoinHandle, Scheduler};
use asyncjob::time::{sleep, with_timeout, yield_now};
use asyncjob::waiting::{await_future, await_or_block};
use asyncjob::{SpawnError, pool};

const GATES: usize = 4;
/// A job reads at most this much of the script.
const LONGEST_JOB: usize = 8;
const MOST_JOBS: usize = 200;

static THREADS: LazyLock<Offload> = LazyLock::new(|| {
    Offload::builder()
        .threads(2)
        .queue_capacity(2)
        .build()
        .expect("two threads")
});

/// Runs the history that the bytes describe, and compares what the scheduler says with what the jobs did.
pub(crate) fn run(bytes: &[u8]) {
    let stacks_before = pool::stats().in_use;
    let mut script = Script::new(bytes);
    let form = script.below(256);
    let scheduler = Scheduler::builder();
    let scheduler = match form & 3 {
        0 => scheduler.max_jobs(3),
        _ => scheduler,
    };
    let scheduler = scheduler.build().expect("an epoll and an eventfd");
    let world = Arc::new(World::default());
    let mut handles: Vec<Spawned> = Vec::new();

    while let Some(act) = script.next() {
        match act % 16 {
            0..=3 => handles.extend(spawn_here(&scheduler, &world, &mut script)),
            4 => handles.extend(spawn_elsewhere(&scheduler.handle(), &world, &mut script)),
            5..=7 => drop(scheduler.turn(Some(Duration::ZERO)).expect("a turn")),
            8 | 9 => world.gate(&mut script).open(),
            10 => {
                let gate = world.gate(&mut script);
                thread::scope(|scope| drop(scope.spawn(|| gate.open())));
            }
            11 => {
                if let Some(spawned) = pick(&mut handles, &mut script) {
                    spawned.handle.request_cancel();
                    handles.push(Spawned {
                        cancelled: true,
                        ..spawned
                    });
                }
            }
            12 => drop(pick(&mut handles, &mut script)),
            13 => {
                if let Some(spawned) = pick(&mut handles, &mut script) {
                    spawned.handle.detach();
                }
            }
            14 => {
                if let Some(spawned) = pick(&mut handles, &mut script) {
                    thread::scope(|scope| drop(scope.spawn(|| drop(spawned))));
                }
            }
            _ => look_at(&scheduler, &mut script),
        }
    }

    world.gates.iter().for_each(Gate::open);
    if form & 4 == 0 {
        scheduler.run().expect("the scheduler runs to its end");
    } else {
        let report = scheduler
            .shutdown(Duration::from_secs(20))
            .expect("the scheduler shuts down");
        assert_eq!(
            (report.cancelled, report.quarantined),
            (0, 0),
            "every job ends by itself when all gates are open"
        );
    }
    assert_eq!(scheduler.live_jobs(), 0);
    assert!(scheduler.jobs().is_empty());
    for spawned in handles {
        spawned.check();
    }
    let stats = scheduler.stats();
    drop(scheduler);
    let (spawned, refused) = (
        world.spawned.load(Ordering::Relaxed),
        world.refused.load(Ordering::Relaxed),
    );
    assert_eq!(
        world.ended.load(Ordering::Relaxed),
        spawned + refused,
        "closures that ended or were given back"
    );
    assert_eq!(stats.quarantined, 0);
    assert!(stats.ended >= world.begun.load(Ordering::Relaxed) as u64);
    assert_eq!(pool::stats().in_use, stacks_before, "stacks in use");
}

/// The bytes of a history. Each act takes what it needs from the front.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Script(bytes)
    }

    /// The next byte, or `None` at the end of the history.
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A number below `limit`; 0 at the end of the history.
    fn below(&mut self, limit: usize) -> usize {
        usize::from(self.next().unwrap_or(0)) % limit
    }
}

#[derive(Default)]
struct World {
    gates: [Gate; GATES],
    spawned: AtomicUsize,
    refused: AtomicUsize,
    begun: AtomicUsize,
    ended: AtomicUsize,
}

impl World {
    fn gate(&self, script: &mut Script<'_>) -> &Gate {
        &self.gates[script.below(GATES)]
    }
}

/// What jobs wait for.
#[derive(Default)]
struct Gate(Mutex<GateState>);

#[derive(Default)]
struct GateState {
    is_open: bool,
    waiting: Vec<Waker>,
    sockets: Vec<UnixStream>,
}

impl Gate {
    fn open(&self) {
        let (waiting, mut sockets) = {
            let mut state = self.0.lock().unwrap();
            state.is_open = true;
            (std::mem::take(&mut state.waiting), std::mem::take(&mut state.sockets))
        };
        waiting.into_iter().for_each(Waker::wake);
        for socket in &mut sockets {
            let _ = socket.write_all(&[7]); // the job that would read it may have been cancelled
        }
    }

    async fn wait(&self) {
        poll_fn(|task| {
            let mut state = self.0.lock().unwrap();
            if state.is_open {
                return Poll::Ready(());
            }
            let waker = task.waker().clone();
            state.waiting.push(waker);
            Poll::Pending
        })
        .await;
    }

    /// A socket that is readable when the gate is open.
    fn socket(&self) -> Pausing<UnixStream> {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
        let mut state = self.0.lock().unwrap();
        if state.is_open {
            theirs.write_all(&[7]).expect("the other end is open");
        }
        state.sockets.push(theirs);
        drop(state);
        Pausing::new(ours).expect("a socket can be made non-blocking")
    }
}

/// What a job did, by its own account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Did {
    #[default]
    Nothing,
    Began,
    Returned(u64),
    Panicked,
}

/// A job's closure exists as long as this. Counted, and told what the job did.
struct Account {
    world: Arc<World>,
    did: Arc<Mutex<Did>>,
}

impl Drop for Account {
    fn drop(&mut self) {
        self.world.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// A job that was spawned: its handle, and what it did.
struct Spawned {
    handle: JoinHandle<u64>,
    did: Arc<Mutex<Did>>,
    /// The history has asked the job to end.
    cancelled: bool,
}

impl Spawned {
    /// Joins a job that has ended.
    fn check(self) {
        assert!(
            self.handle.is_finished(),
            "a job has no result although the scheduler has ended"
        );
        let result = self.handle.join();
        let did = *self.did.lock().unwrap();
        match (&result, did) {
            (Ok(value), Did::Returned(returned)) if *value == returned => {}
            (Err(JoinError::Panicked(_)), Did::Panicked) => {}
            (Err(JoinError::Cancelled), _) if self.cancelled => {}
            _ => panic!("the job did {did:?}, and its handle says {result:?}"),
        }
    }
}

fn pick(handles: &mut Vec<Spawned>, script: &mut Script<'_>) -> Option<Spawned> {
    let at = script.below(handles.len().max(1));
    (at < handles.len()).then(|| handles.swap_remove(at))
}

/// A closure that does what the next bytes of the script say.
fn job(world: &Arc<World>, script: &mut Script<'_>) -> (impl FnOnce() -> u64 + Send + 'static, Arc<Mutex<Did>>) {
    let length = script.below(LONGEST_JOB);
    let steps: Vec<u8> = (0..length).map_while(|_| script.next()).collect();
    let did = Arc::<Mutex<Did>>::default();
    let account = Account {
        world: world.clone(),
        did: did.clone(),
    };
    (move || perform(&account, &steps), did)
}

fn keep<F: 'static>(
    spawned: Result<JoinHandle<u64>, SpawnError<F>>,
    did: Arc<Mutex<Did>>,
    world: &World,
) -> Option<Spawned> {
    match spawned {
        Ok(handle) => {
            world.spawned.fetch_add(1, Ordering::Relaxed);
            Some(Spawned {
                handle,
                did,
                cancelled: false,
            })
        }
        Err(refused) => {
            world.refused.fetch_add(1, Ordering::Relaxed);
            drop(refused.into_closure());
            assert_eq!(*did.lock().unwrap(), Did::Nothing, "a refused closure does not run");
            None
        }
    }
}

fn spawn_here(scheduler: &Scheduler, world: &Arc<World>, script: &mut Script<'_>) -> Option<Spawned> {
    let (job, did) = job(world, script);
    keep(scheduler.spawn(job), did, world)
}

fn spawn_elsewhere(handle: &Handle, world: &Arc<World>, script: &mut Script<'_>) -> Option<Spawned> {
    let (job, did) = job(world, script);
    thread::scope(|scope| {
        let spawned = scope.spawn(|| keep(handle.spawn(job), did, world));
        spawned.join().expect("a spawn does not panic")
    })
}

fn look_at(scheduler: &Scheduler, script: &mut Script<'_>) {
    let jobs = scheduler.jobs();
    assert!(jobs.len() <= scheduler.live_jobs());
    let _ = scheduler.next_deadline();
    if let Some(job) = jobs.get(script.below(jobs.len().max(1))) {
        assert!(scheduler.backtrace(job.id).is_some());
    }
}

/// The code of a job.
fn perform(account: &Account, steps: &[u8]) -> u64 {
    account.world.begun.fetch_add(1, Ordering::Relaxed);
    let did = |what| *account.did.lock().unwrap() = what;
    did(Did::Began);
    let mut script = Script::new(steps);
    let mut children: Vec<Spawned> = Vec::new();
    while let Some(step) = script.next() {
        let world = &account.world;
        let gate = &world.gates[usize::from(step >> 4) % GATES];
        match step & 15 {
            0..=2 => drop(yield_now()),
            3 => drop(sleep(Duration::from_micros(u64::from(step)))),
            4 | 5 => drop(await_future(gate.wait())),
            6 => drop(with_timeout(Duration::from_micros(50), || await_future(gate.wait()))),
            7 => drop(gate.socket().read_exact(&mut [0])),
            8 => drop(with_timeout(Duration::from_micros(50), || {
                gate.socket().read_exact(&mut [0])
            })),
            9 => {
                if let Ok(value) = THREADS.run(move || step) {
                    assert_eq!(value, step);
                }
            }
            10 if world.spawned.load(Ordering::Relaxed) < MOST_JOBS => {
                let (job, did) = job(world, &mut script);
                children.extend(keep(scheduler::spawn(job), did, world));
            }
            11 => {
                if let Some(mut child) = children.pop()
                    && let Ok(result) = await_future(&mut child.handle)
                {
                    let did = *child.did.lock().unwrap();
                    assert_eq!(
                        result.ok(),
                        if let Did::Returned(value) = did {
                            Some(value)
                        } else {
                            None
                        }
                    );
                }
            }
            12 => children.drain(..).for_each(|child| child.handle.detach()),
            13 => gate.open(),
            14 => drop(await_or_block(async { step })),
            15 if step & 16 != 0 => {
                did(Did::Panicked);
                resume_unwind(Box::new("of its own will"));
            }
            _ => break,
        }
    }
    // Children that are left are dropped, which cancels them.
    let value = u64::from(script.next().unwrap_or(0));
    did(Did::Returned(value));
    value
}
