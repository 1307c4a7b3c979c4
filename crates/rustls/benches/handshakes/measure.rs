//! One cell of the table: a new server, a probe, clients, a window of time.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::https::Mode;
use crate::machine::Usage;

/// Which cells to measure, and for how long each.
pub(crate) struct Plan {
    latencies: &'static [u64],
    outstanding: &'static [usize],
    pub(crate) window: Duration,
    /// How often a job is measured beside `block_in_place`, and for how long each.
    rounds: usize,
    round: Duration,
}

impl Plan {
    pub(crate) fn whole() -> Plan {
        Plan {
            latencies: &[0, 5, 50, 1000],
            outstanding: &[20, 100, 400, 900, 2000],
            window: Duration::from_secs(2),
            rounds: 5,
            round: Duration::from_secs(1),
        }
    }

    pub(crate) fn quick() -> Plan {
        Plan {
            latencies: &[5],
            outstanding: &[20, 100],
            window: Duration::from_millis(500),
            rounds: 1,
            round: Duration::from_millis(500),
        }
    }

    pub(crate) fn cells(&self) -> impl Iterator<Item = (Duration, usize)> {
        let latencies = self.latencies.iter().map(|&latency| Duration::from_millis(latency));
        latencies.flat_map(|latency| self.outstanding.iter().map(move |&count| (latency, count)))
    }
}

/// The figures of one cell.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) mode: Mode,
    pub(crate) latency: Duration,
    pub(crate) outstanding: usize,
    pub(crate) handshakes_a_second: f64,
    pub(crate) failures: u64,
    pub(crate) probe_p50: Duration,
    pub(crate) probe_p99: Duration,
    /// The share of a core that the server used.
    pub(crate) cpu: f64,
    pub(crate) threads: u64,
    pub(crate) resident_kib: u64,
    pub(crate) virtual_kib: u64,
    /// The server's memory before its first client.
    pub(crate) idle_resident_kib: u64,
}

/// The job mode beside `block_in_place` in one cell: the ratios of the rounds, the least first.
pub(crate) struct Beside {
    pub(crate) latency: Duration,
    pub(crate) outstanding: usize,
    /// Of the handshakes a second.
    pub(crate) handshakes: Vec<f64>,
    /// Of the handshakes for each second of the server's processor time.
    pub(crate) handshakes_a_core: Vec<f64>,
}

/// Measures the two modes in turns. Every other round begins with the other mode.
pub(crate) fn beside(plan: &Plan, latency: Duration, outstanding: usize) -> Result<Beside, Box<dyn Error>> {
    let (mut handshakes, mut handshakes_a_core) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        let measure = |mode| cell(plan.round, mode, latency, outstanding, 0);
        let (job, peer) = if round % 2 == 0 {
            let job = measure(Mode::Job)?;
            (job, measure(Mode::BlockInPlace)?)
        } else {
            let peer = measure(Mode::BlockInPlace)?;
            (measure(Mode::Job)?, peer)
        };
        let ratio = job.handshakes_a_second / peer.handshakes_a_second;
        handshakes.push(ratio);
        handshakes_a_core.push(ratio * peer.cpu / job.cpu);
    }
    handshakes.sort_by(f64::total_cmp);
    handshakes_a_core.sort_by(f64::total_cmp);
    Ok(Beside {
        latency,
        outstanding,
        handshakes,
        handshakes_a_core,
    })
}

/// Measures a cell: a closed loop if `rate` is 0, and the probe alone if `outstanding` is 0.
pub(crate) fn cell(
    window: Duration,
    mode: Mode,
    latency: Duration,
    outstanding: usize,
    rate: u32,
) -> Result<Cell, Box<dyn Error>> {
    // Long enough that the closed loop is in its steady state when the window begins.
    let warm_up = Duration::from_millis(500) + 2 * latency;
    let window = window + latency;
    let milliseconds = |duration: Duration| duration.as_millis().to_string();

    let mut server = Role::start(&["serve", mode.name(), &milliseconds(latency)])?;
    let address = server.line()?;
    let mut probe = Role::start(&["probe", &address])?;
    probe.line()?;
    let idle = Usage::at(server.id())?;
    let counts = [
        outstanding.to_string(),
        rate.to_string(),
        milliseconds(warm_up),
        milliseconds(window),
    ];
    let mut clients = Role::start(&["clients", &address, &counts[0], &counts[1], &counts[2], &counts[3]])?;

    clients.line()?;
    probe.say("begin")?;
    let before = server.clocks()?;
    let [done, failures, length] = numbers(&clients.line()?)?;
    let [time, processor_time] = server.clocks()?;
    let after = Usage::at(server.id())?;
    probe.say("end")?;
    let [p50, p99] = numbers(&probe.line()?)?;
    Ok(Cell {
        mode,
        latency,
        outstanding,
        handshakes_a_second: done as f64 / Duration::from_micros(length).as_secs_f64(),
        failures,
        probe_p50: Duration::from_micros(p50),
        probe_p99: Duration::from_micros(p99),
        cpu: (processor_time - before[1]) as f64 / (time - before[0]) as f64,
        threads: after.threads,
        resident_kib: after.resident_kib,
        virtual_kib: after.virtual_kib,
        idle_resident_kib: idle.resident_kib,
    })
}

/// Measures the probe alone, then each mode with as many handshakes a second as use 70% of the core in the job mode.
pub(crate) fn at_seventy_percent(plan: &Plan, cells: &[Cell]) -> Result<Vec<Cell>, Box<dyn Error>> {
    let latency = Duration::from_millis(5);
    let full = cells
        .iter()
        .filter(|cell| cell.mode == Mode::Job && cell.latency == latency && cell.cpu > 0.0);
    // The cell whose handshakes a second, for each whole core, are used: the one whose core was busiest.
    let busiest = full
        .max_by(|a, b| a.cpu.total_cmp(&b.cpu))
        .ok_or("the job mode was not measured")?;
    let rate = (0.7 * busiest.handshakes_a_second / busiest.cpu) as u32;
    let idle = cell(plan.window, Mode::Job, latency, 0, 0)?;
    let loaded = Mode::ALL
        .into_iter()
        .map(|mode| cell(plan.window, mode, latency, 400, rate));
    std::iter::once(Ok(idle)).chain(loaded).collect()
}

/// This program in another role, in a process of its own. Dropping this ends the process.
struct Role {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Role {
    fn start(arguments: &[&str]) -> Result<Role, Box<dyn Error>> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut process = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = process.stdin.take().ok_or("no input")?;
        let output = BufReader::new(process.stdout.take().ok_or("no output")?);
        Ok(Role { process, input, output })
    }

    fn id(&self) -> u32 {
        self.process.id()
    }

    fn say(&mut self, line: &str) -> Result<(), Box<dyn Error>> {
        Ok(writeln!(self.input, "{line}")?)
    }

    /// The time of a server, and how much of it the server has run.
    fn clocks(&mut self) -> Result<[u64; 2], Box<dyn Error>> {
        self.say("clocks")?;
        numbers(&self.line()?)
    }

    fn line(&mut self) -> Result<String, Box<dyn Error>> {
        let mut line = String::new();
        match self.output.read_line(&mut line)? {
            0 => Err("a process of the benchmark ended early".into()),
            _ => Ok(line.trim().to_owned()),
        }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn numbers<const COUNT: usize>(line: &str) -> Result<[u64; COUNT], Box<dyn Error>> {
    let numbers: Vec<u64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    numbers
        .try_into()
        .map_err(|_| format!("{COUNT} numbers were expected: {line}").into())
}
