//! The report as drawings: one SVG file for each table that has a chart.

use std::error::Error;
use std::path::Path;

use plotters::coord::ranged1d::Ranged;
use plotters::prelude::*;

use super::{Chart, Report, Table, digits};

const WIDTH: u32 = 960;
const COLOURS: [RGBColor; 10] = [
    RGBColor(31, 119, 180),
    RGBColor(255, 127, 14),
    RGBColor(44, 160, 44),
    RGBColor(214, 39, 40),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(127, 127, 127),
    RGBColor(23, 190, 207),
    RGBColor(227, 119, 194),
    RGBColor(188, 189, 34),
];

/// Writes every chart into `dir`.
pub(crate) fn write(report: &Report, dir: &Path) -> Result<(), Box<dyn Error>> {
    for section in &report.sections {
        for table in &section.tables {
            let path = dir.join(format!("{}-{}.svg", section.name, table.name));
            match table.chart {
                Chart::Bars => bars(table, &path)?,
                Chart::Lines => lines(table, &path)?,
                Chart::None => {}
            }
        }
    }
    Ok(())
}

/// The range of a table's values, from a power of ten below the smallest to some way above the largest.
fn range(table: &Table) -> Option<(f64, f64)> {
    let values = table
        .rows
        .iter()
        .flat_map(|row| row.cells.iter().filter_map(|cell| cell.value()))
        .filter(|v| *v > 0.0);
    let (low, high) = values.fold((f64::MAX, 0.0f64), |(low, high), v| (low.min(v), high.max(v)));
    (high > 0.0).then(|| (10f64.powf(low.log10().floor()), high * 8.0))
}

/// A row of bars for each peer, one bar for each column, the number at its end.
fn bars(table: &Table, path: &Path) -> Result<(), Box<dyn Error>> {
    let Some((low, high)) = range(table) else {
        return Ok(());
    };
    let lanes = table.columns.len() + 1;
    let height = table.rows.len() * lanes;
    let root = SVGBackend::new(path, (WIDTH, 110 + height as u32 * 15)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(
            format!("{} ({}, logarithmic)", table.title, table.unit),
            ("sans-serif", 18),
        )
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(270)
        .build_cartesian_2d((low..high).log_scale(), 0f64..height as f64)?;
    chart
        .configure_mesh()
        .disable_y_axis()
        .disable_y_mesh()
        .x_label_formatter(&|v| digits(*v))
        .draw()?;
    for (at, row) in table.rows.iter().enumerate() {
        let top = (height - at * lanes) as f64;
        let middle = top - lanes as f64 / 2.0;
        let (x, y) = chart.plotting_area().map_coordinate(&(low, middle));
        let style = ("sans-serif", 14).into_font().color(&BLACK);
        let anchor = plotters::style::text_anchor::Pos::new(
            plotters::style::text_anchor::HPos::Right,
            plotters::style::text_anchor::VPos::Center,
        );
        root.draw(&Text::new(row.name.clone(), (x - 8, y), style.pos(anchor)))?;
        for (lane, cell) in row.cells.iter().enumerate() {
            let Some(value) = cell.value().filter(|v| *v > 0.0) else {
                continue;
            };
            let (upper, lower) = (top - 0.5 - lane as f64, top - 1.4 - lane as f64);
            let colour = COLOURS[lane % COLOURS.len()];
            chart.draw_series([Rectangle::new([(low, lower), (value, upper)], colour.filled())])?;
            let label = Text::new(format!(" {}", digits(value)), (value, upper), ("sans-serif", 12));
            chart.draw_series([label])?;
        }
    }
    if table.columns.len() > 1 {
        bar_legend(table, &mut chart)?;
    }
    root.present()?;
    Ok(())
}

fn bar_legend<'a, X, Y>(
    table: &Table,
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
) -> Result<(), Box<dyn Error>>
where
    X: Ranged<ValueType = f64> + 'static,
    Y: Ranged<ValueType = f64> + 'static,
{
    for (lane, column) in table.columns.iter().enumerate() {
        let colour = COLOURS[lane % COLOURS.len()];
        let nothing = std::iter::empty::<Rectangle<(f64, f64)>>();
        chart
            .draw_series(nothing)?
            .label(column.clone())
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour.filled()));
    }
    legend(chart)
}

/// A line for each column, over the numbers that name the rows.
fn lines(table: &Table, path: &Path) -> Result<(), Box<dyn Error>> {
    let xs: Vec<f64> = table
        .rows
        .iter()
        .filter_map(|row| row.name.replace(',', "").parse().ok())
        .collect();
    let Some((low, high)) = range(table) else {
        return Ok(());
    };
    let (Some(first), Some(last)) = (xs.first(), xs.last()) else {
        return Ok(());
    };
    let root = SVGBackend::new(path, (WIDTH, 480)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(table.title.clone(), ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(70)
        .build_cartesian_2d((*first..*last * 1.3).log_scale(), (low..high).log_scale())?;
    chart
        .configure_mesh()
        .x_label_formatter(&|v| digits(*v))
        .y_label_formatter(&|v| digits(*v))
        .y_desc(table.unit)
        .draw()?;
    for (at, column) in table.columns.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let points: Vec<(f64, f64)> = xs
            .iter()
            .zip(&table.rows)
            .filter_map(|(x, row)| Some((*x, row.cells[at].value()?)))
            .collect();
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(column.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    legend(&mut chart)?;
    root.present()?;
    Ok(())
}

fn legend<'a, X, Y>(chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>) -> Result<(), Box<dyn Error>>
where
    X: Ranged<ValueType = f64> + 'static,
    Y: Ranged<ValueType = f64> + 'static,
{
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .position(SeriesLabelPosition::UpperRight)
        .draw()?;
    Ok(())
}
