//! Handshakes with a private key that takes its time: four ways to wait for it, beside each other in one run.
//!
//! ```text
//!   core 0   server: hyper over TLS, one way to wait     fresh for each cell
//!   core 1   clients: N in a closed loop, each a full handshake and one request, again and again
//!   core 1   probe: one connection that stays, a request every 2 ms; what it waits is what everybody else waits
//!   (this)   takes the server's threads, memory and processor time from /proc at the end of the window
//! ```
//!
//! The modes take turns within each cell, so that what else the machine does hits them alike. The signer waits for its latency
//! and then makes a real ECDSA signature: a blocking sleep in three modes, a timerfd that the job waits for in the fourth.
//!
//! ```text
//! cargo bench -p asyncjob-rustls --bench handshakes                 the whole table, about 8 minutes
//! cargo bench -p asyncjob-rustls --bench handshakes -- --quick      a corner of it, half a minute
//! ```
//!
//! Both write `target/handshakes.md` and `target/handshakes.svg`.

mod clients;
#[path = "../../examples/support/https.rs"]
mod https;
mod machine;
mod measure;
mod probe;
mod report;
mod server;
#[path = "../../examples/support/visitors.rs"]
#[allow(dead_code, reason = "the examples use the rest")]
mod visitors;

use std::error::Error;
use std::time::Duration;

use measure::{Cell, Plan};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `--test` is what other benchmarks take to show that they run.
    let (quick, arguments): (Vec<&str>, Vec<&str>) = arguments
        .iter()
        .map(String::as_str)
        .partition(|&argument| matches!(argument, "--quick" | "--test"));
    let is_quick = !quick.is_empty();
    match arguments[..] {
        ["serve", mode, latency] => server::serve(mode.parse()?, Duration::from_millis(latency.parse()?)),
        ["clients", address, count, rate, warm_up, window] => clients::run(
            address.parse()?,
            count.parse()?,
            rate.parse()?,
            Duration::from_millis(warm_up.parse()?),
            Duration::from_millis(window.parse()?),
        ),
        ["probe", address] => probe::run(address.parse()?),
        ["--bench"] if !is_quick => run(&Plan::whole()),
        // Without `--bench` this is `cargo test --all-targets`.
        ["--bench"] | [] => run(&Plan::quick()),
        _ => Err("arguments: none, or --quick".into()),
    }
}

fn run(plan: &Plan) -> Result<(), Box<dyn Error>> {
    machine::raise_fd_limit()?;
    let mut cells: Vec<Cell> = Vec::new();
    println!("{}", report::HEADER);
    for (latency, outstanding) in plan.cells() {
        for mode in https::Mode::ALL {
            let cell = measure::cell(plan, mode, latency, outstanding, 0)?;
            println!("{}", report::row(&cell));
            cells.push(cell);
        }
    }
    let paced = measure::at_seventy_percent(plan, &cells)?;
    report::write(&cells, &paced)
}
