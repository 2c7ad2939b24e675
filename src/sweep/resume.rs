//! Going on with a sweep that was left: what is there, and whether it is the same sweep.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value;

use super::CellResult;
use crate::Error;

/// The results in a cells.jsonl, none if there is no such file, and how many of its bytes are
/// whole. A last line that was torn by a crash is left out; any other damage is an error.
pub fn read_cells(path: &Path) -> Result<(Vec<CellResult>, u64), Error> {
    let wrong = |cause: String| {
        Error::Results(format!(
            "{}: {cause}; measure again with another --output",
            path.display()
        ))
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        Err(e) => return Err(wrong(e.to_string())),
    };
    let whole = text.rfind('\n').map_or(0, |last| last + 1);
    let cells = text[..whole]
        .lines()
        .enumerate()
        .map(|(i, line)| {
            serde_json::from_str(line)
                .map_err(|e| wrong(format!("line {} is damaged ({e})", i + 1)))
        })
        .collect::<Result<_, _>>()?;
    Ok((cells, whole as u64))
}

/// What differs between two configurations, one line each: `grid.batch_sizes is [1,4], was [1]`.
pub fn differences(was: &Value, is: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", was, is, &mut found);
    found
}

fn compare(path: &str, was: &Value, is: &Value, found: &mut Vec<String>) {
    if let (Value::Object(old), Value::Object(new)) = (was, is) {
        let added = new.keys().filter(|key| !old.contains_key(*key));
        for key in old.keys().chain(added) {
            let inner = match path {
                "" => key.clone(),
                _ => format!("{path}.{key}"),
            };
            let of = |object: &serde_json::Map<String, Value>| {
                object.get(key).cloned().unwrap_or(Value::Null)
            };
            compare(&inner, &of(old), &of(new), found);
        }
    } else if let (Value::Array(old), Value::Array(new)) = (was, is)
        && old.len() == new.len()
    {
        for (i, (old, new)) in old.iter().zip(new).enumerate() {
            compare(&format!("{path}[{i}]"), old, new, found);
        }
    } else if was != is {
        found.push(format!("{path} is {is}, was {was}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences_are_named_by_their_path() {
        let was = json!({"model": "a", "grid": {"batch_sizes": [1], "windows_ms": [0.0]}});
        let is =
            json!({"model": "a", "grid": {"batch_sizes": [1, 4], "windows_ms": [0.0]}, "seed": 1});
        assert_eq!(
            differences(&was, &is),
            ["grid.batch_sizes is [1,4], was [1]", "seed is 1, was null"]
        );
        assert!(differences(&is, &is.clone()).is_empty());
        let (was, is) = (json!([{"a": 1}, 2]), json!([{"a": 3}, 2]));
        assert_eq!(differences(&was, &is), ["[0].a is 3, was 1"]);
    }

    #[test]
    fn a_torn_last_line_is_left_out_and_a_damaged_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cells.jsonl");
        assert_eq!(read_cells(&path).unwrap(), (vec![], 0));
        std::fs::write(&path, "{\"cell\": {\"pol").unwrap();
        assert_eq!(read_cells(&path).unwrap(), (vec![], 0));
        std::fs::write(&path, "{\"cell\": 1}\n{").unwrap();
        let error = read_cells(&path).unwrap_err().to_string();
        assert!(error.contains("line 1 is damaged"), "{error}");
    }
}
