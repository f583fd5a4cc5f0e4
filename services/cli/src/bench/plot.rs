//! Figures as a picture: panels of bars and of lines, two a row, in one SVG file.

use crate::output::{Exit, Failure};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::fmt::Display;

/// Pixels: the picture's width, its title's height, and the height of a row of panels.
const WIDTH: u32 = 1200;
const TITLE_HEIGHT: u32 = 76;
const ROW_HEIGHT: u32 = 370;
/// Panels of a row.
const COLUMNS: usize = 2;
/// The most labels of an axis.
const TICKS_MAX: usize = 9;
/// An axis measures at least so much, so that nothing can be drawn, too.
const SPAN_LEAST: f64 = 1e-6;
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(0x22, 0x26, 0x2c);
const FAINT: RGBColor = RGBColor(0x6b, 0x72, 0x80);
const GRID: RGBColor = RGBColor(0xe6, 0xe8, 0xeb);
const COLORS: [RGBColor; 6] = [
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0x7b, 0x4e, 0xa3),
    RGBColor(0x99, 0x99, 0x99),
    RGBColor(0xc9, 0xa2, 0x27),
    RGBColor(0x56, 0xb4, 0xe9),
];

/// A picture to be drawn.
#[derive(Debug, Default)]
pub(super) struct Picture {
    /// In large letters.
    pub(super) title: String,
    /// Under it.
    pub(super) settings: String,
    pub(super) panels: Vec<Panel>,
}

/// One diagram.
#[derive(Debug)]
pub(super) enum Panel {
    /// A value each, from 0 on.
    Bars { title: String, bars: Vec<(String, f64)> },
    /// Curves over a common axis.
    Lines { title: String, across: Axis, up: Axis, lines: Vec<(String, Vec<(f64, f64)>)> },
}

/// What an axis measures.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    pub(super) name: &'static str,
    pub(super) scale: Scale,
}

/// How an axis measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// From 0 on.
    Linear,
    /// From the least value on.
    Logarithmic,
    /// From the largest value to the least, for parts of a whole that get ever smaller.
    Falling,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Draws the picture as SVG.
pub(super) fn svg(picture: &Picture) -> Result<String, Failure> {
    let rows = picture.panels.len().div_ceil(COLUMNS);
    let mut drawn = String::new();
    {
        let root = SVGBackend::with_string(&mut drawn, (WIDTH, TITLE_HEIGHT + ROW_HEIGHT * rows as u32));
        let root = root.into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        let (head, body) = root.split_vertically(TITLE_HEIGHT);
        let style = |size: i32, color: &RGBColor| (FONT, size).into_font().color(color);
        head.draw(&Text::new(picture.title.clone(), (24, 16), style(26, &INK))).map_err(failed)?;
        head.draw(&Text::new(picture.settings.clone(), (24, 50), style(15, &FAINT))).map_err(failed)?;
        let areas = if rows == 0 { Vec::new() } else { body.split_evenly((rows, COLUMNS)) };
        for (area, panel) in areas.iter().zip(&picture.panels) {
            match panel {
                Panel::Bars { title, bars } => draw_bars(area, title, bars)?,
                Panel::Lines { title, across, up, lines } => draw_lines(area, title, [*across, *up], lines)?,
            }
        }
        root.present().map_err(failed)?;
    }
    Ok(drawn)
}

fn chart<'a, 'b>(area: &'a Area<'b>, title: &str, left: u32, ends: [(f64, f64); 2]) -> Result<Chart<'a, 'b>, Failure> {
    let [(least_x, most_x), (least_y, most_y)] = ends;
    ChartBuilder::on(area)
        .caption(title, (FONT, 17).into_font().color(&INK))
        .margin_left(16)
        .margin_right(24)
        .margin_top(6)
        .y_label_area_size(left)
        .x_label_area_size(44)
        .build_cartesian_2d(least_x..most_x, least_y..most_y)
        .map_err(failed)
}

/// One bar each, with its value behind it.
fn draw_bars(area: &Area<'_>, title: &str, bars: &[(String, f64)]) -> Result<(), Failure> {
    let rows = bars.len().max(1) as f64;
    let most = bars.iter().map(|(_, value)| *value).fold(0.0, f64::max).max(SPAN_LEAST);
    let across = Drawn { scale: Scale::Linear, least: 0.0, most: most * 1.2 };
    let mut chart = chart(area, title, 190, [(across.least, across.most), (0.0, rows)])?;
    for tick in across.ticks() {
        chart.draw_series(LineSeries::new([(tick, 0.0), (tick, rows)], GRID)).map_err(failed)?;
        label(&mut chart, (tick, 0.0), (0, 6), number(tick), (HPos::Center, VPos::Top), FAINT)?;
    }
    for (row, (name, value)) in bars.iter().enumerate() {
        let middle = rows - row as f64 - 0.5;
        let color = COLORS[row % COLORS.len()];
        let bar = Rectangle::new([(0.0, middle - 0.34), (*value, middle + 0.34)], color.filled());
        chart.draw_series([bar]).map_err(failed)?;
        label(&mut chart, (0.0, middle), (-8, 0), name.clone(), (HPos::Right, VPos::Center), INK)?;
        label(&mut chart, (*value, middle), (6, 0), number(*value), (HPos::Left, VPos::Center), FAINT)?;
    }
    Ok(())
}

/// Curves, and their names in their colors.
fn draw_lines(
    area: &Area<'_>,
    title: &str,
    axes: [Axis; 2],
    lines: &[(String, Vec<(f64, f64)>)],
) -> Result<(), Failure> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let across = Drawn::over(axes[0].scale, points().map(|(x, _)| *x));
    let up = Drawn::over(axes[1].scale, points().map(|(_, y)| *y));
    let ends = [across, up].map(|axis| axis.ends());
    let mut chart = chart(area, title, 78, ends)?;
    for tick in across.ticks() {
        let at = across.place(tick);
        chart.draw_series(LineSeries::new([(at, ends[1].0), (at, ends[1].1)], GRID)).map_err(failed)?;
        label(&mut chart, (at, ends[1].0), (0, 6), number(tick), (HPos::Center, VPos::Top), FAINT)?;
    }
    for tick in up.ticks() {
        let at = up.place(tick);
        chart.draw_series(LineSeries::new([(ends[0].0, at), (ends[0].1, at)], GRID)).map_err(failed)?;
        label(&mut chart, (ends[0].0, at), (-6, 0), number(tick), (HPos::Right, VPos::Center), FAINT)?;
    }
    let middle = f64::midpoint(ends[0].0, ends[0].1);
    label(&mut chart, (middle, ends[1].0), (0, 24), axes[0].name.into(), (HPos::Center, VPos::Top), FAINT)?;
    label(&mut chart, (ends[0].0, ends[1].1), (4, -4), axes[1].name.into(), (HPos::Left, VPos::Bottom), FAINT)?;
    for (row, (name, points)) in lines.iter().enumerate() {
        let color = COLORS[row % COLORS.len()];
        let placed = points.iter().filter(|(x, y)| across.can_show(*x) && up.can_show(*y));
        let placed = placed.map(|(x, y)| (across.place(*x), up.place(*y)));
        chart.draw_series(LineSeries::new(placed, color.stroke_width(2))).map_err(failed)?;
        let below = 14 + 17 * row as i32;
        label(&mut chart, (ends[0].0, ends[1].1), (10, below), name.clone(), (HPos::Left, VPos::Center), color)?;
    }
    Ok(())
}

fn label(
    chart: &mut Chart<'_, '_>,
    at: (f64, f64),
    shift: (i32, i32),
    said: String,
    side: (HPos, VPos),
    ink: RGBColor,
) -> Result<(), Failure> {
    let style = (FONT, 13).into_font().color(&ink).pos(Pos::new(side.0, side.1));
    chart.draw_series([EmptyElement::at(at) + Text::new(said, shift, style)]).map_err(failed)?;
    Ok(())
}

/// An axis with its ends. Where it is logarithmic, the diagram measures decades.
#[derive(Debug, Clone, Copy)]
struct Drawn {
    scale: Scale,
    least: f64,
    most: f64,
}

impl Drawn {
    fn over(scale: Scale, values: impl Iterator<Item = f64> + Clone) -> Self {
        let shown = values.filter(|value| value.is_finite() && (scale == Scale::Linear || *value > 0.0));
        let most = shown.clone().fold(SPAN_LEAST, f64::max);
        let least = shown.fold(most, f64::min) * 0.999;
        // Above the curves there is room for their names.
        match scale {
            Scale::Linear => Self { scale, least: 0.0, most: most * 1.2 },
            Scale::Logarithmic => Self { scale, least, most: most * (most / least).powf(0.25) },
            Scale::Falling => Self { scale, least, most },
        }
    }

    fn can_show(self, value: f64) -> bool {
        value.is_finite() && (self.scale == Scale::Linear || value > 0.0)
    }

    fn place(self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => value,
            Scale::Logarithmic => value.log10(),
            Scale::Falling => -value.log10(),
        }
    }

    fn ends(self) -> (f64, f64) {
        let (a, b) = (self.place(self.least), self.place(self.most));
        (a.min(b), a.max(b))
    }

    /// Round values between the ends.
    fn ticks(self) -> Vec<f64> {
        if self.scale == Scale::Linear {
            let rough = self.most / TICKS_MAX as f64;
            let decade = 10_f64.powf(rough.log10().floor());
            let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * decade).find(|step| *step >= rough);
            let step = step.unwrap_or(rough);
            return (0..=TICKS_MAX).map(|tick| tick as f64 * step).filter(|tick| *tick <= self.most).collect();
        }
        let decades = self.least.log10().floor() as i32..=self.most.log10().ceil() as i32;
        let ticks = |steps: &'static [f64]| {
            let all = decades.clone().flat_map(move |decade| steps.iter().map(move |step| step * 10_f64.powi(decade)));
            all.filter(|tick| (self.least..=self.most * 1.000_001).contains(tick)).collect::<Vec<_>>()
        };
        let fine = ticks(&[1.0, 2.0, 5.0]);
        if fine.len() <= TICKS_MAX { fine } else { ticks(&[1.0]) }
    }
}

/// A value at a glance.
fn number(value: f64) -> String {
    let trimmed = |text: String| text.trim_end_matches('0').trim_end_matches('.').to_owned();
    match value {
        0.0 => "0".into(),
        v if v >= 999_500.0 => format!("{}M", trimmed(format!("{:.2}", v / 1e6))),
        v if v >= 9_999.5 => format!("{}k", trimmed(format!("{:.1}", v / 1e3))),
        v if v >= 99.5 => format!("{v:.0}"),
        v if v >= 9.95 => trimmed(format!("{v:.1}")),
        v if v >= 0.01 => trimmed(format!("{v:.2}")),
        v => trimmed(format!("{v:.4}")),
    }
}

fn failed(error: impl Display) -> Failure {
    Failure::new(Exit::Error, format!("the picture cannot be drawn: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(scale: Scale, points: Vec<(f64, f64)>) -> Panel {
        let axis = Axis { name: "of", scale };
        Panel::Lines { title: "curves".into(), across: axis, up: axis, lines: vec![("a < b & c".into(), points)] }
    }

    #[test]
    fn names_cannot_change_the_picture() {
        let bars = vec![("<script>\"&'".to_owned(), 1.0)];
        let panels = vec![Panel::Bars { title: "</svg>".into(), bars }, lines(Scale::Linear, vec![(1.0, 2.0)])];
        let drawn = svg(&Picture { title: "a <b> & c".into(), settings: String::new(), panels }).expect("drawn");
        assert!(!drawn.contains("<script") && drawn.contains("&lt;script"), "{drawn}");
        assert_eq!(drawn.matches("</svg>").count(), 1);
        assert!(drawn.contains("a &lt; b &amp; c"), "{drawn}");
    }

    #[test]
    fn nothing_and_nonsense_can_be_drawn() {
        for scale in [Scale::Linear, Scale::Logarithmic, Scale::Falling] {
            for points in [vec![], vec![(0.0, 0.0)], vec![(1.0, 1.0)], vec![(0.0, f64::NAN), (5.0, -1.0)]] {
                let panels = vec![lines(scale, points.clone()), Panel::Bars { title: String::new(), bars: vec![] }];
                svg(&Picture { panels, ..Picture::default() }).unwrap_or_else(|f| panic!("{points:?}: {}", f.message));
            }
        }
        svg(&Picture::default()).expect("an empty picture");
    }

    #[test]
    fn ticks_are_round_and_few() {
        let linear = Drawn { scale: Scale::Linear, least: 0.0, most: 34_567.0 };
        assert_eq!(linear.ticks(), [0.0, 5_000.0, 10_000.0, 15_000.0, 20_000.0, 25_000.0, 30_000.0]);
        let decades = Drawn::over(Scale::Falling, [0.5, 0.001].into_iter()).ticks();
        assert!(
            decades.len() <= TICKS_MAX && decades.iter().any(|tick| (tick / 0.01 - 1.0).abs() < 1e-9),
            "{decades:?}"
        );
        assert_eq!([0.0, 0.25, 12.5, 1_234.0, 45_600.0, 1e6].map(number), ["0", "0.25", "12.5", "1234", "45.6k", "1M"]);
    }
}
