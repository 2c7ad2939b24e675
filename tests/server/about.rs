//! What a server says of itself.

use std::collections::BTreeSet;

use serde_json::json;

use crate::process::Served;

#[test]
fn models_health_and_readiness() {
    let served = Served::start(&["--served-model-name", "shakespeare/small"]);
    assert_eq!(served.get("/health").status, 200);
    assert_eq!(served.get("/ready").status, 200);
    let models = served.get("/v1/models").json();
    assert_eq!(models["object"], "list");
    let model = &models["data"][0];
    assert_eq!(model["id"], "shakespeare/small");
    assert_eq!(model["object"], "model");
    assert_eq!(model["max_model_len"], 512);
    assert!(model["created"].as_u64().unwrap() > 1_700_000_000);
    // By its name, with its slash as it is and escaped.
    for name in ["shakespeare/small", "shakespeare%2Fsmall"] {
        assert_eq!(&served.get(&format!("/v1/models/{name}")).json(), model);
    }
    let unknown = served.get("/v1/models/another");
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.error()["code"], "model_not_found");
    let no_text = served.get("/v1/models/%FF");
    assert_eq!(
        (no_text.status, &no_text.error()["code"]),
        (404, &"model_not_found".into())
    );
}

#[test]
fn the_context_is_at_most_as_asked() {
    let served = Served::start(&["--max-model-len=64"]);
    assert_eq!(
        served.get("/v1/models").json()["data"][0]["max_model_len"],
        64
    );
}

/// Names and kinds in docs/serving.md are those of /metrics.
#[test]
fn metrics_are_those_of_the_docs() {
    let served = Served::start(&[]);
    served.complete(&json!({"prompt": "a", "max_tokens": 1}));
    let answer = served.get("/metrics");
    let kind = answer.header("content-type").unwrap();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    let text = answer.text();
    assert!(text.ends_with("# EOF\n"));
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let told: BTreeSet<(&str, &str)> = types.filter_map(|line| line.split_once(' ')).collect();

    let docs = include_str!("../../docs/serving.md").lines();
    let mut named: BTreeSet<(&str, &str)> = docs.filter_map(metric).collect();
    assert!(named.remove(&("batchlab_gpu", "gauge")), "of a GPU only");
    assert_eq!(told, named);
}

/// Family and kind of a metric that a table's row tells.
fn metric(row: &str) -> Option<(&str, &str)> {
    let [name, kind, _] = row.strip_prefix("| ")?.splitn(3, " | ").collect::<Vec<_>>()[..] else {
        return None;
    };
    let name = name.strip_prefix('`')?.split(['`', '{']).next()?;
    let ending = match kind {
        "counter" => "_total",
        "info" => "_info",
        _ => "",
    };
    let is_metric = name.starts_with("batchlab_");
    is_metric.then_some((name.strip_suffix(ending)?, kind))
}
