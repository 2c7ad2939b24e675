//! Two sweeps, cell by cell.

use batchlab::analysis::{Order, compare};

use crate::made::{SHAPE, Shape, cell, closed, poisson};

#[test]
fn equal_settings_are_compared_and_others_counted() {
    let at = |size, service_ms| {
        let shape = Shape {
            rows: size,
            service_ms,
            ..SHAPE
        };
        cell(0, closed(size), shape)
    };
    let a = [at(1, 100.0), at(4, 100.0), at(8, 100.0)];
    let b = [at(4, 50.0), at(1, 100.1), at(16, 100.0)];
    let comparison = compare(&a, &b);
    assert_eq!((comparison.only_a, comparison.only_b), (1, 1));
    let [one, four] = &comparison.both[..] else {
        panic!("{comparison:?}");
    };
    assert_eq!((one.cell.batch_size, four.cell.batch_size), (1, 4));
    assert_eq!(one.latency_ms.order(), Order::Unsure);
    assert_eq!(four.latency_ms.order(), Order::Below);
    assert!((four.latency_ms.ratio() - 0.5).abs() < 1e-9);
    assert_eq!(four.output_throughput.order(), Order::Above);
    assert!(four.j_per_output_token.is_none());
}

#[test]
fn other_request_rates_are_no_comparison() {
    let at = |rate| {
        let shape = Shape {
            rate: Some(rate),
            ..SHAPE
        };
        // A share is equal in both; what it came to is not.
        [cell(0, poisson(4, 1.0), shape)]
    };
    assert_eq!(compare(&at(100.0), &at(100.9)).both.len(), 1);
    let (a, b) = (at(100.0), at(102.0));
    let comparison = compare(&a, &b);
    assert_eq!((comparison.both.len(), comparison.other_rates), (0, 1));
    assert_eq!((comparison.only_a, comparison.only_b), (0, 0));
}
