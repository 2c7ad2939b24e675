//! report.html as a browser shows it: on a desk and on a phone, light and dark.
//!
//! Skipped, with a printed reason, where there is no Chromium; BATCHLAB_REQUIRE_CHROMIUM=1 makes that a
//! failure.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::tempdir;

/// Runs inside the page and tells the outer one what it sees.
const PROBE: &str = r#"<script>
addEventListener("load", () => {
  const root = document.documentElement, pictures = [...document.querySelectorAll(".picture svg")];
  const outside = pictures.flatMap(svg => {
    const frame = svg.getBoundingClientRect();
    return [...svg.querySelectorAll("text")].filter(text => {
      const box = text.getBoundingClientRect();
      return box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
    }).map(text => text.textContent);
  });
  const style = getComputedStyle(document.body);
  parent.postMessage(JSON.stringify({
    scroll: root.scrollWidth, width: innerWidth,
    pictures: pictures.map(svg => svg.getBoundingClientRect()).map(r => [r.width, r.height]),
    outside, background: style.backgroundColor, ink: style.color,
    svgInk: [...new Set(pictures.flatMap(svg => [...svg.querySelectorAll("text")]).map(t => getComputedStyle(t).fill))],
    broken: [...document.querySelectorAll("a[href^='#']")].map(a => a.getAttribute("href").slice(1)).filter(id => !document.getElementById(id)),
    cards: document.querySelectorAll(".card").length,
    verdicts: [...document.querySelectorAll(".ruling")].map(e => e.textContent),
    figures: document.querySelectorAll("figure").length,
    tables: document.querySelectorAll("figure table").length,
  }), "*");
});
</script>"#;

fn chromium() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .flat_map(|dir| names.map(|name| dir.join(name)))
        .find(|program| program.is_file());
    if found.is_none() {
        assert!(
            std::env::var_os("BATCHLAB_REQUIRE_CHROMIUM").is_none(),
            "BATCHLAB_REQUIRE_CHROMIUM is set and there is no Chromium"
        );
        eprintln!("skipped: no Chromium on this machine");
    }
    found
}

/// A sweep that has something for every section that needs no GPU.
fn report(folder: &Path) -> String {
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
    fs::read_to_string(folder.join("report.html")).unwrap()
}

/// What the page says of itself in a frame of this width.
fn seen(chromium: &Path, folder: &Path, width: u32, dark: bool) -> Value {
    let outer = folder.join("outer.html");
    let frame = format!(
        "<iframe src=\"probed.html\" style=\"width:{width}px;height:900px;border:0\"></iframe>\
         <script>addEventListener('message', e => {{ const pre = document.createElement('pre'); \
         pre.id = 'seen'; pre.textContent = e.data; document.body.append(pre); }})</script>"
    );
    fs::write(&outer, frame).unwrap();
    let profile = tempdir().unwrap();
    let scheme = u8::from(!dark);
    let output = Command::new(chromium)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
        ])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ])
        .args([
            "--window-size=1400,1000",
            "--virtual-time-budget=10000",
            "--dump-dom",
        ])
        .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}", outer.display()))
        .output()
        .unwrap();
    let dom = String::from_utf8(output.stdout).unwrap();
    let start = dom.find("<pre id=\"seen\">").expect("the page answered") + 15;
    let end = dom[start..].find("</pre>").unwrap() + start;
    let text = dom[start..end]
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn the_report_can_be_read_on_a_desk_and_a_phone_in_light_and_dark() {
    let Some(chromium) = chromium() else {
        return;
    };
    let dir = tempdir().unwrap();
    let folder = dir.path().join("r");
    let html = report(&folder);
    fs::write(folder.join("probed.html"), html + PROBE).unwrap();
    for (width, dark) in [(1200, false), (390, false), (1200, true)] {
        let seen = seen(&chromium, &folder, width, dark);
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
}
