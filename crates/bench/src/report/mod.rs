//! The figures of a run, as sections of tables. `markdown`, `json` and `plot` write the same ones.

pub(crate) mod json;
pub(crate) mod markdown;
pub(crate) mod plot;

use crate::measure::Summary;
use crate::peer::Absent;
use crate::setup::Measured;

/// A whole run.
pub(crate) struct Report {
    /// Facts about the command, the machine and the time: pairs of a name and a value.
    pub(crate) about: Vec<(&'static str, String)>,
    pub(crate) sections: Vec<Section>,
}

/// One part of the run.
pub(crate) struct Section {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// What its numbers mean, and what they do not mean.
    pub(crate) text: &'static str,
    pub(crate) tables: Vec<Table>,
    pub(crate) skipped: Vec<(String, Absent)>,
}

/// A table of figures.
pub(crate) struct Table {
    /// A short name, part of file names.
    pub(crate) name: &'static str,
    pub(crate) title: String,
    pub(crate) unit: &'static str,
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Row>,
    pub(crate) chart: Chart,
}

/// One peer, or one size.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) cells: Vec<Cell>,
}

/// The figure of a row in a column.
#[derive(Clone)]
pub(crate) enum Cell {
    /// A figure from rounds, with a ratio to the floor.
    Rounds(Summary),
    /// A plain number in the table's unit.
    Number(f64),
    /// Why there is no number.
    Text(String),
}

/// How a table is drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chart {
    /// A group of bars for each row, on a logarithmic axis.
    Bars,
    /// A line for each column, over rows whose names are numbers, both axes logarithmic.
    Lines,
    /// Not at all.
    None,
}

impl Cell {
    /// The number that is drawn.
    pub(crate) fn value(&self) -> Option<f64> {
        match self {
            Cell::Rounds(summary) => Some(summary.median),
            Cell::Number(number) => Some(*number),
            Cell::Text(_) => None,
        }
    }
}

impl Table {
    /// A table with a column for each group, and a row for each name in any of them.
    pub(crate) fn from_groups(
        name: &'static str,
        title: &str,
        groups: Vec<(String, Measured)>,
    ) -> (Table, Vec<(String, Absent)>) {
        let mut rows: Vec<Row> = Vec::new();
        let mut skipped: Vec<(String, Absent)> = Vec::new();
        let columns: Vec<String> = groups.iter().map(|(column, _)| column.clone()).collect();
        for (at, (_, measured)) in groups.into_iter().enumerate() {
            for (name, summary) in measured.results {
                row(&mut rows, &name, columns.len()).cells[at] = Cell::Rounds(summary);
            }
            skipped.extend(measured.skipped);
        }
        skipped.dedup_by(|a, b| a.0 == b.0);
        let table = Table {
            name,
            title: title.into(),
            unit: "ns",
            columns,
            rows,
            chart: Chart::Bars,
        };
        (table, skipped)
    }
}

/// The row of that name, made if there is none.
fn row<'a>(rows: &'a mut Vec<Row>, name: &str, columns: usize) -> &'a mut Row {
    let at = rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
        rows.push(Row {
            name: name.into(),
            cells: vec![Cell::Text("-".into()); columns],
        });
        rows.len() - 1
    });
    &mut rows[at]
}

/// A number with three digits, or more if it is large.
pub(crate) fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 100_000.0 => grouped(value),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v == v.trunc() => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}

fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_show_three_digits() {
        let shown = [0.5, 3.0, 3.333, 12.34, 123.4, 1234.5, 1234567.0].map(digits);
        assert_eq!(shown, ["0.50", "3", "3.33", "12.3", "123", "1234", "1,234,567"]);
    }
}
