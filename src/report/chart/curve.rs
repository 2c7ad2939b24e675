//! A curve through many points: broken where values are missing, thinned to what pixels can show.

use super::canvas::{Canvas, Point, Stroke};
use super::{ChartError, theme::Color};

/// Line width of a series.
pub const WIDTH: f64 = 2.0;

/// The unbroken pieces of a series whose missing points are None, each thinned.
pub fn pieces(points: &[Option<Point>]) -> Vec<Vec<Point>> {
    points
        .split(Option::is_none)
        .filter(|piece| !piece.is_empty())
        .map(|piece| thinned(&piece.iter().flatten().copied().collect::<Vec<_>>()))
        .collect()
}

/// Draws the pieces; one that is a single point is a dot.
pub fn draw(canvas: &Canvas, pieces: &[Vec<Point>], color: Color) -> Result<(), ChartError> {
    let stroke = Stroke {
        color,
        width: WIDTH,
    };
    for piece in pieces {
        match piece[..] {
            [(x, y)] => canvas.line(&[(x - WIDTH / 2.0, y), (x + WIDTH / 2.0, y)], stroke)?,
            _ => canvas.line(piece, stroke)?,
        }
    }
    Ok(())
}

/// The lowest and the highest point of every pixel column, in their order.
fn thinned(points: &[Point]) -> Vec<Point> {
    let columns = points.chunk_by(|a, b| a.0.floor() == b.0.floor());
    let mut kept = Vec::new();
    for column in columns {
        let by_y = |a: &usize, b: &usize| column[*a].1.total_cmp(&column[*b].1);
        let low = (0..column.len()).min_by(by_y);
        let high = (0..column.len()).max_by(by_y);
        let (Some(low), Some(high)) = (low, high) else {
            continue;
        };
        kept.push(column[low.min(high)]);
        if low != high {
            kept.push(column[low.max(high)]);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_the_extremes_of_every_column() {
        let points: Vec<_> = (0..10_000)
            .map(|i| Some((f64::from(i) / 100.0, f64::from(i * 7919 % 1000))))
            .collect();
        let pieces = pieces(&points);
        assert_eq!(pieces.len(), 1);
        assert!(pieces[0].len() <= 200);
        for column in 0..100 {
            let of = |points: &[Point]| {
                let ys = points.iter().filter(|p| p.0.floor() == f64::from(column));
                ys.fold((f64::MAX, f64::MIN), |(low, high), p| {
                    (low.min(p.1), high.max(p.1))
                })
            };
            let all: Vec<_> = points.iter().flatten().copied().collect();
            assert_eq!(of(&pieces[0]), of(&all));
        }
        assert!(pieces[0].windows(2).all(|p| p[0].0 <= p[1].0));
    }

    #[test]
    fn missing_values_break_the_curve() {
        let p = |x: f64| Some((x, 0.0));
        let pieces = pieces(&[None, p(1.0), p(2.5), None, None, p(4.0), None]);
        assert_eq!(pieces, [vec![(1.0, 0.0), (2.5, 0.0)], vec![(4.0, 0.0)]]);
    }
}
