//! The figures as a picture: mean response and p99 slowdown as bars, and how slowdowns are spread.

use crate::{Error, Figures};
use plotters::coord::Shift;
use plotters::coord::combinators::IntoLogRange;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::fmt::Display;

/// Pixels, across and down.
const SIZE: (u32, u32) = (1200, 900);
/// Of them, the title's and the bars' part.
const TITLE_HEIGHT: u32 = 76;
const BARS_HEIGHT: u32 = 350;
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(0x22, 0x26, 0x2c);
const FAINT: RGBColor = RGBColor(0x6b, 0x72, 0x80);
const GRID: RGBColor = RGBColor(0xe6, 0xe8, 0xeb);

/// What the picture says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caption {
    /// In large letters.
    pub title: String,
    /// Under it.
    pub settings: String,
}

/// Draws the picture as SVG. Bars of response begin about the mean size, which no mean response can be under.
///
/// # Errors
/// No figures, or figures that no axis can show.
pub fn svg(caption: &Caption, mean_size: f64, figures: &[Figures]) -> Result<String, Error> {
    if figures.is_empty() {
        return Err(Error::Plot("there are no figures".into()));
    }
    let mut drawn = String::new();
    {
        let root = SVGBackend::with_string(&mut drawn, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        let (title, below) = root.split_vertically(TITLE_HEIGHT);
        let (bars, curves) = below.split_vertically(BARS_HEIGHT);
        let (left, right) = bars.split_horizontally(SIZE.0 / 2);
        head(&title, caption)?;
        bar_panel(&left, "Mean response, s (log scale)", base(mean_size), figures, |of| of.mean_response)?;
        bar_panel(&right, "p99 slowdown (log scale)", 1.0, figures, |of| of.p99_slowdown)?;
        curve_panel(&curves, figures)?;
        root.present().map_err(failed)?;
    }
    Ok(drawn)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn head(area: &Area<'_>, caption: &Caption) -> Result<(), Error> {
    let style = |size: i32, color: &RGBColor| (FONT, size).into_font().color(color);
    area.draw(&Text::new(caption.title.clone(), (24, 16), style(26, &INK))).map_err(failed)?;
    area.draw(&Text::new(caption.settings.clone(), (24, 50), style(15, &FAINT))).map_err(failed)
}

/// One bar a policy on a logarithmic scale, with its value behind it.
fn bar_panel(
    area: &Area<'_>,
    title: &str,
    least: f64,
    figures: &[Figures],
    of: fn(&Figures) -> f64,
) -> Result<(), Error> {
    let most = figures.iter().map(of).fold(least, f64::max);
    // Room behind the longest bar for its value. Both scales are logarithmic.
    let end = most * (most / least).powf(0.16).max(1.15);
    let rows = figures.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 17).into_font().color(&INK))
        .margin_left(16)
        .margin_right(24)
        .margin_top(6)
        .y_label_area_size(78)
        .x_label_area_size(30)
        .build_cartesian_2d((least..end).log_scale(), 0.0..rows)
        .map_err(failed)?;
    for tick in ticks(least, end) {
        chart.draw_series(LineSeries::new([(tick, 0.0), (tick, rows)], GRID)).map_err(failed)?;
        let style = (FONT, 13).into_font().color(&FAINT).pos(Pos::new(HPos::Center, VPos::Top));
        let label = EmptyElement::at((tick, 0.0)) + Text::new(number(tick), (0, 6), style);
        chart.draw_series([label]).map_err(failed)?;
    }
    for (row, figures) in figures.iter().enumerate() {
        let (value, middle) = (of(figures), rows - row as f64 - 0.5);
        let color = color(figures.policy);
        let bar = Rectangle::new([(least, middle - 0.34), (value.max(least), middle + 0.34)], color.filled());
        chart.draw_series([bar]).map_err(failed)?;
        let text = |said: String, at: f64, shift: i32, side: HPos, ink: &RGBColor| {
            let style = (FONT, 14).into_font().color(ink).pos(Pos::new(side, VPos::Center));
            EmptyElement::at((at, middle)) + Text::new(said, (shift, 0), style)
        };
        let labels = [
            text(name(figures.policy), least, -8, HPos::Right, &INK),
            text(number(value), value.max(least), 6, HPos::Left, &FAINT),
        ];
        chart.draw_series(labels).map_err(failed)?;
    }
    Ok(())
}

/// The part of the tasks that were slowed down more than so much, both on logarithmic scales.
fn curve_panel(area: &Area<'_>, figures: &[Figures]) -> Result<(), Error> {
    let points = || figures.iter().flat_map(|figures| &figures.slowdowns);
    let most = points().map(|(slowdown, _)| *slowdown).fold(10.0, f64::max);
    let least = points().map(|(_, above)| *above).fold(0.1, f64::min);
    let mut chart = ChartBuilder::on(area)
        .caption("Part of the tasks with a larger slowdown, in the colors above", (FONT, 17).into_font().color(&INK))
        .margin_left(16)
        .margin_right(24)
        .margin_top(10)
        .margin_bottom(10)
        .y_label_area_size(78)
        .x_label_area_size(46)
        .build_cartesian_2d((1.0..most).log_scale(), (least..1.0).log_scale())
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc("slowdown: response over size")
        .x_labels(12)
        .y_labels(8)
        .x_label_formatter(&|value| number(*value))
        .y_label_formatter(&|value| percent(*value))
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(GRID)
        .label_style((FONT, 13).into_font().color(&FAINT))
        .draw()
        .map_err(failed)?;
    for figures in figures {
        let color = color(figures.policy);
        let style = color.stroke_width(if figures.policy == "adaptive" { 4 } else { 2 });
        // Many are not slowed down at all: the curve begins where it leaves the axis.
        let line = figures.slowdowns.iter().copied().filter(|(slowdown, _)| *slowdown > 1.0);
        chart.draw_series(LineSeries::new(line, style)).map_err(failed)?;
    }
    Ok(())
}

/// A color a policy, the same in every picture.
fn color(policy: &str) -> RGBColor {
    match policy {
        "fifo" => RGBColor(0x99, 0x99, 0x99),
        "rr" => RGBColor(0xc9, 0xa2, 0x27),
        "strict" => RGBColor(0xcc, 0x79, 0xa7),
        "weighted" => RGBColor(0x7b, 0x4e, 0xa3),
        "sjf" => RGBColor(0x00, 0x72, 0xb2),
        "srtf" => RGBColor(0x56, 0xb4, 0xe9),
        "edf" => RGBColor(0x8c, 0x56, 0x4b),
        "adaptive" => RGBColor(0xd5, 0x5e, 0x00),
        _ => INK,
    }
}

/// What a policy is called in the picture.
fn name(policy: &str) -> String {
    if policy == "srpt" { "ideal srpt".into() } else { policy.into() }
}

/// The tick at or under the mean size, or barely above it.
fn base(mean_size: f64) -> f64 {
    let mean_size = mean_size.max(1e-6) * 1.05;
    ticks(mean_size / 10.0, mean_size).into_iter().fold(mean_size / 10.0, f64::max)
}

/// 1, 2 and 5 in every decade; where that would be a crowd, the decades alone.
fn ticks(least: f64, most: f64) -> Vec<f64> {
    /// So many labels fit under a panel.
    const TICKS_MAX: usize = 9;
    let decades = least.log10().floor() as i32..=most.log10().ceil() as i32;
    let steps = |steps: &'static [f64]| {
        let all = decades.clone().flat_map(move |decade| steps.iter().map(move |step| step * 10_f64.powi(decade)));
        all.filter(|tick| *tick >= least * 0.999_999 && *tick <= most).collect::<Vec<_>>()
    };
    let fine = steps(&[1.0, 2.0, 5.0]);
    if fine.len() <= TICKS_MAX { fine } else { steps(&[1.0]) }
}

fn number(value: f64) -> String {
    match value {
        v if v >= 9_999.5 => format!("{:.0}k", v / 1_000.0),
        v if v >= 99.5 => format!("{v:.0}"),
        v if v >= 9.95 => trimmed(&format!("{v:.1}")),
        v if v >= 0.01 => trimmed(&format!("{v:.2}")),
        v => format!("{v:.1e}"),
    }
}

fn percent(value: f64) -> String {
    format!("{} %", trimmed(&format!("{:.4}", value * 100.0)))
}

fn trimmed(text: &str) -> String {
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn failed(error: impl Display) -> Error {
    Error::Plot(error.to_string())
}
