//! Horizontal bars, each a sum of parts.

use plotters::style::text_anchor::HPos;

use super::axis::{Axis, LABEL};
use super::canvas::{Canvas, TEXT, Type};
use super::header::{Entry, Header, Swatch};
use super::number::{compact, drawable};
use super::rows::{Rows, RowsLayout};
use super::theme::{Color, INK};
use super::{ChartError, Picture, Scale, font};

/// What totals are made of: one bar per category, its parts stacked, its total at the end.
#[derive(Debug, Clone, PartialEq)]
pub struct StackedBars {
    pub title: String,
    /// Of the axis, with the unit.
    pub x_title: String,
    /// Behind the totals, where they are written.
    pub unit: String,
    pub parts: Vec<Part>,
    pub bars: Vec<Bar>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    pub name: String,
    pub color: Color,
}

/// One value per part, in the order of the parts. One that is not a positive number is not drawn,
/// and an unknown one makes the total a lower bound.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    pub label: String,
    pub values: Vec<f64>,
    /// At its end, instead of the total.
    pub end: Option<String>,
}

const MOST_BARS: usize = 60;
const LONGEST_END: f64 = 140.0;

impl StackedBars {
    pub fn picture(&self) -> Result<Picture, ChartError> {
        font::register()?;
        let parts = self.parts.iter().map(|part| Entry {
            name: part.name.clone(),
            swatch: Swatch::Block(part.color),
        });
        // A single part is what the axis says.
        let parts = parts.filter(|_| self.parts.len() > 1);
        let header = Header::new(&self.title, parts);
        let bars = self.bars.iter().take(MOST_BARS);
        let ends: Vec<String> = bars.map(|bar| self.end(bar)).collect();
        let widths = ends.iter().map(|end| font::width(end, TEXT));
        let layout = RowsLayout {
            top: header.height(),
            labels: self.bars.iter().map(|bar| bar.label.as_str()).collect(),
            most: MOST_BARS,
            right: widths.fold(8.0, f64::max) + 8.0,
        };
        let axis = Axis {
            title: self.x_title.clone(),
            scale: Scale::FromZero,
        };
        let sums = self.bars.iter().map(|bar| self.values(bar).sum::<f64>());
        let rows = Rows::new(layout, &axis, sums.take(MOST_BARS));
        Canvas::picture(rows.height(), |canvas| {
            header.draw(canvas)?;
            rows.draw(canvas, &axis.title, "bars")?;
            for (index, (bar, end)) in self.bars.iter().zip(&ends).enumerate() {
                self.draw_bar(canvas, &rows, (index, bar))?;
                let kind = Type {
                    color: INK,
                    align: HPos::Left,
                    ..LABEL
                };
                let sum = self.values(bar).sum();
                let at = (rows.x.at_or_start(sum) + 6.0, rows.middle(index));
                canvas.text(end, at, kind)?;
            }
            Ok(())
        })
    }

    /// What is drawn of a bar: one value for every part.
    fn values<'a>(&'a self, bar: &'a Bar) -> impl Iterator<Item = f64> + 'a {
        let values = bar.values.iter().take(self.parts.len());
        values.map(|v| drawable(*v).unwrap_or(0.0).max(0.0))
    }

    fn end(&self, bar: &Bar) -> String {
        let total = || self.total(bar);
        let end = bar.end.clone().unwrap_or_else(total);
        font::fit(&end, TEXT, LONGEST_END)
    }

    fn total(&self, bar: &Bar) -> String {
        let known = bar.values.iter().filter(|v| drawable(**v).is_some());
        let bound = if known.count() < self.parts.len() {
            "≥ "
        } else {
            ""
        };
        let sum = compact(self.values(bar).sum());
        format!("{bound}{sum} {}", self.unit)
    }

    fn draw_bar(
        &self,
        canvas: &Canvas,
        rows: &Rows,
        (index, bar): (usize, &Bar),
    ) -> Result<(), ChartError> {
        let mut from = 0.0;
        for (part, value) in self.parts.iter().zip(self.values(bar)) {
            if value > 0.0 {
                let to = from + value;
                let ends = (rows.x.at_or_start(from), rows.x.at_or_end(to));
                canvas.block(rows.block(index, ends), part.color)?;
                from = to;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::checks::{HARD_LABELS, HARD_NUMBERS, check, widths};
    use super::super::theme::Phase;
    use super::*;

    fn bars(bars: Vec<Bar>) -> StackedBars {
        let parts = Phase::ALL.map(|phase| Part {
            name: phase.name().into(),
            color: phase.color(),
        });
        StackedBars {
            title: "Where the time goes".into(),
            x_title: "mean time per request [ms]".into(),
            unit: "ms".into(),
            parts: parts.into(),
            bars,
        }
    }

    fn bar(label: &str, values: &[f64]) -> Bar {
        Bar {
            label: label.into(),
            values: values.into(),
            end: None,
        }
    }

    #[test]
    fn parts_are_as_long_as_their_values() {
        let chart = bars(vec![
            bar("B=8 w=10", &[10.0, 20.0, 70.0, 0.0, 0.0, 0.0]),
            bar("B=1", &[1.0]),
        ]);
        let picture = chart.picture().unwrap();
        let texts = check(&picture);
        for text in [
            "waiting", "prefill", "decode", "idle", "B=8 w=10", "100 ms", "≥ 1 ms",
        ] {
            assert!(texts.iter().any(|t| t == text), "{text}: {texts:?}");
        }
        let widths = |phase: Phase| widths(&picture, phase.color());
        let (waiting, decode) = (widths(Phase::Waiting), widths(Phase::Decode));
        assert_eq!((waiting.len(), decode.len()), (2, 1));
        assert!((decode[0] / waiting[0] - 7.0).abs() < 0.05);
        assert!((waiting[0] / waiting[1] - 10.0).abs() < 0.3);
        assert!(widths(Phase::Idle).is_empty());
    }

    #[test]
    fn a_bar_ends_in_its_own_words_where_it_has_some() {
        let mut own = bar("B=8", &[60.0, 40.0, 0.0, 0.0, 0.0, 0.0]);
        own.end = Some("40 % idle".into());
        let texts = check(&bars(vec![own]).picture().unwrap());
        assert!(texts.iter().any(|t| t == "40 % idle"), "{texts:?}");
        assert!(!texts.iter().any(|t| t == "100 ms"), "{texts:?}");
    }

    #[test]
    fn hard_data_and_labels() {
        let hard = HARD_LABELS.map(|label| bar(label, &HARD_NUMBERS));
        for list in [
            vec![],
            hard[..1].to_vec(),
            hard.to_vec(),
            vec![bar("", &[0.0; 4])],
        ] {
            check(&bars(list).picture().unwrap());
        }
        let mut nothing = bars(hard.to_vec());
        nothing.parts.clear();
        nothing.unit = HARD_LABELS[1].into();
        check(&nothing.picture().unwrap());
    }

    #[test]
    fn bars_that_are_not_shown_are_counted() {
        let list = (0..1000).map(|i| bar(&format!("cell {i}"), &[f64::from(i); 4]));
        let picture = bars(list.collect()).picture().unwrap();
        let texts = check(&picture);
        let note = "the first 60 bars; 940 more are not shown";
        assert!(texts.iter().any(|t| t == note), "{texts:?}");
        assert!(picture.height < 1200);
    }
}
