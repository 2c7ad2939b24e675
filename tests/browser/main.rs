//! report.html as a browser shows it: on a desk and on a phone, light and dark.
//!
//! Skipped, with a printed reason, where there is no Chromium; BATCHLAB_REQUIRE_CHROMIUM=1 makes that a
//! failure.

mod chromium;

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::tempdir;

use crate::chromium::Page;

/// What the page sees of itself.
const PROBE: &str = r#"(() => {
  const root = document.documentElement, pictures = [...document.querySelectorAll(".picture svg")];
  const outside = pictures.flatMap(svg => {
    const frame = svg.getBoundingClientRect();
    return [...svg.querySelectorAll("text")].filter(text => {
      const box = text.getBoundingClientRect();
      return box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
    }).map(text => text.textContent);
  });
  const style = getComputedStyle(document.body);
  return {
    scroll: root.scrollWidth,
    pictures: pictures.map(svg => svg.getBoundingClientRect()).map(r => [r.width, r.height]),
    outside, background: style.backgroundColor, ink: style.color,
    svgInk: [...new Set(pictures.flatMap(svg => [...svg.querySelectorAll("text")]).map(t => getComputedStyle(t).fill))],
    broken: [...document.querySelectorAll("a[href^='#']")].map(a => a.getAttribute("href").slice(1)).filter(id => !document.getElementById(id)),
    cards: document.querySelectorAll(".card").length,
    verdicts: [...document.querySelectorAll(".ruling")].map(e => e.textContent),
    figures: document.querySelectorAll("figure").length,
    tables: document.querySelectorAll("figure table").length,
  };
})()"#;

/// A sweep that has something for every section that needs no GPU.
fn report(folder: &Path) {
    let status = Command::new(env!("CARGO_BIN_EXE_batchlab"))
        .args([
            "sweep",
            "--device=cpu",
            "--experiment=day2,padding,idle-rows,saturation",
        ])
        .args([
            "--batch-sizes=1,2",
            "--windows-ms=0,5",
            "--num-prompts=8",
            "--num-warmups=1",
            "--output-len=8",
        ])
        .args([
            "--min-seconds=0",
            "--goodput",
            "ttft:100",
            "e2el:1000",
            "--output",
        ])
        .arg(folder)
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn the_report_can_be_read_on_a_desk_and_a_phone_in_light_and_dark() {
    let Some(mut page) = Page::open() else {
        return;
    };
    let dir = tempdir().unwrap();
    let folder = dir.path().join("r");
    report(&folder);
    for (width, dark) in [(1200, false), (390, false), (1200, true)] {
        page.screen(width, 900, dark);
        // Another address each time, so that the page before is not taken for this one.
        let address = format!("file://{}/report.html?{width}-{dark}", folder.display());
        page.visit(&address);
        let seen = page.value(PROBE);
        let list = |key: &str| seen[key].as_array().unwrap().clone();
        assert!(
            seen["scroll"].as_u64().unwrap() <= u64::from(width),
            "{width}: the page is wider than the screen: {}",
            seen["scroll"]
        );
        let pictures = list("pictures");
        assert!(pictures.len() >= 12, "{}", pictures.len());
        for picture in &pictures {
            let (w, h) = (picture[0].as_f64().unwrap(), picture[1].as_f64().unwrap());
            assert!(w >= 350.0 && h >= 80.0, "{width}: a picture of {w} × {h}");
        }
        assert_eq!(
            list("outside"),
            Vec::<Value>::new(),
            "{width}: text outside its picture"
        );
        assert_eq!(
            list("broken"),
            Vec::<Value>::new(),
            "{width}: links to nowhere"
        );
        // Own limits beside the three presets; eleven expectations; numbers behind every picture.
        assert_eq!(seen["cards"], 4);
        assert_eq!(list("verdicts").len(), 11);
        assert_eq!(seen["figures"], seen["tables"]);
        let (background, ink) = match dark {
            false => ("rgb(255, 255, 255)", "rgb(31, 35, 40)"),
            true => ("rgb(13, 17, 23)", "rgb(230, 237, 243)"),
        };
        assert_eq!(
            (&seen["background"], &seen["ink"]),
            (&background.into(), &ink.into())
        );
        assert!(list("svgInk").contains(&ink.into()), "{:?}", list("svgInk"));
    }
    assert_eq!(page.errors, Vec::<String>::new());
}
