//! Which prompts a sweep sends, and how long the outputs are.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use batchlab::Error;
use batchlab::model::Tokenizer;
use batchlab::sweep::{Prompts, Workload};
use batchlab::workload::LengthMix;

const DEFAULT_PROMPT: &str = "Shall I compare thee to a summer's day? Thou art";
/// A label is the prompt itself up to this many characters.
const LONGEST_LABEL: usize = 60;

#[derive(Debug, Clone, clap::Args)]
#[command(
    next_help_heading = "Prompts and outputs (each may be given several times; each adds a workload)"
)]
pub struct PromptArgs {
    /// One fixed prompt [default: a line of verse]
    #[arg(long, value_name = "TEXT")]
    prompt: Vec<String>,
    /// A UTF-8 file with one prompt a line, taken in turn
    #[arg(long, value_name = "FILE")]
    prompt_file: Vec<PathBuf>,
    /// Random tokens of this length: 32, 16-64 or a mix such as 32:0.5,512:0.5
    #[arg(long, value_name = "LENGTHS")]
    input_len: Vec<LengthMix>,
    /// New tokens of a request: 32, 16-64 or a mix such as 16:0.7,128:0.3 [default: 32]
    #[arg(long, value_name = "LENGTHS")]
    output_len: Vec<LengthMix>,
}

/// Prompts as texts, under their label.
pub struct Texts {
    pub label: String,
    /// The option that asks for them, and its value.
    pub option: [String; 2],
    source: Source,
}

enum Source {
    Lines(Vec<String>),
    Random(LengthMix),
}

impl PromptArgs {
    /// Reads the files. Where no prompt is asked for: random tokens of `default_inputs`, or one fixed
    /// prompt if that is empty. Errors: unreadable, not UTF-8, or empty.
    pub fn texts(&self, default_inputs: &[&str]) -> Result<Vec<Texts>, Error> {
        let mut all = Vec::new();
        for prompt in &self.prompt {
            if prompt.is_empty() {
                return Err(Error::Usage(
                    "--prompt is empty; give at least one character".into(),
                ));
            }
            all.push(Texts::fixed(prompt));
        }
        for path in &self.prompt_file {
            all.push(Texts::file(path)?);
        }
        all.extend(self.input_len.iter().map(Texts::random));
        if all.is_empty() {
            all.extend(mixes(default_inputs)?.iter().map(Texts::random));
        }
        if all.is_empty() {
            all.push(Texts::fixed(DEFAULT_PROMPT));
        }
        Ok(all)
    }

    /// The output lengths asked for, else `defaults`.
    pub fn outputs(&self, defaults: &[&str]) -> Result<Vec<LengthMix>, Error> {
        match self.output_len.is_empty() {
            true => mixes(defaults),
            false => Ok(self.output_len.clone()),
        }
    }
}

fn mixes(texts: &[&str]) -> Result<Vec<LengthMix>, Error> {
    let parsed = texts.iter().map(|text| text.parse().map_err(Error::Usage));
    parsed.collect()
}

/// The text of a `--prompt-file`. Errors: unreadable, not UTF-8.
pub fn read_prompt_file(path: &Path) -> Result<String, Error> {
    let bytes = std::fs::read(path)
        .map_err(|e| wrong_file(path, &format!("cannot be read ({e}); check the path")))?;
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        wrong_file(
            path,
            &format!("not UTF-8 at byte {at}; convert it to UTF-8"),
        )
    })
}

fn wrong_file(path: &Path, cause: &str) -> Error {
    Error::Usage(format!("--prompt-file {}: {cause}", path.display()))
}

impl Texts {
    fn random(mix: &LengthMix) -> Self {
        Self {
            label: format!("random tokens: {mix}"),
            option: ["--input-len".into(), mix.to_string()],
            source: Source::Random(mix.clone()),
        }
    }

    fn fixed(prompt: &str) -> Self {
        let count = prompt.chars().count();
        Self {
            label: match count > LONGEST_LABEL {
                false => prompt.into(),
                true => {
                    let head: String = prompt.chars().take(LONGEST_LABEL).collect();
                    format!("{head}… ({count} characters, {:08x})", digest(prompt))
                }
            },
            option: ["--prompt".into(), prompt.into()],
            source: Source::Lines(vec![prompt.into()]),
        }
    }

    fn file(path: &Path) -> Result<Self, Error> {
        let shown = path.display();
        let text = read_prompt_file(path)?;
        let lines: Vec<String> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(String::from)
            .collect();
        if lines.is_empty() {
            return Err(wrong_file(path, "no prompt in it; give one a line"));
        }
        Ok(Self {
            label: format!("{shown} ({} prompts, {:08x})", lines.len(), digest(&text)),
            option: ["--prompt-file".into(), shown.to_string()],
            source: Source::Lines(lines),
        })
    }

    pub fn workload(&self, tokenizer: &Tokenizer) -> Result<Workload, Error> {
        let encode = |line: &String| match tokenizer.encode(line)? {
            ids if ids.is_empty() => Err(Error::Usage(format!(
                "the prompt {line:?} has no tokens; give a longer one"
            ))),
            ids => Ok(ids),
        };
        Ok(Workload {
            label: self.label.clone(),
            prompts: match &self.source {
                Source::Lines(lines) => {
                    Prompts::Lines(lines.iter().map(encode).collect::<Result<_, _>>()?)
                }
                Source::Random(mix) => Prompts::Random(mix.clone()),
            },
        })
    }
}

/// Tells two texts of one label apart, so that `--resume` notices a changed file.
fn digest(text: &str) -> u32 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish() as u32
}
