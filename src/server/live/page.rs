//! The page's files. Each has a route of its own, so that a strict Content-Security-Policy holds.

use crate::report::HOUSE_CSS;
use crate::report::chart::theme;

/// One answer of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageFile {
    pub path: &'static str,
    pub content_type: &'static str,
    pub body: String,
}

const HTML: &str = include_str!("page/index.html");
const CSS: &str = include_str!("page/page.css");
const ICON: &str = include_str!("page/icon.svg");
/// One script; main.js starts it.
const SCRIPT: &str = concat!(
    "\"use strict\";\n",
    include_str!("page/format.js"),
    include_str!("page/clock.js"),
    include_str!("page/requests.js"),
    include_str!("page/tape.js"),
    include_str!("page/timeline.js"),
    include_str!("page/span.js"),
    include_str!("page/spark.js"),
    include_str!("page/numbers.js"),
    include_str!("page/main.js"),
);

/// The page hears [`super::Snapshot`]s as server-sent events from `/live`.
pub fn page_files() -> [PageFile; 4] {
    let file = |path, content_type, body| PageFile {
        path,
        content_type,
        body,
    };
    let css = format!("{HOUSE_CSS}{}{CSS}", theme::phase_variables());
    [
        file("/", "text/html; charset=utf-8", HTML.into()),
        file("/live.css", "text/css; charset=utf-8", css),
        file("/live.js", "text/javascript; charset=utf-8", SCRIPT.into()),
        file("/live.svg", "image/svg+xml", ICON.into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_but_its_files() {
        let files = page_files();
        let paths: Vec<_> = files.iter().map(|f| f.path).collect();
        for link in HTML.split(['"', '\'']).filter(|s| s.starts_with('/')) {
            assert!(paths.contains(&link), "{link}");
        }
        for file in &files {
            let body = file.body.replace("http://www.w3.org/2000/svg", "");
            assert!(!body.contains("http"), "{}", file.path);
        }
        assert!(SCRIPT.contains("new EventSource(\"/live\")"));
    }

    #[test]
    fn nothing_in_it_is_inline() {
        assert!(!HTML.contains("style="));
        assert!(!HTML.contains("<style"));
        assert!(!HTML.contains(" on"));
        assert_eq!(HTML.matches("<script").count(), 1);
        assert!(HTML.contains("<script src="));
    }

    #[test]
    fn what_the_script_writes_to_is_in_the_page() {
        for call in ["$(\"", "say(\""] {
            for name in SCRIPT.split(call).skip(1) {
                let name = name.split('"').next().unwrap();
                assert!(HTML.contains(&format!("id=\"{name}\"")), "{name}");
            }
        }
    }
}
