//! Jinja as `apply_chat_template` sets it up (transformers, `utils/chat_template_utils.py`): block
//! tags leave no line behind, Python's methods work, and a few functions are added.

use std::io;

use jiff::ZonedDateTime;
use jiff::fmt::strtime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};
use minijinja_contrib::pycompat;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// The one template of an environment, as errors name it.
pub(super) const NAME: &str = "template";

/// Steps of a rendering, at most: a second of work, and far more than long conversations take.
const MOST_STEPS: u64 = 10_000_000;

/// Errors: `source` is not Jinja.
pub(super) fn environment(source: String) -> Result<Environment<'static>, Error> {
    let mut jinja = Environment::new();
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    jinja.set_syntax(syntax.build()?);
    jinja.set_fuel(Some(MOST_STEPS));
    jinja.set_auto_escape_callback(|_| AutoEscape::None);
    jinja.set_unknown_method_callback(pycompat::unknown_method_callback);
    jinja.add_filter("tojson", tojson);
    jinja.add_function("raise_exception", raise_exception);
    jinja.add_template_owned(NAME, generation_as_if(&source))?;
    Ok(jinja)
}

/// What went wrong, in one line.
pub(super) fn cause(error: &Error) -> String {
    if error.kind() == ErrorKind::OutOfFuel {
        return format!("it does not end within {MOST_STEPS} steps");
    }
    let text = error.to_string();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The function `strftime_now(format)`.
pub(super) fn strftime(now: ZonedDateTime) -> Value {
    Value::from_function(move |format: String| {
        strtime::format(format, &now)
            .map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))
    })
}

/// `{% generation %}` marks the assistant's part for training. It is Hugging Face's own tag; what it
/// does to the text is what `{% if true %}` does.
fn generation_as_if(source: &str) -> String {
    let mut pieces = source.split("{%");
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (tag, rest) = piece.split_at(piece.find("%}").unwrap_or(piece.len()));
        let word = tag.trim_matches(|c: char| c.is_whitespace() || "+-".contains(c));
        let tag = match word {
            "generation" => tag.replace(word, "if true"),
            "endgeneration" => tag.replace(word, "endif"),
            _ => tag.to_owned(),
        };
        text += &format!("{{%{tag}{rest}");
    }
    text
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=indent)`. Jinja's own filter escapes for
/// HTML, and minijinja's sets no spaces.
fn tojson(value: Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    options.assert_all_used()?;
    let failed = |e: &dyn std::error::Error| Error::new(ErrorKind::BadSerialization, e.to_string());
    let mut json = Vec::new();
    match indent {
        Some(width) => {
            let spaces = " ".repeat(width);
            let layout = PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut json, layout))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut json, OneLine)),
    }
    .map_err(|e| failed(&e))?;
    String::from_utf8(json).map_err(|e| failed(&e))
}

/// JSON in one line with a space after each comma and colon.
struct OneLine;

impl Formatter for OneLine {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        separator(out, first)
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        separator(out, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

fn separator<W: ?Sized + io::Write>(out: &mut W, first: bool) -> io::Result<()> {
    match first {
        true => Ok(()),
        false => out.write_all(b", "),
    }
}
