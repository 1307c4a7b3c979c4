//! Promise: whichever system call fails, nothing is lost: the program gets an error or goes on, each closure runs or
//! comes back, and no value, stack or wake is missing.
//!
//! A workload uses every part of the library in a process of its own. strace is attached to it when its runtime is up,
//! so that the calls of the loader and of the test harness are not made to fail. It first counts how often each thread
//! makes each call. Then the workload runs once for each call and each place: the first call fails, the second one, and
//! so on, in every thread.
//!
//! ```text
//!   test            workload                strace
//!   starts  ----->  prints "ready"
//!   starts  ------------------------------> attaches, prints "attached"
//!   "go"    ----->  uses the library  <---- inject=mmap:error=ENOMEM:when=7
//!   reads   <-----  prints what it did
//! ```

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write, stdin};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{env, fs, thread};

use asyncjob::io::Pausing;
use asyncjob::job_future::JobFuture;
use asyncjob::offload::Offload;
use asyncjob::pool::{self, PoolConfig, cleanup_thread, init_thread};
use asyncjob::scheduler::{self, Scheduler, Workers};
use asyncjob::stack::{SecretPolicy, StackSize, install_overflow_handler};
use asyncjob::time::sleep;
use asyncjob::waiting::await_or_block;
use asyncjob::{JobBuilder, Step, WaitCtx, WaitKey, pause_job, start_job};
use asyncjob_testing::Watchdog;
use asyncjob_testing::tools::{STRACE, missing};

/// The system calls that the library makes, and an error that the kernel gives for each.
const CALLS: &[(&str, &str)] = &[
    ("mmap", "ENOMEM"),
    ("munmap", "ENOMEM"),
    ("mprotect", "ENOMEM"),
    ("madvise", "EINVAL"),
    ("madvise", "ENOMEM"),
    ("mincore", "EAGAIN"),
    ("mlock2", "ENOMEM"),
    ("munlock", "ENOMEM"),
    ("prctl", "EINVAL"),
    ("sigaltstack", "ENOMEM"),
    ("rt_sigaction", "EINVAL"),
    ("epoll_create1", "EMFILE"),
    ("eventfd2", "EMFILE"),
    ("timerfd_create", "EMFILE"),
    ("timerfd_settime", "EINVAL"),
    ("epoll_ctl", "ENOSPC"),
    ("epoll_wait", "EINTR"),
    ("epoll_pwait2", "EINTR"),
    ("poll", "EINTR"),
    ("read", "EINTR"),
    ("recvfrom", "EINTR"),
    ("sendto", "EINTR"),
    ("write", "EINTR"),
    ("socketpair", "EMFILE"),
    ("ioctl", "EBADF"),
    ("openat", "EMFILE"),
    ("clone3", "EAGAIN"),
    ("membarrier", "ENOSYS"),
];

/// The memory and the threads of Rust's runtime fail, too. It aborts the process then, with one of these sentences,
/// before the library could do anything.
const NOT_OURS: &[&str] = &[
    "memory allocation of",
    "failed to allocate",
    "failed to set up alternative stack guard",
];

/// How many workloads run at once.
const AT_ONCE: usize = 4;

#[test]
fn a_system_call_that_fails_anywhere_loses_nothing() {
    if missing(&[STRACE]) {
        return;
    }
    let counts = count_calls();
    assert!(counts.len() > 10, "the workload makes most of the calls: {counts:?}");
    let places = |&(call, error): &(&'static str, &'static str)| {
        let places = 1..=counts.get(call).copied().unwrap_or_default();
        places.map(move |place| (call, error, place))
    };
    let failures: Vec<_> = CALLS.iter().flat_map(places).collect();
    let runs = failures.len();
    let (next, refused, not_ours) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let run_some = || {
        while let Some(&(call, error, place)) = failures.get(next.fetch_add(1, Ordering::Relaxed)) {
            let inject = format!("inject={call}:error={error}:when={place}");
            let ended = run_under_strace(&[&inject, &format!("trace={call}")]);
            if ended.success {
                refused.fetch_add(usize::from(ended.said.contains("refused")), Ordering::Relaxed);
                continue;
            }
            let known = NOT_OURS.iter().any(|sentence| ended.said.contains(sentence));
            assert!(known, "{call} failed with {error} at place {place}:\n{}", ended.said);
            not_ours.fetch_add(1, Ordering::Relaxed);
        }
    };
    // A run mostly waits for strace.
    thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(run_some))));
    let (refused, not_ours) = (refused.into_inner(), not_ours.into_inner());
    // A sandbox or an old kernel refuses the call whenever it is made.
    for inject in [
        "membarrier:error=EPERM",
        "epoll_pwait2:error=ENOSYS",
        "epoll_pwait2:error=EPERM",
    ] {
        let trace = format!("trace={}", inject.split(':').next().unwrap_or_default());
        let without = run_under_strace(&[&format!("inject={inject}"), &trace]);
        assert!(without.success, "{inject}: {}", without.said);
    }

    println!("{runs} runs, {refused} with an error, {not_ours} ended by the runtime");
    assert!(refused > 10, "{refused} of {runs} runs saw an error");
    assert!(
        not_ours * 4 < runs,
        "{not_ours} of {runs} runs were ended by the runtime"
    );
}

/// How often the busiest thread of the workload makes each call.
fn count_calls() -> BTreeMap<&'static str, usize> {
    let names: Vec<_> = CALLS.iter().map(|(call, _)| *call).collect();
    let ended = run_under_strace(&[&format!("trace={}", names.join(","))]);
    assert!(ended.success && !ended.said.contains("refused"), "{}", ended.said);
    let mut by_thread = BTreeMap::<(&str, &str), usize>::new();
    for line in ended.log.lines() {
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let Some((name, _)) = rest.trim_start().split_once('(') else {
            continue;
        };
        if let Some(call) = names.iter().find(|call| **call == name) {
            *by_thread.entry((thread, call)).or_default() += 1;
        }
    }
    let mut counts = BTreeMap::new();
    for ((_, call), count) in by_thread {
        let call = CALLS
            .iter()
            .find(|(name, _)| *name == call)
            .expect("it is one of them")
            .0;
        let most = counts.entry(call).or_default();
        *most = count.max(*most);
    }
    counts
}

struct Ended {
    success: bool,
    said: String,
    log: String,
}

/// Runs the workload with strace attached. Each argument is an expression of `strace -e`.
fn run_under_strace(expressions: &[&str]) -> Ended {
    let mut workload = Command::new(env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "workload"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(workload.stdout.take().unwrap());
    read_until(&mut said, "ready");
    let log = env::temp_dir().join(format!("asyncjob-failing-{}", workload.id()));
    let mut strace = Command::new("strace");
    strace
        .arg("-f")
        .arg("-p")
        .arg(workload.id().to_string())
        .arg("-o")
        .arg(&log);
    for expression in expressions {
        strace.arg("-e").arg(expression);
    }
    let mut strace = strace.stderr(Stdio::piped()).spawn().unwrap();
    // strace says something of each thread to come, and dies if nothing reads it.
    let mut of_strace = BufReader::new(strace.stderr.take().unwrap());
    read_until(&mut of_strace, "attached");
    writeln!(workload.stdin.take().unwrap(), "go").unwrap();
    let status = wait(&mut workload);
    let mut text = String::new();
    said.read_to_string(&mut text).unwrap();
    workload.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    of_strace.read_to_string(&mut String::new()).unwrap();
    assert!(
        strace.wait().is_ok_and(|ended| ended.code().is_some()),
        "strace was killed"
    );
    let traced = fs::read_to_string(&log).unwrap();
    fs::remove_file(&log).unwrap();
    Ended {
        success: status && text.contains("nothing is lost"),
        said: text,
        log: traced,
    }
}

fn read_until(lines: &mut impl BufRead, word: &str) {
    let mut line = String::new();
    while !line.contains(word) {
        line.clear();
        assert_ne!(lines.read_line(&mut line).unwrap(), 0, "{word:?} was not said");
    }
}

/// Waits for the workload. One that hangs is aborted by its own watchdog.
fn wait(workload: &mut Child) -> bool {
    workload.wait().unwrap().success()
}

/// A value that must be dropped: by a closure that ran, or by the error that gives the closure back.
struct Token(Arc<AtomicUsize>);

impl Token {
    fn new(alive: &Arc<AtomicUsize>) -> Self {
        alive.fetch_add(1, Ordering::SeqCst);
        Token(alive.clone())
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Counts the calls that gave an error.
#[derive(Clone, Default)]
struct Refusals(Rc<Cell<usize>>);

impl Refusals {
    fn see<T, E>(&self, result: Result<T, E>) -> Option<T> {
        if result.is_err() {
            self.0.set(self.0.get() + 1);
        }
        result.ok()
    }
}

#[test]
#[ignore = "run under strace by a_system_call_that_fails_anywhere_loses_nothing"]
fn workload() {
    let _watchdog = Watchdog::new();
    println!("ready");
    stdin().read_line(&mut String::new()).unwrap();
    let (alive, refusals) = (Arc::default(), Refusals::default());
    use_stacks(&alive, &refusals);
    use_scheduler(&alive, &refusals);
    use_threads(&alive, &refusals);
    change_a_ctx_on_two_threads(&refusals);
    assert_eq!(alive.load(Ordering::SeqCst), 0, "values are lost");
    assert_eq!(pool::stats().in_use, 0, "stacks are lost");
    if refusals.0.get() > 0 {
        println!("{} calls were refused", refusals.0.get());
    }
    println!("nothing is lost");
}

fn use_stacks(alive: &Arc<AtomicUsize>, refusals: &Refusals) {
    refusals.see(install_overflow_handler());
    let secrets = SecretPolicy::new().scrub().mlock().dont_dump();
    for config in [
        PoolConfig::new().max_idle(2),
        PoolConfig::new()
            .stack_size(StackSize::at_least(64 << 10))
            .secrets(secrets),
    ] {
        refusals.see(init_thread(config));
        let mut jobs = Vec::new();
        for _ in 0..70 {
            let token = Token::new(alive);
            let step = start_job(&WaitCtx::new(), move || {
                let _ = pause_job();
                drop(token);
            });
            match refusals.see(step) {
                Some(Step::Paused(job)) => jobs.push(job),
                Some(Step::Finished(())) => panic!("the job pauses"),
                None => {}
            }
        }
        jobs.iter().for_each(|job| assert!(job.high_water() < 1 << 20)); // 0 if the kernel does not say
        if let Some(job) = jobs.last_mut() {
            let _ = job.backtrace();
        }
        jobs.into_iter().for_each(drop);
        refusals.see(cleanup_thread());
    }
}

fn use_scheduler(alive: &Arc<AtomicUsize>, refusals: &Refusals) {
    let Some(scheduler) = refusals.see(Scheduler::new()) else {
        return;
    };
    let mut handles = Vec::new();
    for _ in 0..3 {
        let Some((mut ours, theirs)) = refusals.see(UnixStream::pair()) else {
            continue;
        };
        let Some(theirs) = refusals.see(Pausing::new(theirs)) else {
            continue;
        };
        let (token, mut theirs) = (Token::new(alive), theirs);
        let reads = move || {
            let _token = token;
            let child = scheduler::spawn(|| sleep(Duration::from_micros(200)));
            let read = theirs.read_exact(&mut [0]).is_ok();
            child.is_ok_and(|child| child.join().is_ok()) && read
        };
        handles.extend(refusals.see(JobBuilder::new().name("reads").spawn_on(&scheduler, reads)));
        let token = Token::new(alive);
        let writes = move || {
            let _token = token;
            ours.write_all(&[7]).is_ok()
        };
        handles.extend(refusals.see(scheduler.spawn(writes)));
    }
    // A call that fails while the scheduler waits does not lose its jobs: the next call goes on with them.
    let mut attempts = 0;
    while refusals.see(scheduler.run()).is_none() {
        attempts += 1;
        assert!(attempts < 10, "the scheduler does not recover");
    }
    for handle in handles {
        assert!(handle.is_finished());
        let ended_well = refusals.see(handle.join()).unwrap_or(false);
        refusals.see(ended_well.then_some(()).ok_or(()));
    }
    assert_eq!(scheduler.live_jobs(), 0);
}

/// The first thread owns the lock of the ctx, and the second one takes that from it.
fn change_a_ctx_on_two_threads(refusals: &Refusals) {
    let (ctx, keys) = (WaitCtx::new(), [WaitKey::unique(), WaitKey::unique()]);
    for key in keys {
        ctx.add_wait_fd(key, stdin());
    }
    thread::scope(|scope| {
        let other = thread::Builder::new().spawn_scoped(scope, || assert!(ctx.clear_fd(keys[0]).is_some()));
        if let Some(other) = refusals.see(other) {
            other.join().unwrap();
        }
    });
    assert!(ctx.clear_fd(keys[1]).is_some());
}

fn use_threads(alive: &Arc<AtomicUsize>, refusals: &Refusals) {
    if let Some(offload) = refusals.see(Offload::new(2)) {
        for _ in 0..4 {
            let token = Token::new(alive);
            refusals.see(offload.run_or_block(move || drop(token)));
        }
        let (token, offload) = (Token::new(alive), offload.clone());
        let future = JobFuture::new(move || offload.run(move || drop(token)).is_ok());
        let done = refusals.see(await_or_block(future)).and_then(|done| refusals.see(done));
        refusals.see(done.unwrap_or(false).then_some(()).ok_or(()));
    }
    if let Some(workers) = refusals.see(Workers::new(2)) {
        let handle = workers.handle();
        let jobs: Vec<_> = (0..4)
            .filter_map(|_| {
                let token = Token::new(alive);
                refusals.see(handle.spawn(move || {
                    let _token = token;
                    sleep(Duration::from_micros(100)).is_ok()
                }))
            })
            .collect();
        for job in jobs {
            let slept = refusals.see(job.join()).unwrap_or(false);
            refusals.see(slept.then_some(()).ok_or(()));
        }
        let report = workers.shutdown(Duration::from_secs(10));
        assert_eq!(report.quarantined, 0);
    }
    // The threads that have ended let go of what they had.
    thread::yield_now();
}
