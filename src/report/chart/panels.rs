//! Small charts above each other that share one axis of time.

use plotters::style::text_anchor::HPos;

use super::axis::{self, LABEL};
use super::canvas::{Area, Canvas, Point, TEXT, Type, WIDTH};
use super::header::{self, Entry, Header, Swatch};
use super::ruler::Ruler;
use super::theme::{self, INK};
use super::{ChartError, Picture, Scale, curve, font};

/// Several quantities over the same time.
#[derive(Debug, Clone, PartialEq)]
pub struct Panels {
    pub title: String,
    /// Of the shared axis, with the unit.
    pub x_title: String,
    pub panels: Vec<Panel>,
}

/// One quantity; its lines are named where there are several.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// With the unit.
    pub title: String,
    pub scale: Scale,
    /// What the axis shows at least, such as 0 to 100 for percentages.
    pub range: Option<(f64, f64)>,
    pub lines: Vec<PanelLine>,
}

/// Samples in the order of x; None breaks the line.
#[derive(Debug, Clone, PartialEq)]
pub struct PanelLine {
    pub name: String,
    pub points: Vec<(f64, Option<f64>)>,
}

const MOST_PANELS: usize = 12;
const TITLE_HEIGHT: f64 = 24.0;
const HEIGHT: f64 = 84.0;
const GAP: f64 = 12.0;

impl Panels {
    pub fn picture(&self) -> Result<Picture, ChartError> {
        font::register()?;
        let header = Header::new(&self.title, []);
        let panels = &self.panels[..self.panels.len().min(MOST_PANELS)];
        let top = |index: usize| {
            header.height() + TITLE_HEIGHT + index as f64 * (TITLE_HEIGHT + HEIGHT + GAP)
        };
        let ys: Vec<_> = (0..).map(top).zip(panels).map(Panel::ruler).collect();
        let widths = ys.iter().map(Ruler::label_width);
        let left = axis::MARGIN + widths.fold(0.0, f64::max) + 8.0;
        let right = WIDTH - axis::MARGIN - 8.0;
        let xs = panels.iter().flat_map(|p| &p.lines).flat_map(|l| &l.points);
        let x = Ruler::horizontal(Scale::Tight, xs.map(|p| p.0), (left, right));
        let area = |index: usize| Area {
            left,
            top: top(index),
            right,
            bottom: top(index) + HEIGHT,
        };
        let last = area(panels.len().max(1) - 1);
        Canvas::picture(last.bottom + axis::BELOW, |canvas| {
            header.draw(canvas)?;
            for (index, (panel, y)) in panels.iter().zip(&ys).enumerate() {
                axis::vertical(canvas, area(index), y)?;
                axis::horizontal_grid(canvas, area(index), &x)?;
                panel.draw_title(canvas, area(index))?;
                panel.draw(canvas, area(index), (&x, y))?;
            }
            if panels.is_empty() {
                axis::no_data(canvas, last)?;
            }
            axis::horizontal_labels(canvas, last, &x, &self.x_title)
        })
    }
}

impl Panel {
    fn ruler((top, panel): (f64, &Self)) -> Ruler {
        let points = panel.lines.iter().flat_map(|line| &line.points);
        let range = panel.range.iter().flat_map(|r| [r.0, r.1]);
        let values = points.filter_map(|p| p.1).chain(range);
        Ruler::vertical(panel.scale, values, (top + HEIGHT, top))
    }

    /// The title, and the names of the lines beside it.
    fn draw_title(&self, canvas: &Canvas, area: Area) -> Result<(), ChartError> {
        let kind = Type {
            color: INK,
            align: HPos::Left,
            ..LABEL
        };
        let y = area.top - TITLE_HEIGHT / 2.0;
        let title = font::fit(&self.title, TEXT, (area.right - area.left) / 2.0);
        canvas.text(&title, (area.left, y), kind)?;
        let mut x = area.left + font::width(&title, TEXT) + 2.0 * header::GAP;
        let named = self.lines.len() > 1;
        for (index, line) in self.lines.iter().enumerate().filter(|_| named) {
            let entry = Entry {
                name: font::fit(&line.name, TEXT, header::LONGEST_NAME),
                swatch: Swatch::Line(theme::series(index)),
            };
            if x + entry.width() > area.right {
                break;
            }
            entry.draw(canvas, (x, y))?;
            x += entry.width() + header::GAP;
        }
        Ok(())
    }

    fn draw(
        &self,
        canvas: &Canvas,
        area: Area,
        (x, y): (&Ruler, &Ruler),
    ) -> Result<(), ChartError> {
        let mut empty = true;
        for (index, line) in self.lines.iter().enumerate() {
            let at = |&(time, value): &(f64, Option<f64>)| Some((x.at(time)?, y.at(value?)?));
            let points: Vec<Option<Point>> = line.points.iter().map(at).collect();
            let pieces = curve::pieces(&points);
            empty &= pieces.is_empty();
            curve::draw(canvas, &pieces, theme::series(index))?;
        }
        match empty {
            true => axis::no_data(canvas, area),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::checks::{HARD_LABELS, HARD_NUMBERS, check};
    use super::*;

    type Sample = (f64, Option<f64>);

    fn panel(title: &str, lines: &[(&str, &[Sample])]) -> Panel {
        let lines = lines.iter().map(|(name, points)| PanelLine {
            name: (*name).into(),
            points: points.to_vec(),
        });
        Panel {
            title: title.into(),
            scale: Scale::FromZero,
            range: Some((0.0, 100.0)),
            lines: lines.collect(),
        }
    }

    fn panels(panels: Vec<Panel>) -> Panels {
        Panels {
            title: "The GPU over time".into(),
            x_title: "time [s]".into(),
            panels,
        }
    }

    #[test]
    fn lines_are_named_where_there_are_several_and_break_at_gaps() {
        let gap = [
            (0.0, Some(50.0)),
            (1.0, Some(60.0)),
            (2.0, None),
            (3.0, Some(9.0)),
            (4.0, Some(9.0)),
        ];
        let whole = [(0.0, Some(10.0)), (4.0, Some(30.0))];
        let chart = panels(vec![
            panel("activity [%]", &[("SM", &gap), ("DRAM", &whole)]),
            panel("power [W]", &[("only", &whole)]),
            panel("nothing", &[]),
        ]);
        let picture = chart.picture().unwrap();
        let texts = check(&picture);
        for text in [
            "activity [%]",
            "SM",
            "DRAM",
            "power [W]",
            "100",
            "time [s]",
            "no data",
        ] {
            assert!(texts.iter().any(|t| t == text), "{text}: {texts:?}");
        }
        assert!(!texts.iter().any(|t| t == "only"));
        let blue = format!("stroke=\"{}\"", theme::hex(theme::series(0)));
        // Two pieces and the legend, and the single line of the second panel.
        assert_eq!(picture.svg.matches(&blue).count(), 4);
    }

    #[test]
    fn hard_data_and_labels() {
        let mut points: Vec<_> = Vec::new();
        for x in HARD_NUMBERS {
            points.extend(HARD_NUMBERS.map(|y| (x, Some(y))));
            points.push((x, None));
        }
        let lines = HARD_LABELS.map(|name| (name, &points[..]));
        for scale in [
            Scale::FromZero,
            Scale::Fitted,
            Scale::Tight,
            Scale::Log,
            Scale::Ordinal,
        ] {
            for range in [None, Some((f64::NAN, 1.0)), Some((5.0, 5.0))] {
                let mut list = HARD_LABELS.map(|title| panel(title, &lines));
                list.iter_mut()
                    .for_each(|p| (p.scale, p.range) = (scale, range));
                check(&panels(list.into()).picture().unwrap());
            }
        }
        assert!(check(&panels(vec![]).picture().unwrap()).contains(&"no data".to_string()));
        check(
            &panels(vec![panel("one", &[("", &[(1.0, Some(1.0))])])])
                .picture()
                .unwrap(),
        );
    }

    #[test]
    fn many_samples_stay_small() {
        let points: Vec<_> = (0..10_000)
            .map(|i| (f64::from(i) / 100.0, Some(f64::from(i * 7919 % 101))))
            .collect();
        let many = (0..MOST_PANELS + 5).map(|_| panel("x", &[("a", &points)]));
        let picture = panels(many.collect()).picture().unwrap();
        check(&picture);
        assert!(picture.svg.len() < 300_000, "{}", picture.svg.len());
    }
}
