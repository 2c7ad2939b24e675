//! `batchlab sweep --target`: the same sweep against a server.

use std::sync::Arc;

use batchlab::clock::WallClock;
use batchlab::model::Tokenizer;
use batchlab::runner::DeviceChoice;
use batchlab::sweep::{Measure, Prompts, Workload};
use batchlab::target::{self, Address, Contact, Target, contact};
use batchlab::telemetry::GpuId;
use serde_json::json;

use super::sweep::{Subject, carry_out, watch_gpu};
use super::sweep_args::{Asked, SweepArgs};

pub fn run(args: &SweepArgs, asked: &Asked, address: &Address) -> anyhow::Result<()> {
    let (spec, tokenizer) = Tokenizer::open(args.engine.model.model.as_deref())?;
    let tokenizer = Arc::new(tokenizer);
    let workloads = asked.workloads(&tokenizer)?.into_iter();
    let workloads: Vec<Workload> = workloads.map(not_seen_before).collect();
    let api_key = args.target.api_key();
    let clock = WallClock::start();
    let contact = contact(
        target::Asked {
            address: address.clone(),
            model: args.target.target_model.clone(),
            api_key: api_key.as_deref(),
            prompts: args.target.target_prompts.map(Into::into),
            ignore_eos: args.measure_options(false)?.ignore_eos,
            prompt: first_prompt(&workloads, spec.vocab),
        },
        &tokenizer,
        clock,
    )?;
    let runner = format!("server at {address}");
    eprintln!("{runner}, prompts as {}", contact.dialect.prompts);
    for note in &contact.notes {
        eprintln!("{note}");
    }
    if repeats(&workloads) {
        eprintln!(
            "the same prompts come again and again: a server that keeps what it has computed of a prompt \
             (vLLM without --no-enable-prefix-caching) does not compute them again; \
             --input-len has prompts that never repeat"
        );
    }
    let (gpu, sampler) = watch_gpu(gpu_of(args, address), &clock);
    // Elsewhere there is a GPU, most likely.
    let options = args.measure_options(gpu.is_some() || !address.is_local())?;
    let subject = Subject {
        gpu,
        runner,
        kv: None,
        memory: None,
        config: json!({
            "model": contact.dialect.model,
            "target": address.to_string(),
            "prompts": contact.dialect.prompts.to_string(),
            "tokenizer": spec.name,
            "grids": asked.grids,
            "measure": options,
        }),
        engine_options: as_options(args, &contact),
    };
    let mut service = Target::open(&contact, api_key.as_deref(), tokenizer, clock)?;
    let mut measure = Measure {
        service: &mut service,
        clock: &clock,
        gpu: sampler.as_ref(),
        options: &options,
        workloads: &workloads,
        output_lens: &asked.output_lens,
        vocab: spec.vocab,
        eos_tokens: &[],
    };
    carry_out(args, asked, subject, &mut measure)
}

/// One that the server will see.
fn first_prompt(workloads: &[Workload], vocab: usize) -> Vec<u32> {
    let lines: Option<Vec<&Vec<u32>>> = workloads
        .iter()
        .map(|w| match &w.prompts {
            Prompts::Lines(lines) => lines.first(),
            Prompts::Random(_) | Prompts::Fresh(_) => None,
        })
        .collect();
    let first = lines.and_then(|lines| lines.first().copied().cloned());
    first.unwrap_or_else(|| {
        // The largest, too: a server with a smaller vocabulary refuses it now and not later. Alone it may be
        // a special token, which is no text.
        let last = vocab.saturating_sub(1);
        [vocab / 4, vocab / 3, vocab / 2, last]
            .map(|id| id as u32)
            .into()
    })
}

/// Random prompts differ in every run, so that no prefix cache answers them.
fn not_seen_before(mut workload: Workload) -> Workload {
    if let Prompts::Random(lengths) = workload.prompts {
        workload.prompts = Prompts::Fresh(lengths);
    }
    workload
}

/// vLLM keeps whole blocks of so many tokens.
const LEAST_KEPT: usize = 16;

/// Whether prompts come again that a server may have kept.
fn repeats(workloads: &[Workload]) -> bool {
    workloads.iter().any(|w| match &w.prompts {
        Prompts::Lines(lines) => lines.iter().any(|ids| ids.len() >= LEAST_KEPT),
        Prompts::Random(_) | Prompts::Fresh(_) => false,
    })
}

/// NVML sees the GPUs of this machine alone.
fn gpu_of(args: &SweepArgs, address: &Address) -> Option<GpuId> {
    let index = match args.engine.model.device {
        DeviceChoice::Cpu => return None,
        DeviceChoice::Cuda { ordinal } => ordinal,
        DeviceChoice::Auto => 0,
    };
    address.is_local().then_some(GpuId::Index(index as u32))
}

/// Options that ask for the same server, model and form of prompts.
fn as_options(args: &SweepArgs, contact: &Contact) -> Vec<String> {
    let given = [
        ("--target", Some(contact.address.to_string())),
        ("--target-model", Some(contact.dialect.model.clone())),
        (
            "--target-prompts",
            Some(contact.dialect.prompts.to_string()),
        ),
        ("--model", args.engine.model.model.clone()),
    ];
    let words = given
        .into_iter()
        .filter_map(|(name, value)| Some([name.into(), value?]));
    words.flatten().collect()
}
