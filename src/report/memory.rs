//! Memory on the terminal: what `batchlab plan` computed, and what a runner really took.

use super::json::{MemoryInfo, PartInfo};
use super::table::{aligned, empty};
use crate::number::{short, size, whole};
use crate::sizing::{LimitedBy, Row};

/// One line a batch size.
pub fn sizes(rows: &[Row]) -> String {
    let mut header = vec![
        "batch",
        "KV cache\nbytes",
        "KV cache",
        "in whole\npages",
        "weights",
        "scratch",
        "together",
        "KV/weights/\nscratch %",
    ];
    // All rows are about the same memory.
    let with_memory = rows.iter().any(|row| row.fits.is_some());
    if with_memory {
        header.extend(["memory\n%", "fits", "longest\ncontext"]);
    }
    let mut table = empty(header);
    for row in rows {
        let mut cells = vec![
            row.batch_size.to_string(),
            whole(row.kv_bytes),
            size(row.kv_bytes),
            size(row.kv_paged_bytes),
            size(row.weights_bytes),
            size(row.scratch_bytes),
            size(row.total_bytes),
            shares(row),
        ];
        if with_memory {
            let fits = row.fits.map(|fits| if fits { "yes" } else { "no" });
            let context = row.largest_context.map(|c| match c.limited_by {
                LimitedBy::Model => format!("all {}", c.value),
                _ => c.value.to_string(),
            });
            cells.push(short(row.percent_of_memory));
            cells.push(fits.unwrap_or("–").into());
            cells.push(context.unwrap_or("none".into()));
        }
        table.add_row(cells);
    }
    aligned(table).to_string()
}

/// The parts of the sum, in whole percent.
fn shares(row: &Row) -> String {
    let share = |bytes: u64| format!("{:.0}", 100.0 * bytes as f64 / row.total_bytes as f64);
    let [kv, weights, scratch] =
        [row.kv_paged_bytes, row.weights_bytes, row.scratch_bytes].map(share);
    format!("{kv}/{weights}/{scratch}")
}

/// Predicted beside allocated, for each batch size.
pub fn verification(opened: &[(usize, MemoryInfo)]) -> String {
    let header = [
        "batch",
        "part",
        "predicted\nbytes",
        "allocated\nbytes",
        "difference\n%",
    ];
    let mut table = empty(header.into());
    for (batch_size, memory) in opened {
        let parts = [memory.kv, memory.weights, memory.scratch];
        let sum = |of: fn(&PartInfo) -> u64| parts.iter().map(of).sum();
        let together = PartInfo {
            predicted_bytes: sum(|p| p.predicted_bytes),
            allocated_bytes: sum(|p| p.allocated_bytes),
        };
        let names = ["KV cache", "weights", "scratch", "together"];
        for (name, part) in names.iter().zip(parts.into_iter().chain([together])) {
            table.add_row(vec![
                batch_size.to_string(),
                (*name).into(),
                whole(part.predicted_bytes),
                whole(part.allocated_bytes),
                short(part.difference_percent()),
            ]);
        }
    }
    aligned(table).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sizing::Largest;

    #[test]
    fn the_widest_numbers_fit_in_120_columns() {
        let row = Row {
            batch_size: 1 << 24,
            seq_len: 1 << 24,
            kv_bytes: u64::MAX,
            kv_paged_bytes: 1023 << 50,
            weights_bytes: 1023 << 50,
            scratch_bytes: 1023 << 50,
            total_bytes: 1023 << 50,
            percent_of_memory: Some(123_456_789.0),
            fits: Some(false),
            largest_context: Some(Largest {
                value: 1 << 24,
                limited_by: LimitedBy::Model,
            }),
        };
        for line in sizes(&[row]).lines() {
            assert!(line.chars().count() <= 120, "{line}");
        }
    }

    #[test]
    fn the_sum_is_of_all_parts() {
        let part = |predicted_bytes, allocated_bytes| PartInfo {
            predicted_bytes,
            allocated_bytes,
        };
        let memory = MemoryInfo {
            weights: part(1000, 1000),
            scratch: part(0, 0),
            kv: part(3000, 3080),
            device_allocated_bytes: None,
            gpu_memory_used_before_bytes: None,
            gpu_memory_used_after_bytes: None,
        };
        let text = verification(&[(4, memory)]);
        let last = text.lines().rev().nth(1).unwrap();
        assert!(
            last.contains("4,000") && last.contains("4,080") && last.contains("2.00"),
            "{text}"
        );
        assert!(text.contains('–'), "{text}");
    }
}
