//! The Pareto frontier of latency against throughput, and its knee (day2 §2.2).

/// A setting as the trade-off sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub throughput: f64,
    pub latency: f64,
}

/// The points that no other one beats in one respect without losing in the other, by ascending
/// throughput. Of equal points the first.
pub fn pareto(points: &[Point]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (points[a], points[b]);
        let faster = b.throughput.total_cmp(&a.throughput);
        faster.then(a.latency.total_cmp(&b.latency))
    });
    let mut lowest = f64::INFINITY;
    order.retain(|&i| {
        let better = points[i].latency < lowest;
        lowest = lowest.min(points[i].latency);
        better
    });
    order.reverse();
    order
}

/// The point of a frontier beyond which throughput costs more latency than it did on average: where
/// the difference of both, each scaled to 0…1, is largest (Satopää et al. 2011, "Finding a
/// 'Kneedle' in a Haystack"). None for fewer than three points, or where no point stands out.
pub fn knee(points: &[Point], frontier: &[usize]) -> Option<usize> {
    let (&first, &last) = (frontier.first()?, frontier.last()?);
    let (low, high) = (points[first], points[last]);
    let gain = |i: usize| {
        let x = (points[i].throughput - low.throughput) / (high.throughput - low.throughput);
        let y = (points[i].latency - low.latency) / (high.latency - low.latency);
        x - y
    };
    let inner = frontier.get(1..frontier.len() - 1)?;
    let best = inner
        .iter()
        .copied()
        .max_by(|&a, &b| gain(a).total_cmp(&gain(b)))?;
    (gain(best) > 0.0).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(list: &[(f64, f64)]) -> Vec<Point> {
        let point = |&(throughput, latency)| Point {
            throughput,
            latency,
        };
        list.iter().map(point).collect()
    }

    #[test]
    fn beaten_points_are_left_out() {
        let p = points(&[
            (10.0, 1.0),
            (30.0, 2.0),
            (20.0, 3.0),
            (30.0, 2.0),
            (40.0, 9.0),
        ]);
        assert_eq!(pareto(&p), [0, 1, 4]);
        // (30−10)/30 − (2−1)/8 = 0.54
        assert_eq!(knee(&p, &pareto(&p)), Some(1));
        assert_eq!(pareto(&[]), [] as [usize; 0]);
    }

    #[test]
    fn a_straight_or_short_frontier_has_no_knee() {
        let straight = points(&[(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]);
        assert_eq!(knee(&straight, &pareto(&straight)), None);
        let two = points(&[(1.0, 1.0), (2.0, 2.0)]);
        assert_eq!(knee(&two, &pareto(&two)), None);
        let one = points(&[(1.0, 1.0)]);
        assert_eq!((pareto(&one), knee(&one, &[0])), (vec![0], None));
        // Latency rises first, throughput later: each step is worse than the average.
        let sagging = points(&[(1.0, 1.0), (2.0, 9.0), (10.0, 10.0)]);
        assert_eq!(knee(&sagging, &pareto(&sagging)), None);
    }
}
