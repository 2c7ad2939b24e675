//! One chart of every kind, as a report draws them, for tests and for eyes.

use rayon::prelude::*;

use super::checks::check;
use super::theme::{self, Phase};
use super::*;

const WINDOWS: [f64; 4] = [0.0, 5.0, 10.0, 50.0];
const BATCHES: [f64; 6] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0];

fn axis(title: &str, scale: Scale) -> Axis {
    Axis {
        title: title.into(),
        scale,
    }
}

fn latency(batch: f64, window: f64) -> f64 {
    45.0 + 3.1 * batch + 0.6 * window * (1.0 - 1.0 / batch)
}

fn throughput(batch: f64, window: f64) -> f64 {
    1000.0 * batch * 64.0 / (latency(batch, window) + window / 2.0)
}

fn scatter() -> Scatter {
    let groups = BATCHES.map(|batch| Group {
        name: format!("batch {batch}"),
        marks: WINDOWS
            .map(|window| Mark {
                x: throughput(batch, window),
                y: latency(batch, window),
                label: format!("w={window}"),
                x_half: Some(0.03 * throughput(batch, window)),
                y_half: Some(0.02 * latency(batch, window)),
            })
            .into(),
    });
    let best = BATCHES.map(|batch| (throughput(batch, 0.0), latency(batch, 0.0)));
    Scatter {
        title: "Latency against throughput".into(),
        x: axis("output throughput [tok/s]", Scale::Log),
        y: axis("mean latency [ms]", Scale::FromZero),
        groups: groups.into(),
        frontier: Some(Frontier {
            name: "Pareto frontier".into(),
            points: best.into(),
        }),
        knee: Some(Knee {
            x: best[3].0,
            y: best[3].1,
            name: "knee".into(),
            label: "B=8 w=0".into(),
        }),
    }
}

fn lines() -> Lines {
    let series = WINDOWS.map(|window| Series {
        name: format!("window {window} ms"),
        points: BATCHES
            .map(|batch| SeriesPoint {
                x: batch,
                y: latency(batch, window) / latency(1.0, 0.0),
                half: Some(0.05),
            })
            .into(),
    });
    Lines {
        title: "Time of a batch against batch size".into(),
        x: axis("batch size", Scale::Ordinal),
        y: axis("time(B) / time(1)", Scale::FromZero),
        series: series.into(),
        references: vec![Reference {
            name: "B times the work".into(),
            points: vec![(1.0, 1.0), (2.0, 2.0), (4.0, 4.0)],
        }],
    }
}

fn stacked_bars() -> StackedBars {
    let parts = Phase::ALL.map(|phase| Part {
        name: phase.name().into(),
        color: phase.color(),
    });
    let bars = BATCHES.iter().flat_map(|batch| {
        WINDOWS.map(|window| Bar {
            label: format!("dynamic B={batch} w={window}"),
            values: vec![
                window / 2.0,
                12.0,
                40.0 + 2.0 * batch,
                1.0 + batch / 3.0,
                0.0,
                0.0,
            ],
            end: None,
        })
    });
    StackedBars {
        title: "Where the time of a request goes".into(),
        x_title: "mean time per request [ms]".into(),
        unit: "ms".into(),
        parts: parts.into(),
        bars: bars.collect(),
    }
}

fn timeline() -> Timeline {
    let rows = (0..16).map(|i| {
        let arrival = 3.0 * f64::from(i);
        let start = 30.0 + 95.0 * f64::from(i / 4);
        let steps = 6 + i * 5 % 13;
        let decoded = start + 14.0 + 4.0 * f64::from(steps);
        let mut segments = vec![
            (arrival, start, Phase::Waiting),
            (start, start + 14.0, Phase::Prefill),
            (decoded, start + 14.0 + 4.0 * 18.0, Phase::Idle),
        ];
        segments.extend((0..steps).map(|step| {
            let begin = start + 14.0 + 4.0 * f64::from(step);
            (begin, begin + 4.0, Phase::Decode)
        }));
        let segment = |(start_ms, end_ms, phase)| Segment {
            start_ms,
            end_ms,
            phase,
        };
        Row {
            label: format!("request {i}"),
            segments: segments.into_iter().map(segment).collect(),
        }
    });
    Timeline {
        title: "Requests over time: static B=4".into(),
        rows: rows.collect(),
        markers: Some(Markers {
            name: "a batch starts".into(),
            at_ms: (0..4).map(|batch| 30.0 + 95.0 * f64::from(batch)).collect(),
        }),
    }
}

fn panels() -> Panels {
    let line = |name: &str, level: f64, swing: f64| PanelLine {
        name: name.into(),
        points: (0..400)
            .map(|i| {
                let wave =
                    swing * (f64::from(i) / 9.0).sin() + swing * f64::from(i * 37 % 11) / 20.0;
                (
                    f64::from(i) / 20.0,
                    (!(180..200).contains(&i)).then_some(level + wave),
                )
            })
            .collect(),
    };
    let panel = |title: &str, range: Option<_>, lines| Panel {
        title: title.into(),
        scale: if range.is_none() {
            Scale::Fitted
        } else {
            Scale::FromZero
        },
        range,
        lines,
    };
    let percent = Some((0.0, 100.0));
    Panels {
        title: "The GPU over time: dynamic B=8 w=10".into(),
        x_title: "time [s]".into(),
        panels: vec![
            panel("GPU utilisation [%]", percent, vec![line("", 90.0, 6.0)]),
            panel(
                "active [%]",
                percent,
                vec![
                    line("SM", 60.0, 9.0),
                    line("tensor cores", 12.0, 5.0),
                    line("DRAM", 35.0, 7.0),
                ],
            ),
            panel("power [W]", Some((0.0, 700.0)), vec![line("", 380.0, 60.0)]),
            panel("temperature [°C]", None, vec![line("", 48.0, 2.0)]),
        ],
    }
}

fn all() -> Vec<(&'static str, Picture)> {
    vec![
        ("scatter", scatter().picture().unwrap()),
        ("lines", lines().picture().unwrap()),
        ("stacked_bars", stacked_bars().picture().unwrap()),
        ("timeline", timeline().picture().unwrap()),
        ("panels", panels().picture().unwrap()),
    ]
}

#[test]
fn every_colour_is_one_of_the_theme() {
    let mut known: Vec<_> = theme::PALETTE.into();
    known.extend([
        theme::INK,
        theme::MUTED,
        theme::GRID,
        theme::BACKGROUND,
        theme::DELAY,
        theme::WASTE,
    ]);
    let known: Vec<_> = known.into_iter().map(theme::hex).collect();
    for (name, picture) in all() {
        check(&picture);
        for paint in ["fill", "stroke"] {
            for attribute in picture.svg.split(&format!(" {paint}=\"")).skip(1) {
                let color = attribute.split('"').next().unwrap();
                let is_known = color == "none" || known.iter().any(|k| k == color);
                assert!(is_known, "{name}: {paint}={color}");
            }
        }
    }
}

/// `cargo test --lib chart::samples -- --ignored --nocapture` says where they are and how long they took.
#[test]
#[ignore = "writes pictures to look at"]
fn write_samples() {
    let folder = tempfile::tempdir().unwrap().keep();
    let started = std::time::Instant::now();
    let pictures: Vec<_> = (0..6).into_par_iter().flat_map_iter(|_| all()).collect();
    let pngs: Vec<_> = pictures.par_iter().map(|(_, p)| p.png().unwrap()).collect();
    println!("{} SVGs and PNGs in {:?}", pngs.len(), started.elapsed());
    let mut page = format!(
        "<!doctype html><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <style>:root{{color-scheme:light dark}}{}</style>",
        theme::css()
    );
    for ((name, picture), png) in pictures.iter().zip(&pngs).take(5) {
        println!(
            "{name}: SVG {} bytes, PNG {} bytes",
            picture.svg.len(),
            png.len()
        );
        std::fs::write(folder.join(format!("{name}.svg")), &picture.svg).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), png).unwrap();
        page += &format!("<div class=picture>{}</div>", picture.svg);
    }
    std::fs::write(folder.join("all.html"), page).unwrap();
    println!("{}", folder.display());
}
