//! The policies under the same load (day2 §4.3).

use super::super::figure::{Figure, Figures, NumberTable};
use super::MOST_FIGURES;
use crate::analysis::{Analysis, Beside, PolicyGroup};
use crate::number::short;
use crate::report::chart::theme::PALETTE;
use crate::report::chart::{Bar, Part, StackedBars};

pub fn draw(analysis: &Analysis<'_>) -> Result<Figures, super::ChartError> {
    Figures::of(&analysis.policies, MOST_FIGURES, figure)
}

fn figure(index: usize, group: &PolicyGroup) -> Result<Figure, super::ChartError> {
    let bars = group.cells.iter().map(|c| Bar {
        label: c.setting.clone(),
        values: vec![c.output_throughput.value.unwrap_or_default()],
        end: Some(end(&c.output_throughput)),
    });
    let chart = StackedBars {
        title: format!(
            "Throughput by policy: batch {}, {}",
            group.batch_size, group.load
        ),
        x_title: "output tokens per second".into(),
        unit: "tok/s".into(),
        parts: vec![Part {
            name: "output".into(),
            color: PALETTE[0],
        }],
        bars: bars.collect(),
    };
    let rows = group.cells.iter().map(|c| {
        let [throughput, throughput_times] = both(&c.output_throughput);
        let [ttft, ttft_times] = both(&c.ttft_ms_mean);
        let [latency, latency_times] = both(&c.e2el_ms_mean);
        [
            c.setting.clone(),
            short(c.idle_row_steps_percent),
            throughput,
            throughput_times,
            ttft,
            ttft_times,
            short(c.ttft_ms_p95.value),
            latency,
            latency_times,
            short(c.e2el_ms_p95.value),
        ]
    });
    Ok(Figure {
        name: format!("policies-{}", index + 1),
        caption: format!(
            "{}; output {} tokens; prompt: {}. × is in times of static.",
            group.load, group.output_len, group.prompts
        ),
        picture: chart.picture()?,
        table: NumberTable::new(
            [
                "setting",
                "idle % of row-steps",
                "tok/s",
                "×",
                "TTFT ms",
                "×",
                "TTFT P95 ms",
                "latency ms",
                "×",
                "latency P95 ms",
            ],
            rows.collect(),
        ),
    })
}

/// "1627 tok/s 1.25×"
fn end(b: &Beside) -> String {
    let times = b
        .times_static
        .map(|times| format!(" {}×", short(Some(times))));
    format!("{} tok/s{}", short(b.value), times.unwrap_or_default())
}

fn both(b: &Beside) -> [String; 2] {
    [short(b.value), short(b.times_static)]
}
