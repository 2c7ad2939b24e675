//! A Gantt chart: what every request, or every row of a batch, does at each time.

use super::axis::Axis;
use super::canvas::{Area, Canvas, Stroke};
use super::header::{Entry, Header, Swatch};
use super::number::drawable;
use super::rows::{Rows, RowsLayout};
use super::theme::{INK, Phase};
use super::{ChartError, Picture, Scale, font};

/// Rows of segments over one axis of time, which begins at zero.
#[derive(Debug, Clone, PartialEq)]
pub struct Timeline {
    pub title: String,
    pub rows: Vec<Row>,
    pub markers: Option<Markers>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub label: String,
    pub segments: Vec<Segment>,
}

/// One without a finite length is not drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Segment {
    pub start_ms: f64,
    pub end_ms: f64,
    pub phase: Phase,
}

/// Moments that concern all rows, such as the starts of batches.
#[derive(Debug, Clone, PartialEq)]
pub struct Markers {
    pub name: String,
    pub at_ms: Vec<f64>,
}

const MOST_ROWS: usize = 64;
/// More blocks than this are drawn as what each of their columns is mostly.
const MOST_BLOCKS: usize = 2400;
/// Segments of one phase that are closer than this many pixels are one.
const JOIN: f64 = 0.4;

/// A segment in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Block {
    left: f64,
    right: f64,
    phase: Phase,
}

impl Timeline {
    pub fn picture(&self) -> Result<Picture, ChartError> {
        font::register()?;
        let header = self.header();
        let (scale, unit) = self.unit();
        let axis = Axis {
            title: format!("time [{unit}]"),
            scale: Scale::Tight,
        };
        let layout = RowsLayout {
            top: header.height(),
            labels: self.rows.iter().map(|row| row.label.as_str()).collect(),
            most: MOST_ROWS,
            right: 12.0,
        };
        let rows = Rows::new(
            layout,
            &axis,
            self.times().chain([0.0]).map(|ms| ms * scale),
        );
        let at = |ms: f64| rows.x.at(ms * scale);
        let mut blocks: Vec<_> = self.shown().map(|row| row.blocks(at)).collect();
        if blocks.iter().map(Vec::len).sum::<usize>() > MOST_BLOCKS {
            let columns = MOST_BLOCKS / blocks.len();
            blocks
                .iter_mut()
                .for_each(|b| *b = coarse(b, rows.area, columns));
        }
        Canvas::picture(rows.height(), |canvas| {
            header.draw(canvas)?;
            rows.draw(canvas, &axis.title, "rows")?;
            for (index, blocks) in blocks.iter().enumerate() {
                for b in blocks {
                    canvas.block(rows.block(index, (b.left, b.right)), b.phase.color())?;
                }
            }
            self.draw_markers(canvas, rows.area, at)
        })
    }

    fn shown(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().take(MOST_ROWS)
    }

    /// The legend has what occurs.
    fn header(&self) -> Header {
        let segments = || self.shown().flat_map(Row::drawable);
        let phases = Phase::ALL.into_iter();
        let phases = phases
            .filter(|phase| segments().any(|s| s.phase == *phase))
            .map(|phase| Entry {
                name: phase.name().into(),
                swatch: Swatch::Block(phase.color()),
            });
        let markers = self.markers.iter().map(|markers| Entry {
            name: markers.name.clone(),
            swatch: Swatch::Dashed(INK),
        });
        Header::new(&self.title, phases.chain(markers))
    }

    fn times(&self) -> impl Iterator<Item = f64> {
        let segments = self.shown().flat_map(Row::drawable);
        let markers = self.markers.iter().flat_map(|m| m.at_ms.iter().copied());
        segments.flat_map(|s| [s.start_ms, s.end_ms]).chain(markers)
    }

    /// What to multiply milliseconds with, and the unit that this gives.
    fn unit(&self) -> (f64, &'static str) {
        let latest = self.times().filter_map(drawable).fold(0.0, f64::max);
        match latest {
            t if t < 1.0 => (1000.0, "µs"),
            t if t < 10_000.0 => (1.0, "ms"),
            _ => (0.001, "s"),
        }
    }

    fn draw_markers(
        &self,
        canvas: &Canvas,
        area: Area,
        at: impl Fn(f64) -> Option<f64>,
    ) -> Result<(), ChartError> {
        let stroke = Stroke {
            color: INK,
            width: 1.0,
        };
        let all = self.markers.iter().flat_map(|m| &m.at_ms);
        let mut xs: Vec<_> = all.filter_map(|ms| at(*ms)).map(f64::round).collect();
        xs.sort_by(f64::total_cmp);
        xs.dedup();
        for x in xs {
            canvas.dashes(&[(x, area.top), (x, area.bottom)], stroke)?;
        }
        Ok(())
    }
}

impl Row {
    fn drawable(&self) -> impl Iterator<Item = &Segment> {
        let ends = |s: &Segment| drawable(s.start_ms).zip(drawable(s.end_ms));
        let segments = self.segments.iter();
        segments.filter(move |s| ends(s).is_some_and(|(start, end)| start <= end))
    }

    /// The segments in their order, neighbours of one phase joined.
    fn blocks(&self, at: impl Fn(f64) -> Option<f64>) -> Vec<Block> {
        let mut segments: Vec<_> = self.drawable().collect();
        segments.sort_by(|a, b| a.start_ms.total_cmp(&b.start_ms));
        let mut blocks: Vec<Block> = Vec::new();
        for segment in segments {
            let Some((left, right)) = at(segment.start_ms).zip(at(segment.end_ms)) else {
                continue;
            };
            let phase = segment.phase;
            match blocks.last_mut() {
                Some(last) if last.phase == phase && left - last.right < JOIN => {
                    last.right = last.right.max(right);
                }
                _ => blocks.push(Block { left, right, phase }),
            }
        }
        blocks
    }
}

/// Equally wide columns, each of the phase that covers most of it.
fn coarse(blocks: &[Block], area: Area, columns: usize) -> Vec<Block> {
    let width = (area.right - area.left) / columns as f64;
    let edge = |column: usize| area.left + column as f64 * width;
    let mut covered = vec![[0.0; Phase::ALL.len()]; columns];
    for block in blocks {
        let first = ((block.left - area.left) / width) as usize;
        for (column, covered) in covered.iter_mut().enumerate().skip(first) {
            let (left, right) = (
                edge(column).max(block.left),
                edge(column + 1).min(block.right),
            );
            if left > right {
                break;
            }
            covered[block.phase as usize] += right - left;
        }
    }
    let mut coarse: Vec<Block> = Vec::new();
    for (column, covered) in covered.iter().enumerate() {
        let most = Phase::ALL
            .into_iter()
            .max_by(|a, b| covered[*a as usize].total_cmp(&covered[*b as usize]));
        let Some(phase) = most.filter(|phase| covered[*phase as usize] > 0.0) else {
            continue;
        };
        match coarse.last_mut() {
            Some(last) if last.phase == phase && edge(column) - last.right < JOIN => {
                last.right = edge(column + 1);
            }
            _ => coarse.push(Block {
                left: edge(column),
                right: edge(column + 1),
                phase,
            }),
        }
    }
    coarse
}

#[cfg(test)]
mod tests {
    use super::super::checks::{HARD_LABELS, HARD_NUMBERS, check, widths};
    use super::*;

    fn segment(start_ms: f64, end_ms: f64, phase: Phase) -> Segment {
        Segment {
            start_ms,
            end_ms,
            phase,
        }
    }

    fn timeline(rows: Vec<(&str, Vec<Segment>)>) -> Timeline {
        let rows = rows.into_iter().map(|(label, segments)| Row {
            label: label.into(),
            segments,
        });
        Timeline {
            title: "Requests over time".into(),
            rows: rows.collect(),
            markers: Some(Markers {
                name: "batch starts".into(),
                at_ms: vec![10.0, f64::NAN, 10.001],
            }),
        }
    }

    #[test]
    fn segments_are_where_their_times_are() {
        let segments = vec![
            segment(0.0, 10.0, Phase::Waiting),
            segment(10.0, 30.0, Phase::Prefill),
            // Steps of one phase are one block.
            segment(30.0, 60.0, Phase::Decode),
            segment(60.0, 90.0, Phase::Decode),
            segment(90.0, 100.0, Phase::Idle),
        ];
        let picture = timeline(vec![("request 1", segments)]).picture().unwrap();
        let texts = check(&picture);
        let names = [
            "request 1",
            "waiting",
            "prefill",
            "decode",
            "idle",
            "batch starts",
            "time [ms]",
        ];
        for text in names {
            assert!(texts.iter().any(|t| t == text), "{text}: {texts:?}");
        }
        let widths = |phase: Phase| widths(&picture, phase.color());
        assert_eq!(widths(Phase::Decode).len(), 1);
        assert!((widths(Phase::Decode)[0] / widths(Phase::Waiting)[0] - 6.0).abs() < 0.05);
    }

    #[test]
    fn the_axis_begins_at_zero() {
        let mut chart = timeline(vec![("row 1", vec![segment(37.0, 210.0, Phase::Decode)])]);
        chart.markers = None;
        let texts = check(&chart.picture().unwrap());
        assert!(texts.iter().any(|t| t == "0"), "{texts:?}");
    }

    #[test]
    fn the_unit_follows_the_length() {
        for (end, unit) in [
            (0.5, "time [µs]"),
            (500.0, "time [ms]"),
            (50_000.0, "time [s]"),
        ] {
            let mut chart = timeline(vec![("r", vec![segment(0.0, end, Phase::Decode)])]);
            chart.markers = None;
            let texts = check(&chart.picture().unwrap());
            assert!(texts.iter().any(|t| t == unit), "{unit}: {texts:?}");
        }
    }

    #[test]
    fn hard_data_and_labels() {
        let all: Vec<_> = HARD_NUMBERS
            .iter()
            .flat_map(|a| HARD_NUMBERS.iter().map(|b| segment(*a, *b, Phase::Idle)))
            .collect();
        let rows = HARD_LABELS.map(|label| (label, all.clone()));
        let mut chart = timeline(rows.into());
        check(&chart.picture().unwrap());
        chart.markers = Some(Markers {
            name: HARD_LABELS[1].into(),
            at_ms: HARD_NUMBERS.into(),
        });
        check(&chart.picture().unwrap());
        chart.rows.clear();
        assert!(check(&chart.picture().unwrap()).contains(&"no data".to_string()));
        check(&timeline(vec![("", vec![])]).picture().unwrap());
    }

    #[test]
    fn many_steps_stay_small() {
        let phases = [Phase::Decode, Phase::Idle];
        let steps =
            (0..2000).map(|i| segment(f64::from(i), f64::from(i + 1), phases[i as usize % 2]));
        let steps: Vec<_> = steps.collect();
        let rows = (0..100).map(|_| ("request", steps.clone())).collect();
        let picture = timeline(rows).picture().unwrap();
        let texts = check(&picture);
        assert!(
            texts
                .iter()
                .any(|t| t == "the first 64 rows; 36 more are not shown")
        );
        assert!(picture.svg.len() < 300_000, "{}", picture.svg.len());
    }

    #[test]
    fn columns_are_what_they_mostly_are() {
        let area = Area {
            left: 0.0,
            top: 0.0,
            right: 40.0,
            bottom: 1.0,
        };
        let block = |left, right, phase| Block { left, right, phase };
        let blocks = [
            block(0.0, 8.0, Phase::Prefill),
            block(8.0, 37.0, Phase::Decode),
            block(37.0, 40.0, Phase::Idle),
        ];
        let expected = [
            block(0.0, 10.0, Phase::Prefill),
            block(10.0, 40.0, Phase::Decode),
        ];
        assert_eq!(coarse(&blocks, area, 4), expected);
    }
}
