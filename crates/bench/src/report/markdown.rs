//! The report as Markdown.

use std::fmt::Write;

use super::{Cell, Chart, Report, Section, Table, digits};

/// The whole report. Its links look for the SVG files in `plots`.
pub(crate) fn write(report: &Report, plots: &str) -> String {
    let mut out = String::from("# What a switch costs\n\n");
    for (name, value) in &report.about {
        let _ = writeln!(out, "- {name}: {value}");
    }
    for section in &report.sections {
        write_section(&mut out, section, plots);
    }
    out
}

/// Writes one section, which is also printed while a run goes on.
pub(crate) fn write_section(out: &mut String, section: &Section, plots: &str) {
    let _ = write!(out, "\n## {}\n\n{}\n", section.title, section.text);
    for table in &section.tables {
        write_table(out, table);
        if table.chart != Chart::None && !plots.is_empty() {
            let _ = writeln!(out, "\n![{}]({plots}/{}-{}.svg)", table.title, section.name, table.name);
        }
    }
    for (name, why) in &section.skipped {
        let _ = writeln!(out, "\nSkipped: **{name}**: {why}.");
    }
}

fn write_table(out: &mut String, table: &Table) {
    let _ = writeln!(out, "\n**{}** ({})\n", table.title, table.unit);
    let single = table.columns.len() == 1 && table.rows.iter().any(|row| matches!(row.cells[0], Cell::Rounds(_)));
    let (columns, rows) = if single { spread(table) } else { compact(table) };
    let widths: Vec<usize> = (0..columns.len())
        .map(|at| {
            rows.iter()
                .chain([&columns])
                .map(|row| row[at].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    write_row(out, &columns, &widths);
    let rule = widths.iter().enumerate().map(|(at, width)| match at {
        0 => format!(":{}", "-".repeat(width.saturating_sub(1).max(2))),
        _ => format!("{}:", "-".repeat(width.saturating_sub(1).max(2))),
    });
    let _ = writeln!(out, "| {} |", rule.collect::<Vec<_>>().join(" | "));
    for row in &rows {
        write_row(out, row, &widths);
    }
}

fn write_row(out: &mut String, cells: &[String], widths: &[usize]) {
    let padded = cells
        .iter()
        .zip(widths)
        .enumerate()
        .map(|(at, (cell, width))| match at {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
    let _ = writeln!(out, "| {} |", padded.collect::<Vec<_>>().join(" | "));
}

/// Makes a column for each figure of a table whose one column is from rounds.
fn spread(table: &Table) -> (Vec<String>, Vec<Vec<String>>) {
    let columns = ["", "median", "minimum", "ratio", "middle half of ratios"]
        .map(String::from)
        .to_vec();
    let rows = table.rows.iter().map(|row| match &row.cells[0] {
        Cell::Rounds(s) => vec![
            row.name.clone(),
            digits(s.median),
            digits(s.min),
            format!("{:.2}", s.ratio),
            format!("{:.2} to {:.2}", s.ratio_quartiles.0, s.ratio_quartiles.1),
        ],
        other => vec![
            row.name.clone(),
            short(other),
            String::new(),
            String::new(),
            String::new(),
        ],
    });
    (columns, rows.collect())
}

fn compact(table: &Table) -> (Vec<String>, Vec<Vec<String>>) {
    let columns = [String::new()]
        .into_iter()
        .chain(table.columns.iter().cloned())
        .collect();
    let row = |row: &super::Row| {
        [row.name.clone()]
            .into_iter()
            .chain(row.cells.iter().map(short))
            .collect()
    };
    (columns, table.rows.iter().map(row).collect())
}

fn short(cell: &Cell) -> String {
    match cell {
        Cell::Rounds(s) => format!("{} ({:.2}x)", digits(s.median), s.ratio),
        Cell::Number(number) => digits(*number),
        Cell::Text(text) => text.clone(),
    }
}
