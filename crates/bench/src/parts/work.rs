//! Jobs a second, with real work in them.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use asyncjob::offload::Offload;
use asyncjob::scheduler::{Handle, Scheduler, Workers};
use asyncjob::{Status, current_job, pause_job};

use crate::machine::on_all;
use crate::measure::quantile;
use crate::peers::crypto::{Crypto, RECORD};
use crate::progress::Progress;
use crate::report::{Cell, Chart, Row, Section, Table};
use crate::setup::Setup;

const TEXT: &str = "\
Jobs a second through the scheduler, with so many in flight: each job that ends spawns the next one. *Signature*: one
RSA-2048 signature, made by as many other threads (`offload`) as the scheduler has. *Record*: 16 KiB of AES-128-GCM
on the job's own stack, and one pause, as if for a socket. *Without jobs*: the same work in a plain loop on as many
threads, which is the most that the machine can do. The scheduler's threads and the signing threads share the
processors of the run. Each job goes through one queue, is counted, and may run on the other processor. Two threads
pay for the cache lines that this moves, and one thread does not.";

/// One kind of job.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Signature,
    Record,
}

/// What all jobs of a measurement share.
struct Bench {
    kind: Kind,
    crypto: Crypto,
    offload: Offload,
    /// Only jobs that end between these times count: all jobs are in flight then.
    since: Instant,
    until: Instant,
    done: Done,
}

/// How many jobs are done, in cache lines of its own: each job changes it, and reads what is beside it.
#[repr(align(128))]
struct Done(AtomicU64);

/// Measures both kinds, on one thread and on two.
pub(crate) fn run(setup: &Setup) -> Section {
    let flights: &[usize] = setup
        .length
        .pick(&[1, 100], &[1, 100, 10_000], &[1, 10, 100, 1000, 10_000]);
    let time = Duration::from_millis(setup.length.pick(5, 300, 700));
    let rounds = setup.length.pick(1, 3, 3);
    let columns = columns(setup);
    let progress = Progress::new("work", ((flights.len() + 1) * columns.len() * rounds) as u64);
    let mut seen = vec![vec![Vec::new(); columns.len()]; flights.len() + 1];
    for _ in 0..rounds {
        for (flight, seen) in [0].iter().chain(flights).zip(&mut seen) {
            for ((name, kind, threads), seen) in columns.iter().zip(seen) {
                progress.tick(name);
                seen.push(on_all(setup.cores, || measure(*kind, *threads, *flight, time)));
            }
        }
    }
    let names = ["without jobs".to_string()]
        .into_iter()
        .chain(flights.iter().map(usize::to_string));
    let cells = |seen: &Vec<Vec<f64>>| seen.iter().map(|rounds| Cell::Number(quantile(rounds, 0.5))).collect();
    Section {
        name: "work",
        title: "Work: jobs a second with real work in them",
        text: TEXT,
        tables: vec![Table {
            name: "jobs",
            title: "Jobs a second, by jobs in flight".into(),
            unit: "jobs/s",
            columns: columns.iter().map(|(name, _, _)| name.to_string()).collect(),
            rows: names
                .zip(&seen)
                .map(|(name, seen)| Row {
                    name,
                    cells: cells(seen),
                })
                .collect(),
            chart: Chart::Bars,
        }],
        skipped: Vec::new(),
    }
}

fn columns(setup: &Setup) -> Vec<(&'static str, Kind, usize)> {
    let mut columns = vec![
        ("signature, 1 thread", Kind::Signature, 1),
        ("record, 1 thread", Kind::Record, 1),
    ];
    if setup.cores.two() {
        columns.insert(1, ("signature, 2 threads", Kind::Signature, 2));
        columns.push(("record, 2 threads", Kind::Record, 2));
    }
    columns
}

/// Jobs a second. With none in flight, how often a plain loop does the work in a second.
fn measure(kind: Kind, threads: usize, flight: usize, time: Duration) -> f64 {
    let bench = Arc::new(Bench {
        kind,
        crypto: Crypto::new(),
        offload: Offload::new(threads).expect("the system has a thread"),
        since: Instant::now() + time / 2,
        until: Instant::now() + time / 2 + time,
        done: Done(AtomicU64::new(0)),
    });
    match (flight, threads) {
        (0, _) => plain_loops(&bench, threads),
        (_, 1) => {
            let scheduler = Scheduler::new().expect("an epoll fd and an eventfd are left");
            (0..flight).for_each(|_| spawn(&scheduler.handle(), &bench));
            scheduler.run().expect("epoll works");
        }
        (_, _) => {
            let workers = Workers::new(threads).expect("the system has threads");
            (0..flight).for_each(|_| spawn(&workers.handle(), &bench));
            thread::sleep(bench.until.saturating_duration_since(Instant::now()));
            workers.shutdown(Duration::from_secs(60));
        }
    }
    bench.done.0.load(Ordering::Relaxed) as f64 / time.as_secs_f64()
}

fn plain_loops(bench: &Arc<Bench>, threads: usize) {
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| while bench.step(|bench| bench.in_a_loop()) {});
        }
    });
}

/// A job that does its work once and spawns the next one.
fn spawn(handle: &Handle, bench: &Arc<Bench>) {
    let (next, own) = (handle.clone(), Arc::clone(bench));
    let job = move || {
        if own.step(|bench| bench.in_a_job(&own)) {
            spawn(&next, &own);
        }
    };
    // Refused only when the scheduler is shutting down.
    if let Ok(job) = handle.spawn(job) {
        job.detach();
    }
}

impl Bench {
    /// Does some work and counts it, unless the time has passed. Whether there is time for more.
    fn step(&self, work: impl FnOnce(&Bench)) -> bool {
        if Instant::now() >= self.until {
            return false;
        }
        work(self);
        let now = Instant::now();
        let counts = (self.since..self.until).contains(&now);
        self.done.0.fetch_add(u64::from(counts), Ordering::Relaxed);
        now < self.until
    }

    fn in_a_loop(&self) {
        match self.kind {
            Kind::Signature => drop(black_box(self.crypto.sign())),
            Kind::Record => self.seal(),
        }
    }

    fn in_a_job(&self, own: &Arc<Bench>) {
        match self.kind {
            Kind::Signature => {
                let own = Arc::clone(own);
                let signature = self
                    .offload
                    .run(move || (Instant::now() < own.until).then(|| own.crypto.sign()));
                black_box(signature).ok();
            }
            Kind::Record => {
                self.seal();
                let ctx = current_job().expect("this is a job").wait_ctx().clone();
                ctx.set_status(Status::Eagain); // resumed after the others
                let _ = pause_job();
            }
        }
    }

    fn seal(&self) {
        let mut record = [0; RECORD];
        black_box(self.crypto.seal(&mut record));
        black_box(&record);
    }
}
