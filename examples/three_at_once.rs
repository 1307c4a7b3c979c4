//! Three synchronous calls in flight at once, from one thread: the program of the README.

use std::error::Error;
use std::sync::{Arc, Barrier};

use asyncjob::offload::Offload;
use asyncjob::scheduler::Scheduler;

fn main() -> Result<(), Box<dyn Error>> {
    let key_threads = Offload::new(3)?; // where the slow key lives: an HSM session each, say
    let barrier = Arc::new(Barrier::new(3)); // this "key" answers only when three ask at once
    let scheduler = Scheduler::new()?;

    let jobs = ["alice", "bob", "carol"].map(|name| {
        let (key, barrier) = (key_threads.clone(), Arc::clone(&barrier));
        let serve = move || {
            println!("{name} connects");
            // A plain blocking call, as deep in a TLS library as you like. It pauses this job and blocks no thread.
            key.run(move || {
                barrier.wait();
                format!("signed for {name}")
            })
        };
        scheduler
            .spawn(serve)
            .expect("a scheduler without a bound takes every job")
    });

    scheduler.run()?;
    for job in jobs {
        println!("{}", job.join()??);
    }
    Ok(())
}
