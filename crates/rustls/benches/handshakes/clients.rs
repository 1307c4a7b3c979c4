//! The clients: each makes a full handshake and one request, again and again.

use std::cell::Cell;
use std::error::Error;
use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_rustls::TlsConnector;

use crate::machine;
use crate::visitors::{connector, visit};

/// Keeps `count` clients busy until its input ends; with a `rate`, so many new handshakes a second instead, at most `count` of
/// them at once. Prints a line when the window begins, and the handshakes and failures in it when it ends.
pub(crate) fn run(
    server: SocketAddr,
    count: usize,
    rate: u32,
    warm_up: Duration,
    window: Duration,
) -> Result<(), Box<dyn Error>> {
    machine::stay_on_core(1)?;
    machine::come_first(-15);
    machine::raise_fd_limit()?;
    thread::spawn(|| {
        let _ = io::stdin().lock().read_line(&mut String::new());
        std::process::exit(0);
    });
    let runtime = Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let tally = Rc::new(Tally::default());
        let connector = connector();
        if rate == 0 {
            for _ in 0..count {
                spawn_local(closed_loop(server, connector.clone(), Rc::clone(&tally)));
            }
        } else {
            spawn_local(paced(server, connector, rate, count, Rc::clone(&tally)));
        }
        sleep(warm_up).await;
        tally.done.set(0);
        tally.failed.set(0);
        println!("begin");
        sleep(window).await;
        println!("{} {}", tally.done.get(), tally.failed.get());
        std::future::pending::<()>().await;
    });
    Ok(())
}

#[derive(Default)]
struct Tally {
    done: Cell<u64>,
    failed: Cell<u64>,
    running: Cell<usize>,
}

impl Tally {
    fn count(&self, outcome: &io::Result<()>) {
        let counter = if outcome.is_ok() { &self.done } else { &self.failed };
        counter.set(counter.get() + 1);
    }
}

async fn closed_loop(server: SocketAddr, connector: TlsConnector, tally: Rc<Tally>) {
    loop {
        let outcome = visit(server, &connector).await;
        tally.count(&outcome);
        if outcome.is_err() {
            sleep(Duration::from_millis(10)).await; // a refused connection is no reason to try 100,000 times a second
        }
    }
}

async fn paced(server: SocketAddr, connector: TlsConnector, rate: u32, count: usize, tally: Rc<Tally>) {
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        ticks.tick().await;
        if tally.running.get() >= count {
            continue;
        }
        let (connector, tally) = (connector.clone(), Rc::clone(&tally));
        tally.running.set(tally.running.get() + 1);
        spawn_local(async move {
            tally.count(&visit(server, &connector).await);
            tally.running.set(tally.running.get() - 1);
        });
    }
}
