//! The subcommands: each turns its arguments into a checked configuration and calls the library.

mod advice_args;
mod batching_args;
mod engine_args;
mod generate;
mod gpu;
mod gpu_load;
mod grid_args;
mod load_args;
mod measure_args;
mod memory;
mod plan;
mod policy_args;
mod profile;
mod prompt_args;
mod report;
mod sampling_args;
mod serve;
mod serve_args;
mod sweep;
mod sweep_args;
mod sweep_target;
mod target_args;

use std::io::{ErrorKind, Write};

use anyhow::Context;
use batchlab::Error;
use clap::error::ErrorKind as ClapErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

/// Measures which batch size, wait window and batching policy to serve a language model with.
#[derive(Debug, Parser)]
#[command(name = "batchlab", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Sweep(Box<sweep_args::SweepArgs>),
    Report(report::ReportArgs),
    Generate(generate::GenerateArgs),
    Serve(Box<serve_args::ServeArgs>),
    Plan(plan::PlanArgs),
    Gpu(gpu::GpuArgs),
}

pub fn run() -> anyhow::Result<()> {
    let ran = match parse()?.command {
        Some(Command::Sweep(args)) => sweep::run(&args),
        Some(Command::Report(args)) => report::run(&args),
        Some(Command::Generate(args)) => generate::run(&args),
        Some(Command::Serve(args)) => serve::run(&args),
        Some(Command::Plan(args)) => plan::run(&args),
        Some(Command::Gpu(args)) => gpu::run(&args),
        None => print(&Cli::command().render_help().to_string()),
    };
    // A reader that has gone, as in `batchlab … | head`, is no error.
    let reader_gone = |e: &std::io::Error| e.kind() == ErrorKind::BrokenPipe;
    match ran {
        Err(e) if e.downcast_ref().is_some_and(reader_gone) => Ok(()),
        ran => ran,
    }
}

/// clap's own message in one line, so that every bad input reads alike.
fn parse() -> anyhow::Result<Cli> {
    Cli::try_parse().map_err(|error| {
        if matches!(
            error.kind(),
            ClapErrorKind::DisplayHelp
                | ClapErrorKind::DisplayVersion
                | ClapErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        ) {
            error.exit();
        }
        let text = error.to_string();
        let told: Vec<String> = text
            .split("\n\n")
            .map(str::trim)
            .filter(|p| p.starts_with("error:") || p.starts_with("tip:"))
            .map(|p| p.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        let line = told.join("; ");
        let line = line.strip_prefix("error: ").unwrap_or(&line);
        Error::Usage(format!("{line}; see --help")).into()
    })
}

/// A count that a user gives.
fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err("give a whole number of at least 1".into()),
    }
}

/// Writes to stdout.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", text.trim_end())
        .and_then(|()| out.flush())
        .context("stdout")
}
