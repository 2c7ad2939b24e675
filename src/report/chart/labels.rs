//! Finds room for the labels of points.

use super::canvas::{Area, Point, SMALL};
use super::font;

/// What is drawn already, and may not be written on.
pub struct Labels {
    inside: Area,
    taken: Vec<Area>,
    /// Better not written on.
    lines: Vec<(Point, Point)>,
}

const HALF_HEIGHT: f64 = SMALL / 2.0 + 1.0;

impl Labels {
    pub fn new(inside: Area, line: &[Point]) -> Self {
        Self {
            inside,
            taken: Vec::new(),
            lines: line.windows(2).map(|p| (p[0], p[1])).collect(),
        }
    }

    /// Keeps free what is within `radius` of a line along an axis, or of a point.
    pub fn avoid(&mut self, [a, b]: [Point; 2], radius: f64) {
        self.taken.push(Area {
            left: a.0.min(b.0) - radius,
            top: a.1.min(b.1) - radius,
            right: a.0.max(b.0) + radius,
            bottom: a.1.max(b.1) + radius,
        });
    }

    /// The middle of a label near `at`, at least `clearance` from it; None where all is full.
    pub fn place(&mut self, text: &str, (x, y): Point, clearance: f64) -> Option<Point> {
        let half = font::width(text, SMALL) / 2.0;
        // Further away there may be room beyond an error bar.
        let near = [clearance, clearance + 8.0]
            .into_iter()
            .flat_map(|clearance| {
                let (dx, dy) = (clearance + half, clearance + HALF_HEIGHT);
                [
                    (x + dx, y),
                    (x - dx, y),
                    (x, y - dy),
                    (x, y + dy),
                    (x + 0.8 * dx, y - 0.8 * dy),
                    (x + 0.8 * dx, y + 0.8 * dy),
                    (x - 0.8 * dx, y - 0.8 * dy),
                    (x - 0.8 * dx, y + 0.8 * dy),
                ]
            });
        let free = near
            .map(|middle| (middle, around(middle, half + 1.0, HALF_HEIGHT)))
            .filter(|(_, area)| contains(self.inside, *area))
            .filter(|(_, area)| !self.taken.iter().any(|t| overlap(*t, *area)));
        // The first of those that cross the fewest lines.
        let best = free.min_by_key(|(_, area)| {
            let crossed = self.lines.iter().filter(|line| crosses(**line, *area));
            crossed.count()
        });
        let (middle, area) = best?;
        self.taken.push(area);
        Some(middle)
    }
}

fn around((x, y): Point, half_width: f64, half_height: f64) -> Area {
    Area {
        left: x - half_width,
        top: y - half_height,
        right: x + half_width,
        bottom: y + half_height,
    }
}

fn contains(outer: Area, inner: Area) -> bool {
    outer.left <= inner.left
        && inner.right <= outer.right
        && outer.top <= inner.top
        && inner.bottom <= outer.bottom
}

fn overlap(a: Area, b: Area) -> bool {
    a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom
}

/// Whether a segment passes through an area: the part of it between the area's left and right, and
/// between its top and bottom, is the same part somewhere.
fn crosses(((x0, y0), (x1, y1)): (Point, Point), area: Area) -> bool {
    let within = |from: f64, to: f64, low: f64, high: f64| {
        if from == to {
            return if (low..=high).contains(&from) {
                (0.0, 1.0)
            } else {
                (1.0, 0.0)
            };
        }
        let (a, b) = ((low - from) / (to - from), (high - from) / (to - from));
        (a.min(b), a.max(b))
    };
    let (x_from, x_to) = within(x0, x1, area.left, area.right);
    let (y_from, y_to) = within(y0, y1, area.top, area.bottom);
    x_from.max(y_from).max(0.0) <= x_to.min(y_to).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INSIDE: Area = Area {
        left: 0.0,
        top: 0.0,
        right: 200.0,
        bottom: 100.0,
    };

    #[test]
    fn labels_avoid_marks_borders_and_each_other() {
        font::register().unwrap();
        let mut labels = Labels::new(INSIDE, &[]);
        // At the right border there is only room on the left.
        assert!(labels.place("B=8", (198.0, 50.0), 6.0).unwrap().0 < 190.0);
        let mut taken = Vec::new();
        while let Some(at) = labels.place("B=8", (100.0, 50.0), 6.0) {
            taken.push(at);
        }
        assert!((3..=16).contains(&taken.len()), "{taken:?}");
        assert_eq!(labels.place("B=8", (100.0, 50.0), 6.0), None);
    }

    #[test]
    fn a_line_is_crossed_only_if_there_is_no_other_place() {
        font::register().unwrap();
        let mut labels = Labels::new(INSIDE, &[(100.0, 50.0), (200.0, 50.0)]);
        assert!(labels.place("B=8", (100.0, 50.0), 6.0).unwrap().0 < 100.0);
    }

    #[test]
    fn segments_cross_areas() {
        let area = around((50.0, 50.0), 10.0, 5.0);
        assert!(crosses(((0.0, 50.0), (100.0, 50.0)), area));
        assert!(crosses(((50.0, 0.0), (50.0, 100.0)), area));
        assert!(crosses(((0.0, 0.0), (100.0, 100.0)), area));
        assert!(!crosses(((0.0, 0.0), (30.0, 100.0)), area));
        assert!(!crosses(((0.0, 50.0), (30.0, 50.0)), area));
    }
}
