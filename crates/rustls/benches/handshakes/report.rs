//! The table and the drawing.

use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use plotters::prelude::*;

use crate::https::Mode;
use crate::measure::{Beside, Cell};

pub(crate) const HEADER: &str = "\
| signer ms | outstanding | mode           | handshakes/s | failed | probe p50 ms | probe p99 ms | cpu % | threads | resident MiB | virtual MiB | KiB/outstanding |
|----------:|------------:|----------------|-------------:|-------:|-------------:|-------------:|------:|--------:|-------------:|------------:|----------------:|";

pub(crate) fn row(cell: &Cell) -> String {
    let mib = |kib: u64| kib as f64 / 1024.0;
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    let grown = cell.resident_kib.saturating_sub(cell.idle_resident_kib) as f64;
    format!(
        "| {:>9} | {:>11} | {:<14} | {:>12.0} | {:>6} | {:>12.2} | {:>12.2} \
         | {:>5.0} | {:>7} | {:>12.1} | {:>11.0} | {:>15.1} |",
        cell.latency.as_millis(),
        cell.outstanding,
        cell.mode.name(),
        cell.handshakes_a_second,
        cell.failures,
        ms(cell.probe_p50),
        ms(cell.probe_p99),
        cell.cpu * 100.0,
        cell.threads,
        mib(cell.resident_kib),
        mib(cell.virtual_kib),
        grown / cell.outstanding.max(1) as f64,
    )
}

/// Writes `handshakes.md` and `handshakes.svg` to the target directory, and prints what was not printed before.
pub(crate) fn write(cells: &[Cell], beside: &[Beside], paced: &[Cell]) -> Result<(), Box<dyn Error>> {
    let mut table = format!("{HEADER}\n");
    for cell in cells {
        writeln!(table, "{}", row(cell))?;
    }
    let mut extra = shares(beside);
    extra += &format!("\nAt 70% of a core (400 outstanding at most; the first row: the probe alone):\n\n{HEADER}\n");
    for cell in paced {
        writeln!(extra, "{}", row(cell))?;
    }
    extra += &format!("\n{}", goals(cells, beside, paced).ok_or("nothing was measured")?);
    println!("{extra}");
    let directory = target()?;
    fs::write(directory.join("handshakes.md"), table + &extra)?;
    draw(cells, &directory.join("handshakes.svg"))?;
    println!("{}", directory.join("handshakes.svg").display());
    Ok(())
}

/// The job mode beside `block_in_place`, round by round.
fn shares(beside: &[Beside]) -> String {
    let mut table = String::from(
        "\nA job's handshakes as a share of `block_in_place`'s, in turns: the median of the rounds, the least and the \
         most. A core-second is a second of the server's processor time.\n\n\
         | signer ms | outstanding | a second, % | least to most | a core-second, % | least to most |\n\
         |----------:|------------:|------------:|--------------:|-----------------:|--------------:|\n",
    );
    let spread = |ratios: &[f64]| match ratios {
        [first, .., last] => format!("{:.0} to {:.0}", 100.0 * first, 100.0 * last),
        _ => "one round".to_owned(),
    };
    for cell in beside {
        table += &format!(
            "| {:>9} | {:>11} | {:>11.0} | {:>13} | {:>16.0} | {:>13} |\n",
            cell.latency.as_millis(),
            cell.outstanding,
            100.0 * median(&cell.handshakes),
            spread(&cell.handshakes),
            100.0 * median(&cell.handshakes_a_core),
            spread(&cell.handshakes_a_core),
        );
    }
    table
}

/// Of what is in order.
fn median(ratios: &[f64]) -> f64 {
    ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The figures that the goals are about.
fn goals(cells: &[Cell], beside: &[Beside], paced: &[Cell]) -> Option<String> {
    let jobs = || cells.iter().filter(|cell| cell.mode == Mode::Job);
    let medians = beside.iter().map(|cell| median(&cell.handshakes));
    let least = medians.fold(f64::INFINITY, f64::min);
    let threads = jobs().map(|cell| cell.threads);
    let (few, many) = (threads.clone().min()?, threads.max()?);
    // With the longest latency all handshakes wait at the same time.
    let longest = jobs().map(|cell| cell.latency).max()?;
    let waiting = || jobs().filter(|cell| cell.latency == longest);
    let (small, large) = (
        waiting().min_by_key(|cell| cell.outstanding)?,
        waiting().max_by_key(|cell| cell.outstanding)?,
    );
    let each = |kib: u64, count: usize| kib as f64 / count.max(1) as f64;
    let whole = each(large.resident_kib - large.idle_resident_kib, large.outstanding);
    let more = each(
        large.resident_kib - small.resident_kib,
        large.outstanding - small.outstanding,
    );
    let idle = paced.first()?;
    let busy = paced.iter().skip(1).find(|cell| cell.mode == Mode::Job)?;
    let times = busy.probe_p99.as_secs_f64() / idle.probe_p99.as_secs_f64();
    let (count, outstanding) = (large.handshakes_a_second, large.outstanding);
    Some(format!(
        "\
Of the job mode:

- threads: {few} to {many};
- with {outstanding} outstanding and a signer of {} ms: {count:.0} handshakes a second of {:.0} possible;
- handshakes a second, as a share of block_in_place's, median of the rounds: {:.0}% in the worst cell;
- resident memory for each of these {outstanding}: {whole:.1} KiB, and {more:.1} KiB for each one above {};
- the probe's p99 at {:.0}% of a core: {times:.2} times its p99 alone.
",
        longest.as_millis(),
        outstanding as f64 / longest.as_secs_f64(),
        100.0 * least,
        small.outstanding,
        100.0 * busy.cpu,
    ))
}

/// The directory `target`, where this program was built.
fn target() -> Result<PathBuf, Box<dyn Error>> {
    let program = std::env::current_exe()?;
    Ok(program
        .ancestors()
        .nth(3)
        .ok_or("the benchmark is not in a target directory")?
        .to_owned())
}

/// Draws a row of charts for the handshakes a second and one for the probe, with a chart for each latency and a line
/// for each mode.
fn draw(cells: &[Cell], path: &std::path::Path) -> Result<(), Box<dyn Error>> {
    let mut latencies: Vec<_> = cells.iter().map(|cell| cell.latency).collect();
    latencies.dedup();
    let area = SVGBackend::new(path, (340 * latencies.len() as u32, 620)).into_drawing_area();
    area.fill(&WHITE)?;
    let charts = area.split_evenly((2, latencies.len()));
    for (at, latency) in latencies.iter().enumerate() {
        let here: Vec<&Cell> = cells.iter().filter(|cell| cell.latency == *latency).collect();
        let title = format!("signer {} ms", latency.as_millis());
        chart(&charts[at], &format!("{title}: handshakes/s"), &here, |cell| {
            cell.handshakes_a_second
        })?;
        let below = &charts[latencies.len() + at];
        chart(below, &format!("{title}: probe p99, ms"), &here, |cell| {
            cell.probe_p99.as_secs_f64() * 1e3
        })?;
    }
    Ok(area.present()?)
}

fn chart(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    title: &str,
    cells: &[&Cell],
    value: impl Fn(&Cell) -> f64,
) -> Result<(), Box<dyn Error>> {
    let most = cells.iter().map(|cell| cell.outstanding).max().unwrap_or(1);
    let values = || cells.iter().map(|cell| value(cell).max(0.1));
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 15))
        .margin(8)
        .x_label_area_size(30)
        .y_label_area_size(48)
        .build_cartesian_2d(0..most, (low / 2.0..high * 2.0).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("outstanding")
        .x_labels(5)
        .light_line_style(WHITE)
        .draw()?;
    for (mode, color) in Mode::ALL.into_iter().zip([RED, BLUE, MAGENTA, BLACK]) {
        let line = || {
            cells
                .iter()
                .filter(|cell| cell.mode == mode)
                .map(|cell| (cell.outstanding, value(cell).max(0.1)))
        };
        let drawn = chart.draw_series(LineSeries::new(line(), color.stroke_width(2)))?;
        drawn
            .label(mode.name())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 12, y)], color));
        chart.draw_series(PointSeries::of_element(
            line(),
            3,
            color.filled(),
            &|at, size, style| Circle::new(at, size, style),
        ))?;
    }
    let labels = &mut chart.configure_series_labels();
    labels
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK);
    Ok(labels.draw()?)
}
