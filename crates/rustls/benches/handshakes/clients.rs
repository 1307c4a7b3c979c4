//! The clients: each makes a full handshake and one request, again and again.
//!
//! They check nothing of the server, so that a handshake takes less processor time here than there. Where the clients
//! used all of their core, the benchmark would show what they can do.

use std::cell::Cell;
use std::error::Error;
use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::client::{Check, connector_that_checks, request};
use crate::machine;

/// Keeps `count` clients busy until the input of this process ends. With a `rate` above 0, begins so many handshakes a
/// second instead, at most `count` at a time. Prints a line when the window begins, and when it ends the handshakes and
/// failures in it and its length in microseconds.
///
/// Clients that begin together are served in waves, because a busy server does the same step for all of them before the
/// next one. A window that ends between two waves counts up to one wave too many or too few. So a window of the closed
/// loop goes on until there were as many handshakes as are a multiple of `count`, but not for more than three times
/// `window`.
pub(crate) fn run(
    server: SocketAddr,
    count: usize,
    rate: u32,
    warm_up: Duration,
    window: Duration,
) -> Result<(), Box<dyn Error>> {
    machine::stay_on_core(1)?;
    machine::raise_priority(-15);
    machine::raise_fd_limit()?;
    thread::spawn(|| {
        let _ = io::stdin().lock().read_line(&mut String::new());
        std::process::exit(0);
    });
    let runtime = Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let counts = Rc::new(Counts::default());
        let connector = connector_that_checks(Check::Nothing);
        if rate == 0 {
            for _ in 0..count {
                spawn_local(closed_loop(server, connector.clone(), Rc::clone(&counts)));
            }
        } else {
            spawn_local(paced(server, connector, rate, count, Rc::clone(&counts)));
        }
        sleep(warm_up).await;
        counts.done.set(0);
        counts.failed.set(0);
        println!("begin");
        let start = Instant::now();
        sleep(window).await;
        if rate == 0 && count > 0 {
            let whole_waves = counts.done.get().next_multiple_of(count as u64);
            let _ = timeout(2 * window, counts.reach(whole_waves)).await;
        }
        let length = start.elapsed().as_micros();
        println!("{} {} {length}", counts.done.get(), counts.failed.get());
        std::future::pending::<()>().await;
    });
    Ok(())
}

#[derive(Default)]
struct Counts {
    done: Cell<u64>,
    failed: Cell<u64>,
    running: Cell<usize>,
    /// The value of `done` that the end of the window waits for.
    wanted: Cell<u64>,
    is_reached: Notify,
}

impl Counts {
    fn count(&self, outcome: &io::Result<()>) {
        let counter = if outcome.is_ok() { &self.done } else { &self.failed };
        counter.set(counter.get() + 1);
        if self.done.get() == self.wanted.get() {
            self.is_reached.notify_one();
        }
    }

    async fn reach(&self, done: u64) {
        self.wanted.set(done);
        while self.done.get() < done {
            self.is_reached.notified().await;
        }
    }
}

async fn closed_loop(server: SocketAddr, connector: TlsConnector, counts: Rc<Counts>) {
    loop {
        let outcome = request(server, &connector).await;
        counts.count(&outcome);
        if outcome.is_err() {
            sleep(Duration::from_millis(10)).await; // or a refused connection would be tried 100,000 times a second
        }
    }
}

async fn paced(server: SocketAddr, connector: TlsConnector, rate: u32, count: usize, counts: Rc<Counts>) {
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        ticks.tick().await;
        if counts.running.get() >= count {
            continue;
        }
        let (connector, counts) = (connector.clone(), Rc::clone(&counts));
        counts.running.set(counts.running.get() + 1);
        spawn_local(async move {
            counts.count(&request(server, &connector).await);
            counts.running.set(counts.running.get() - 1);
        });
    }
}
