//! The report as JSON: every number with all its digits.

use serde_json::{Value, json};

use super::{Cell, Report, Section, Table};

/// The whole report as one object.
pub(crate) fn write(report: &Report) -> String {
    let about: serde_json::Map<String, Value> = report
        .about
        .iter()
        .map(|(name, value)| (name.to_string(), json!(value)))
        .collect();
    let sections: Vec<Value> = report.sections.iter().map(section).collect();
    let all = json!({ "about": about, "sections": sections });
    serde_json::to_string_pretty(&all).expect("strings and numbers are always valid JSON")
}

fn section(section: &Section) -> Value {
    let skipped: Vec<Value> = section
        .skipped
        .iter()
        .map(|(name, why)| json!({ "name": name, "why": why.to_string() }))
        .collect();
    let tables: Vec<Value> = section.tables.iter().map(table).collect();
    json!({ "name": section.name, "title": section.title, "tables": tables, "skipped": skipped })
}

fn table(table: &Table) -> Value {
    let rows = table.rows.iter().map(|row| {
        let cells: Vec<Value> = row.cells.iter().map(cell).collect();
        json!({ "name": row.name, "cells": cells })
    });
    json!({
        "name": table.name,
        "title": table.title,
        "unit": table.unit,
        "columns": table.columns,
        "rows": rows.collect::<Vec<_>>(),
    })
}

fn cell(cell: &Cell) -> Value {
    match cell {
        Cell::Rounds(s) => json!({
            "median": s.median,
            "min": s.min,
            "ratio": s.ratio,
            "ratio_quartiles": [s.ratio_quartiles.0, s.ratio_quartiles.1],
        }),
        Cell::Number(number) => json!(number),
        Cell::Text(text) => json!(text),
    }
}
