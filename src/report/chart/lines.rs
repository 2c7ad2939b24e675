//! Curves over one axis, with error bars and dashed references.

use super::axis::{self, Axis};
use super::canvas::{Canvas, Shape, Stroke};
use super::header::{Entry, Header, Swatch};
use super::plot::{self, Along, Plot, draw_error_bar};
use super::theme::{self, BACKGROUND, MUTED};
use super::{ChartError, Picture, curve, font};

/// Several series over one axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Lines {
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
    pub references: Vec<Reference>,
}

/// Measured points, joined in the order of x. A point whose y cannot be drawn breaks the line.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub name: String,
    pub points: Vec<SeriesPoint>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SeriesPoint {
    pub x: f64,
    pub y: f64,
    /// Half width of the error bar.
    pub half: Option<f64>,
}

/// A dashed line to compare with: no measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// A series of more points is a curve without marks and error bars.
const MOST_MARKED: usize = 60;
const RADIUS: f64 = 3.6;

impl Lines {
    pub fn picture(&self) -> Result<Picture, ChartError> {
        font::register()?;
        let header = self.header();
        let plot = self.plot(header.height());
        Canvas::picture(plot.height(), |canvas| {
            header.draw(canvas)?;
            plot.draw_axes(canvas, &self.x, &self.y)?;
            if !self.series.iter().any(|s| self.shows(s)) {
                axis::no_data(canvas, plot.area)?;
            }
            self.draw_references(canvas, &plot)?;
            for (index, series) in self.series.iter().enumerate() {
                series.draw(canvas, &plot, index)?;
            }
            Ok(())
        })
    }

    fn shows(&self, series: &Series) -> bool {
        let shows = |p: &SeriesPoint| self.x.scale.shows(p.x) && self.y.scale.shows(p.y);
        series.points.iter().any(shows)
    }

    fn header(&self) -> Header {
        let series = self.series.iter().enumerate();
        let series = series
            .filter(|(_, series)| self.shows(series))
            .map(|(index, series)| Entry {
                name: series.name.clone(),
                swatch: match series.is_marked() {
                    true => Swatch::Marked(Shape::of(index), theme::series(index)),
                    false => Swatch::Line(theme::series(index)),
                },
            });
        let references = self.references.iter().map(|reference| Entry {
            name: reference.name.clone(),
            swatch: Swatch::Dashed(MUTED),
        });
        Header::new(&self.title, series.chain(references))
    }

    /// Its header ends at `top`.
    fn plot(&self, top: f64) -> Plot {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let references = || self.references.iter().flat_map(|r| &r.points);
        let ends = |p: &SeriesPoint| {
            let half = p.half.unwrap_or(0.0);
            [p.y, plot::bar_start(p.y, half), p.y + half]
        };
        let xs = points().map(|p| p.x).chain(references().map(|p| p.0));
        let ys = points().flat_map(ends).chain(references().map(|p| p.1));
        Plot::new(top, (&self.x, xs), (&self.y, ys))
    }

    fn draw_references(&self, canvas: &Canvas, plot: &Plot) -> Result<(), ChartError> {
        let stroke = Stroke {
            color: MUTED,
            width: 1.5,
        };
        for reference in &self.references {
            let points = reference.points.iter().map(|&(x, y)| plot.at(x, y));
            for piece in curve::pieces(&points.collect::<Vec<_>>()) {
                canvas.dashes(&piece, stroke)?;
            }
        }
        Ok(())
    }
}

impl Series {
    fn is_marked(&self) -> bool {
        self.points.len() <= MOST_MARKED
    }

    fn draw(&self, canvas: &Canvas, plot: &Plot, index: usize) -> Result<(), ChartError> {
        let color = theme::series(index);
        let mut points = self.points.clone();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        let line: Vec<_> = points.iter().map(|p| plot.at(p.x, p.y)).collect();
        curve::draw(canvas, &curve::pieces(&line), color)?;
        if !self.is_marked() {
            return Ok(());
        }
        for point in &points {
            if let Some(ends) = plot.error_bar((point.x, point.y), Along::Y, point.half) {
                draw_error_bar(canvas, ends, color)?;
            }
        }
        for at in line.into_iter().flatten() {
            canvas.mark(Shape::of(index), at, RADIUS + 1.0, BACKGROUND)?;
            canvas.mark(Shape::of(index), at, RADIUS, color)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Scale;
    use super::super::checks::{HARD_LABELS, HARD_NUMBERS, check};
    use super::*;

    fn lines(scale: (Scale, Scale), series: Vec<Series>) -> Lines {
        Lines {
            title: "Latency against batch size".into(),
            x: Axis {
                title: "batch size".into(),
                scale: scale.0,
            },
            y: Axis {
                title: "latency [ms]".into(),
                scale: scale.1,
            },
            series,
            references: vec![],
        }
    }

    fn series(name: &str, points: &[(f64, f64)]) -> Series {
        let points = points.iter().map(|&(x, y)| SeriesPoint {
            x,
            y,
            half: Some(y / 10.0),
        });
        Series {
            name: name.into(),
            points: points.collect(),
        }
    }

    #[test]
    fn series_and_references_are_named_and_batch_sizes_are_ticks() {
        let mut chart = lines(
            (Scale::Ordinal, Scale::FromZero),
            vec![
                series("w=0", &[(8.0, 90.0), (1.0, 40.0), (4.0, 60.0)]),
                series("empty", &[]),
                series("w=10", &[(1.0, 50.0), (4.0, f64::NAN), (8.0, 95.0)]),
            ],
        );
        chart.references.push(Reference {
            name: "B times the work".into(),
            points: vec![(1.0, 40.0), (8.0, 320.0)],
        });
        let picture = chart.picture().unwrap();
        let texts = check(&picture);
        for text in [
            "w=0",
            "w=10",
            "B times the work",
            "1",
            "4",
            "8",
            "latency [ms]",
            "batch size",
        ] {
            assert!(texts.iter().any(|t| t == text), "{text}: {texts:?}");
        }
        assert!(!texts.iter().any(|t| t == "empty"));
        // The missing value breaks the second series: two dots instead of a line.
        let of = |index| {
            let stroke = format!(
                "stroke=\"{}\" stroke-width=\"20\"",
                theme::hex(theme::series(index))
            );
            let lines = picture.svg.lines().filter(move |l| l.contains(&stroke));
            lines.count() - 1
        };
        assert_eq!((of(0), of(2)), (1, 2));
    }

    #[test]
    fn hard_data_and_labels() {
        let points: Vec<_> = HARD_NUMBERS
            .iter()
            .flat_map(|x| HARD_NUMBERS.iter().map(move |y| (*x, *y)))
            .collect();
        for scale in [
            Scale::FromZero,
            Scale::Fitted,
            Scale::Log,
            Scale::Log2,
            Scale::Ordinal,
        ] {
            for points in [
                &points[..],
                &points[..1],
                &[],
                &[(3.0, 3.0)],
                &[(1.0, 0.0), (2.0, 0.0)],
            ] {
                let all = HARD_LABELS.map(|name| series(name, points));
                let mut chart = lines((scale, scale), all.into());
                chart.references = HARD_LABELS
                    .map(|name| Reference {
                        name: name.into(),
                        points: points.to_vec(),
                    })
                    .into();
                chart.x.title = HARD_LABELS[1].into();
                check(&chart.picture().unwrap());
            }
        }
    }

    #[test]
    fn many_points_stay_small() {
        let points: Vec<_> = (0..10_000)
            .map(|i| (f64::from(i), f64::from(i * 7919 % 997)))
            .collect();
        let chart = lines(
            (Scale::Tight, Scale::FromZero),
            vec![series("many", &points)],
        );
        let picture = chart.picture().unwrap();
        check(&picture);
        assert!(picture.svg.len() < 60_000, "{}", picture.svg.len());
    }

    #[test]
    fn the_same_data_gives_the_same_bytes() {
        let chart = lines(
            (Scale::Log2, Scale::Log),
            vec![series("a", &[(1.0, 2.0), (4.0, 3.0)])],
        );
        let (a, b) = (chart.picture().unwrap(), chart.picture().unwrap());
        assert_eq!(a, b);
        assert_eq!(a.png().unwrap(), b.png().unwrap());
    }
}
