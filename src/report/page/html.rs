//! Filling the page's template. It escapes all text; only the pictures' own SVG goes in as it is.

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment};
use serde::Serialize;

use super::figure::{NumberTable, Section};
use crate::Error;
use crate::analysis::{Advice, Analysis, Ruling};
use crate::number::short;
use crate::report::chart::theme;
use crate::report::columns::{Column, LATENCY, RESOURCES};
use crate::report::{Header, SavedSweep, Status, remeasure};
use crate::sweep::Measured;

const TEMPLATE: &str = include_str!("page.html");
/// Colours, fonts, cards and tables of every page.
pub const HOUSE_CSS: &str = include_str!("house.css");
/// Rows of the page's own tables; more would make it slow to open.
const MOST_ROWS: usize = 1000;

/// What the template sees.
#[derive(Serialize)]
struct Page<'a> {
    house_css: &'static str,
    picture_css: String,
    model: &'a str,
    question: &'static str,
    facts: Vec<(&'static str, String)>,
    unfinished: Option<String>,
    conclusion: &'a [String],
    advice: Vec<PageAdvice<'a>>,
    sections: Vec<PageSection<'a>>,
    verdicts: Vec<PageVerdict<'a>>,
    cells: Cut<'a>,
}

/// Cells of a use's ranking.
const MOST_RANKED: usize = 10;

#[derive(Serialize)]
struct PageSection<'a> {
    title: &'a str,
    intro: &'a str,
    figures: Vec<PageFigure<'a>>,
    left_out: usize,
}

#[derive(Serialize)]
struct PageFigure<'a> {
    name: &'a str,
    caption: &'a str,
    svg: &'a str,
    table: Cut<'a>,
}

/// A table's first rows.
#[derive(Serialize)]
struct Cut<'a> {
    header: &'a [String],
    rows: &'a [Vec<String>],
    left_out: usize,
}

impl<'a> From<&'a NumberTable> for Cut<'a> {
    fn from(table: &'a NumberTable) -> Self {
        let shown = table.rows.len().min(MOST_ROWS);
        Self {
            header: &table.header,
            rows: &table.rows[..shown],
            left_out: table.rows.len() - shown,
        }
    }
}

#[derive(Serialize)]
struct PageVerdict<'a> {
    section: &'a str,
    claim: &'a str,
    ruling: String,
    class: &'a str,
    numbers: &'a str,
    why: &'a str,
}

#[derive(Serialize)]
struct PageAdvice<'a> {
    name: &'a str,
    limits: String,
    source: &'a str,
    setting: Option<String>,
    reasons: Vec<String>,
    other_arrivals: bool,
    /// The best cells by the objective, with their values.
    ranking: Vec<String>,
    command: Option<String>,
}

pub fn page(
    saved: &SavedSweep,
    analysis: &Analysis<'_>,
    sections: &[Section],
) -> Result<String, Error> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    let failed = |e: minijinja::Error| {
        Error::Results(format!(
            "report.html: {e}; this is a bug of batchlab, please report it"
        ))
    };
    environment.add_template("page", TEMPLATE).map_err(failed)?;
    let cells = cells(analysis.cells);
    let header = &saved.header;
    let template = environment.get_template("page").map_err(failed)?;
    let page = Page {
        house_css: HOUSE_CSS,
        picture_css: theme::css(),
        model: header.model(),
        question: match header.kv {
            Some(_) => "Which batch size, wait window and policy to serve this model with",
            None => "Which load this server sustains",
        },
        facts: facts(saved),
        unfinished: unfinished(saved),
        conclusion: &analysis.conclusion,
        advice: advice(header, analysis),
        sections: sections.iter().map(section).collect(),
        verdicts: verdicts(analysis),
        cells: Cut::from(&cells),
    };
    template.render(Serde(&page)).map_err(failed)
}

fn section(section: &Section) -> PageSection<'_> {
    let figures = section.drawn.figures.iter().map(|f| PageFigure {
        name: &f.name,
        caption: &f.caption,
        svg: &f.picture.svg,
        table: Cut::from(&f.table),
    });
    PageSection {
        title: section.title,
        intro: section.intro,
        figures: figures.collect(),
        left_out: section.drawn.left_out,
    }
}

fn facts(saved: &SavedSweep) -> Vec<(&'static str, String)> {
    let header = &saved.header;
    let machine = &header.machine;
    let mut facts = vec![
        ("Model", header.model().to_string()),
        ("Device", header.runner.clone()),
    ];
    if let Some(gpu) = &header.gpu {
        let driver = gpu.driver_version.as_deref().unwrap_or("unknown");
        let name = gpu.name.as_deref().unwrap_or("unknown");
        facts.push(("GPU", format!("{name}, driver {driver}")));
    }
    facts.push((
        "Machine",
        format!(
            "{}, {} cores, {} {}",
            machine.cpu.as_deref().unwrap_or("unknown CPU"),
            machine.cores.map_or("?".into(), |c| c.to_string()),
            machine.os,
            machine.kernel.as_deref().unwrap_or_default()
        ),
    ));
    let runs = saved.cells.iter().flat_map(|c| &c.result.runs);
    let clients = runs.filter_map(|run| run.client.as_ref());
    if let Some(counted) = clients.map(|c| c.counted).max() {
        facts.push(("Tokens", counted.to_string()));
    }
    facts.push((
        "Measured",
        format!("{} to {}", header.started_utc, header.written_utc),
    ));
    facts.push(("Version", format!("batchlab {}", header.batchlab_version)));
    let command = header.command.iter().skip(1).map(String::as_str);
    let command = std::iter::once("batchlab").chain(command);
    facts.push(("Command", shell_words::join(command)));
    facts
}

fn unfinished(saved: &SavedSweep) -> Option<String> {
    let (measured, all) = (saved.cells.len(), saved.header.cells_total);
    match saved.header.status {
        Status::Complete if measured == all => None,
        _ => Some(format!(
            "{measured} of {all} cells were measured; the rest is missing here."
        )),
    }
}

fn advice<'a>(header: &Header, analysis: &'a Analysis<'_>) -> Vec<PageAdvice<'a>> {
    let one = |advice: &'a Advice<'_>| {
        let cell = advice.pick.as_ref().map(|p| &p.chosen.cell.result);
        PageAdvice {
            name: advice.scenario.name,
            limits: advice.scenario.limits(),
            source: advice.scenario.source,
            setting: cell.map(|c| c.cell.to_string()),
            reasons: advice.reasons(),
            other_arrivals: advice.other_arrivals,
            ranking: ranking(advice),
            command: cell.map(|c| remeasure(header, c)),
        }
    };
    analysis.advice.iter().map(one).collect()
}

fn ranking(advice: &Advice<'_>) -> Vec<String> {
    let unit = advice.scenario.objective.unit();
    let best = advice.ranked.iter().take(MOST_RANKED);
    best.map(|c| format!("{}: {} {unit}", c.cell.result.cell, c.value))
        .collect()
}

fn verdicts<'a>(analysis: &'a Analysis<'_>) -> Vec<PageVerdict<'a>> {
    let one = |v: &'a crate::analysis::Verdict| PageVerdict {
        section: v.section,
        claim: &v.claim,
        ruling: v.ruling.to_string(),
        class: match v.ruling {
            Ruling::Holds => "holds",
            Ruling::DoesNotHold => "fails",
            Ruling::CannotTell => "unknown",
        },
        numbers: &v.numbers,
        why: &v.why,
    };
    analysis.verdicts.iter().map(one).collect()
}

/// Every cell with the quantities of the terminal's tables.
fn cells(cells: &[Measured]) -> NumberTable {
    let columns = || LATENCY.iter().chain(&RESOURCES);
    let heading = |c: &Column| c.heading.replace('\n', " ");
    let mut header: Vec<String> = ["#", "setting", "output", "req/s sent"]
        .map(String::from)
        .into();
    header.extend(columns().map(heading));
    header.push("n".into());
    let row = |c: &Measured| {
        let result = &c.result;
        let mut row = vec![
            (result.index + 1).to_string(),
            result.cell.to_string(),
            result.cell.output_len.clone(),
            short(result.request_rate),
        ];
        row.extend(columns().map(|column| short(result.mean(column.of))));
        let n: usize = result.runs.iter().map(|r| r.summary.completed).sum();
        row.push(n.to_string());
        row
    };
    NumberTable {
        header,
        rows: cells.iter().map(row).collect(),
    }
}
