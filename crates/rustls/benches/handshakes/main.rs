//! Handshakes with a slow private key: four ways to wait for it, interleaved in one run.
//!
//! ```text
//!   core 0   server: hyper over TLS, one way to wait; a new process for each cell
//!   core 1   clients: N in a closed loop, each makes a full handshake and one request, again and again
//!   core 1   probe: one connection that stays open, with a request every 2 ms: how long other connections wait
//!   (this)   reads the server's threads, memory and processor time from /proc at the end of the window
//! ```
//!
//! Each cell is measured in every mode, one after the other, so that other load on the machine affects all modes. The
//! signer waits for its latency and then makes a real ECDSA signature. In three modes it waits in a blocking sleep, and
//! in the fourth the job waits for a timerfd.
//!
//! The clients do less than the server: they check no signature. So it is the server that runs out of processor time.
//!
//! One window of two seconds differs from the next by a tenth on a machine that is called idle. So what a job does
//! beside `block_in_place` is measured again, in rounds of a shorter window for each of the two, and the median of the
//! rounds' ratios is what the goal is about. A window ends when each client has been served equally often: the clients
//! come in waves (`clients.rs`).
//!
//! ```text
//! cargo bench -p asyncjob-rustls --bench handshakes                 the whole table, about 15 minutes
//! cargo bench -p asyncjob-rustls --bench handshakes -- --quick      two of its cells, half a minute
//! cargo bench -p asyncjob-rustls --bench handshakes -- 5 2000       a job beside `block_in_place` in one cell
//! ```
//!
//! The first two write `target/handshakes.md` and `target/handshakes.svg`.

#[path = "../../examples/support/client.rs"]
#[allow(dead_code, reason = "the examples use the rest")]
mod client;
mod clients;
#[path = "../../examples/support/https.rs"]
mod https;
mod machine;
mod measure;
mod probe;
mod report;
mod server;

use std::error::Error;
use std::time::Duration;

use measure::{Beside, Cell, Plan};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Other benchmarks take `--test` for a run that only shows that they work.
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
        [latency, outstanding, "--bench"] => one_cell(Duration::from_millis(latency.parse()?), outstanding.parse()?),
        _ => Err("arguments: none, --quick, or the milliseconds of the signer and a number of clients".into()),
    }
}

/// Prints the rounds of one cell, the least ratio first.
fn one_cell(latency: Duration, outstanding: usize) -> Result<(), Box<dyn Error>> {
    machine::raise_fd_limit()?;
    let beside = measure::beside(&Plan::whole(), latency, outstanding)?;
    println!("a job's handshakes as a share of block_in_place's, in turns:");
    println!("a second:      {:.2?}", beside.handshakes);
    println!("a core-second: {:.2?}", beside.handshakes_a_core);
    Ok(())
}

fn run(plan: &Plan) -> Result<(), Box<dyn Error>> {
    machine::raise_fd_limit()?;
    let mut cells: Vec<Cell> = Vec::new();
    println!("{}", report::HEADER);
    for (latency, outstanding) in plan.cells() {
        for mode in https::Mode::ALL {
            let cell = measure::cell(plan.window, mode, latency, outstanding, 0)?;
            println!("{}", report::row(&cell));
            cells.push(cell);
        }
    }
    let beside = plan
        .cells()
        .map(|(latency, outstanding)| measure::beside(plan, latency, outstanding))
        .collect::<Result<Vec<Beside>, _>>()?;
    let paced = measure::at_seventy_percent(plan, &cells)?;
    report::write(&cells, &beside, &paced)
}
