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

use crate::client::{connector, request};
use crate::machine;

/// Keeps `count` clients busy until the input of this process ends. With a `rate` above 0, begins so many handshakes a
/// second instead, at most `count` at a time. Prints a line when the window begins, and when it ends the handshakes and
/// failures in it.
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
        let connector = connector();
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
        sleep(window).await;
        println!("{} {}", counts.done.get(), counts.failed.get());
        std::future::pending::<()>().await;
    });
    Ok(())
}

#[derive(Default)]
struct Counts {
    done: Cell<u64>,
    failed: Cell<u64>,
    running: Cell<usize>,
}

impl Counts {
    fn count(&self, outcome: &io::Result<()>) {
        let counter = if outcome.is_ok() { &self.done } else { &self.failed };
        counter.set(counter.get() + 1);
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
