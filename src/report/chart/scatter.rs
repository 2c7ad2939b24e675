//! Points in groups, with the frontier of the best ones and its knee.

use std::collections::BTreeSet;

use plotters::style::text_anchor::HPos;

use super::axis::{self, Axis};
use super::canvas::{Canvas, Point, SMALL, Shape, Stroke, Type};
use super::curve;
use super::header::{Entry, Header, Swatch};
use super::labels::Labels;
use super::plot::{self, Along, CAP, Plot, draw_error_bar};
use super::theme::{self, BACKGROUND, INK, MUTED};
use super::{ChartError, Picture, font};

/// A trade-off: one mark per configuration, grouped by colour.
#[derive(Debug, Clone, PartialEq)]
pub struct Scatter {
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub groups: Vec<Group>,
    pub frontier: Option<Frontier>,
    pub knee: Option<Knee>,
}

/// Marks of one colour and shape, named in the legend.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    pub name: String,
    pub marks: Vec<Mark>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    pub x: f64,
    pub y: f64,
    /// Written beside the mark where there is room.
    pub label: String,
    /// Half widths of the error bars.
    pub x_half: Option<f64>,
    pub y_half: Option<f64>,
}

/// A line through points in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Frontier {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// A point that is ringed and called out.
#[derive(Debug, Clone, PartialEq)]
pub struct Knee {
    pub x: f64,
    pub y: f64,
    /// In the legend, beside the ring.
    pub name: String,
    /// Beside the point.
    pub label: String,
}

const RADIUS: f64 = 4.5;
/// Of the many marks of a cloud.
const SMALL_RADIUS: f64 = 2.5;
const RING: f64 = 9.0;
/// More marks than this are a cloud: small, without labels and error bars.
const CLOUD: usize = 200;
/// Marks that a picture shows at most.
const MOST_MARKS: usize = 2000;
const LONGEST_LABEL: f64 = 150.0;

/// A mark that can be drawn.
struct Placed<'a> {
    at: Point,
    group: usize,
    mark: &'a Mark,
}

impl Placed<'_> {
    fn error_bars(&self, plot: &Plot) -> [Option<[Point; 2]>; 2] {
        let mark = self.mark;
        let bar = |along, half| plot.error_bar((mark.x, mark.y), along, half);
        [bar(Along::X, mark.x_half), bar(Along::Y, mark.y_half)]
    }
}

impl Scatter {
    pub fn picture(&self) -> Result<Picture, ChartError> {
        font::register()?;
        let header = self.header();
        let plot = self.plot(header.height());
        let placed = self.placed(&plot);
        Canvas::picture(plot.height(), |canvas| {
            header.draw(canvas)?;
            plot.draw_axes(canvas, &self.x, &self.y)?;
            if placed.is_empty() {
                return axis::no_data(canvas, plot.area);
            }
            self.draw(canvas, &plot, &placed)
        })
    }

    fn header(&self) -> Header {
        let shows = |m: &Mark| self.x.scale.shows(m.x) && self.y.scale.shows(m.y);
        let groups = self.groups.iter().enumerate();
        let groups = groups
            .filter(|(_, group)| group.marks.iter().any(shows))
            .map(|(index, group)| Entry {
                name: group.name.clone(),
                swatch: Swatch::Mark(Shape::of(index), theme::series(index)),
            });
        let frontier = self.frontier.iter().map(|frontier| Entry {
            name: frontier.name.clone(),
            swatch: Swatch::Line(MUTED),
        });
        let knee = self.knee.iter().map(|knee| Entry {
            name: knee.name.clone(),
            swatch: Swatch::Ring,
        });
        Header::new(&self.title, groups.chain(frontier).chain(knee))
    }

    /// Its header ends at `top`.
    fn plot(&self, top: f64) -> Plot {
        let marks = || self.groups.iter().flat_map(|group| &group.marks);
        let line = || self.frontier.iter().flat_map(|f| f.points.iter().copied());
        let all = || line().chain(self.knee.iter().map(|knee| (knee.x, knee.y)));
        let ends = |middle: f64, half: Option<f64>| {
            let half = half.unwrap_or(0.0);
            [middle, plot::bar_start(middle, half), middle + half]
        };
        let xs = marks().flat_map(|m| ends(m.x, m.x_half));
        let ys = marks().flat_map(|m| ends(m.y, m.y_half));
        Plot::new(
            top,
            (&self.x, xs.chain(all().map(|(x, _)| x))),
            (&self.y, ys.chain(all().map(|(_, y)| y))),
        )
    }

    /// The marks that have a place, at most [`MOST_MARKS`] of them: of marks that nearly cover each
    /// other only the first.
    fn placed(&self, plot: &Plot) -> Vec<Placed<'_>> {
        let groups = self.groups.iter().enumerate();
        let marks = groups.flat_map(|(group, g)| g.marks.iter().map(move |mark| (group, mark)));
        let mut placed: Vec<_> = marks
            .filter_map(|(group, mark)| {
                let at = plot.at(mark.x, mark.y)?;
                Some(Placed { at, group, mark })
            })
            .collect();
        let mut cell = 1.0;
        while placed.len() > MOST_MARKS {
            let mut seen = BTreeSet::new();
            placed.retain(|p| seen.insert(((p.at.0 / cell) as i64, (p.at.1 / cell) as i64)));
            cell *= 1.5;
        }
        placed
    }

    fn draw(&self, canvas: &Canvas, plot: &Plot, placed: &[Placed]) -> Result<(), ChartError> {
        let line = self.frontier_line(plot);
        curve::draw(canvas, std::slice::from_ref(&line), MUTED)?;
        let cloud = placed.len() > CLOUD;
        let radius = if cloud { SMALL_RADIUS } else { RADIUS };
        let mut labels = Labels::new(plot.area, &line);
        for p in placed.iter().filter(|_| !cloud) {
            for ends in p.error_bars(plot).into_iter().flatten() {
                draw_error_bar(canvas, ends, theme::series(p.group))?;
                labels.avoid(ends, CAP);
            }
        }
        for p in placed {
            let shape = Shape::of(p.group);
            if !cloud {
                canvas.mark(shape, p.at, radius + 1.2, BACKGROUND)?;
            }
            canvas.mark(shape, p.at, radius, theme::series(p.group))?;
        }
        placed.iter().for_each(|p| labels.avoid([p.at; 2], radius));
        self.draw_knee(canvas, plot, &mut labels)?;
        if cloud {
            return Ok(());
        }
        // Those on the frontier first: they are what the reader looks for.
        let on_line = |p: &&Placed| line.contains(&p.at);
        let first = placed.iter().filter(on_line);
        let rest = placed.iter().filter(|p| !on_line(p));
        let knee = self.knee.as_ref().and_then(|knee| plot.at(knee.x, knee.y));
        for p in first.chain(rest).filter(|p| Some(p.at) != knee) {
            draw_label(
                canvas,
                &mut labels,
                (&p.mark.label, MUTED),
                (p.at, RADIUS + 2.0),
            )?;
        }
        Ok(())
    }

    fn frontier_line(&self, plot: &Plot) -> Vec<Point> {
        let points = self.frontier.iter().flat_map(|frontier| &frontier.points);
        points.filter_map(|&(x, y)| plot.at(x, y)).collect()
    }

    fn draw_knee(
        &self,
        canvas: &Canvas,
        plot: &Plot,
        labels: &mut Labels,
    ) -> Result<(), ChartError> {
        let Some((knee, at)) = self
            .knee
            .as_ref()
            .and_then(|knee| Some((knee, plot.at(knee.x, knee.y)?)))
        else {
            return Ok(());
        };
        let ring = Stroke {
            color: INK,
            width: 1.5,
        };
        canvas.ring(at, RING, ring)?;
        draw_label(canvas, labels, (&knee.label, INK), (at, RING + 3.0))?;
        labels.avoid([at; 2], RING);
        Ok(())
    }
}

/// Writes a label of some colour beside a point that needs some clearance, if there is room.
fn draw_label(
    canvas: &Canvas,
    labels: &mut Labels,
    (label, color): (&str, theme::Color),
    (at, clearance): (Point, f64),
) -> Result<(), ChartError> {
    let label = font::fit(label, SMALL, LONGEST_LABEL);
    let kind = Type {
        size: SMALL,
        color,
        align: HPos::Center,
    };
    match labels.place(&label, at, clearance) {
        Some(middle) => canvas.text(&label, middle, kind),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Scale;
    use super::super::checks::{HARD_LABELS, HARD_NUMBERS, check};
    use super::*;

    fn axis(title: &str, scale: Scale) -> Axis {
        Axis {
            title: title.into(),
            scale,
        }
    }

    fn mark(x: f64, y: f64, label: &str) -> Mark {
        Mark {
            x,
            y,
            label: label.into(),
            x_half: None,
            y_half: Some(5.0),
        }
    }

    fn scatter(groups: Vec<Group>) -> Scatter {
        Scatter {
            title: "Latency against throughput".into(),
            x: axis("throughput [tok/s]", Scale::FromZero),
            y: axis("latency [ms]", Scale::FromZero),
            groups,
            frontier: None,
            knee: None,
        }
    }

    fn three() -> Scatter {
        let group = |name: &str, marks| Group {
            name: name.into(),
            marks,
        };
        let mut chart = scatter(vec![
            group("B=1", vec![mark(100.0, 50.0, "one")]),
            group("none", vec![mark(f64::NAN, 1.0, "unseen")]),
            group(
                "B=8",
                vec![mark(600.0, 90.0, "eight"), mark(500.0, 120.0, "w=50")],
            ),
        ]);
        chart.frontier = Some(Frontier {
            name: "best".into(),
            points: vec![(100.0, 50.0), (600.0, 90.0)],
        });
        chart.knee = Some(Knee {
            x: 600.0,
            y: 90.0,
            name: "knee".into(),
            label: "eight: knee".into(),
        });
        chart
    }

    #[test]
    fn everything_that_has_a_place_is_named() {
        let texts = check(&three().picture().unwrap());
        for name in [
            "B=1",
            "B=8",
            "best",
            "knee",
            "one",
            "w=50",
            "eight: knee",
            "latency [ms]",
        ] {
            assert!(texts.iter().any(|t| t == name), "{name}: {texts:?}");
        }
        assert!(!texts.iter().any(|t| t == "unseen" || t == "none"));
    }

    #[test]
    fn the_line_goes_through_the_marks_it_names() {
        let svg = three().picture().unwrap().svg;
        let document = resvg::usvg::roxmltree::Document::parse(&svg).unwrap();
        let orange = theme::hex(theme::series(2));
        let marks: Vec<_> = document
            .descendants()
            .filter(|n| n.has_tag_name("polygon") && n.attribute("fill") == Some(&orange))
            .collect();
        // The mark of the legend and two of the data.
        assert_eq!(marks.len(), 3);
        assert!(document.descendants().any(|n| n.has_tag_name("polyline")));
    }

    #[test]
    fn hard_data_and_labels() {
        let mut marks = Vec::new();
        for x in HARD_NUMBERS {
            marks.extend(HARD_NUMBERS.map(|y| mark(x, y, "hard")));
        }
        for scale in [
            Scale::FromZero,
            Scale::Fitted,
            Scale::Log,
            Scale::Log2,
            Scale::Ordinal,
        ] {
            for marks in [Vec::new(), marks.clone(), vec![mark(1.0, 1.0, "one")]] {
                let groups = HARD_LABELS.map(|name| Group {
                    name: name.into(),
                    marks: marks.clone(),
                });
                let mut chart = scatter(groups.into());
                (chart.x.scale, chart.y.scale) = (scale, scale);
                chart.title = HARD_LABELS[1].into();
                chart.knee = Some(Knee {
                    x: f64::NAN,
                    y: 0.0,
                    name: HARD_LABELS[0].into(),
                    label: HARD_LABELS[0].into(),
                });
                check(&chart.picture().unwrap());
            }
        }
        assert!(check(&scatter(vec![]).picture().unwrap()).contains(&"no data".to_string()));
    }

    #[test]
    fn a_large_cloud_is_thinned() {
        let marks = (0..10_000).map(|i| {
            let (x, y) = (f64::from(i * 7919 % 10_007), f64::from(i * 104_729 % 9973));
            mark(x, y, "p")
        });
        let groups = vec![Group {
            name: "many".into(),
            marks: marks.collect(),
        }];
        let picture = scatter(groups).picture().unwrap();
        check(&picture);
        assert!(picture.svg.len() < 300_000, "{}", picture.svg.len());
        assert!(picture.svg.matches("<circle").count() > 1000);
    }
}
