//! Every error has OpenAI's shape, and names what is wrong.

use std::io::Write;

use serde_json::{Value, json};

use crate::client::{Stream, connect, head, send};
use crate::process::Served;
use crate::spelled;

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// Status, param, code and a part of the message.
type Wanted = (
    u16,
    Option<&'static str>,
    Option<&'static str>,
    &'static str,
);

fn check(served: &Served, path: &str, body: &[u8], wanted: Wanted) {
    let (status, param, code, message) = wanted;
    let answer = send(served.address, "POST", path, "", body);
    let shown = String::from_utf8_lossy(&body[..body.len().min(200)]);
    let error = answer.error();
    let what = format!("{path} {shown}: {} {error}", answer.status);
    assert_eq!(answer.status, status, "{what}");
    assert_eq!(error["type"], "invalid_request_error", "{what}");
    assert_eq!(error["param"], json!(param), "{what}");
    assert_eq!(error["code"], json!(code), "{what}");
    assert!(
        error["message"].as_str().unwrap().contains(message),
        "{what}"
    );
}

#[test]
fn wrong_completions() {
    let served = Served::start(&["--max-num-seqs=4", "--max-queue-size=4"]);
    let with = |more: Value| {
        let mut body = json!({"prompt": "a"});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    };
    let field = |name, message| (400, Some(name), None, message);
    let unsupported = |name| {
        (
            400,
            Some(name),
            Some("unsupported_parameter"),
            "not supported",
        )
    };
    let long = Some("context_length_exceeded");
    for (body, wanted) in [
        (json!([]), (400, None, None, "not a JSON object")),
        (json!({}), field("prompt", "missing")),
        (json!({"prompt": null}), field("prompt", "missing")),
        (json!({"prompt": ""}), field("prompt", "empty")),
        (json!({"prompt": []}), field("prompt", "empty")),
        (json!({"prompt": ["a", ""]}), field("prompt", "empty")),
        (json!({"prompt": {}}), field("prompt", "list of token ids")),
        (json!({"prompt": [1, "a"]}), field("prompt", "no token id")),
        (
            json!({"prompt": [-1]}),
            field("prompt", "-1 is no token id"),
        ),
        (
            json!({"prompt": [60000]}),
            field("prompt", "not in the vocabulary of 50257"),
        ),
        (
            json!({"prompt": "a ".repeat(600)}),
            (400, Some("prompt"), long, "context is 512 tokens"),
        ),
        (
            with(json!({"max_tokens": 512})),
            (400, Some("prompt"), long, "512 more are asked for"),
        ),
        (
            with(json!({"max_tokens": 0})),
            field("max_tokens", "at least 1"),
        ),
        (
            with(json!({"max_tokens": -1})),
            field("max_tokens", "cannot be read"),
        ),
        (
            with(json!({"max_tokens": "9"})),
            field("max_tokens", "cannot be read"),
        ),
        (
            with(json!({"model": "gpt-4"})),
            (
                404,
                Some("model"),
                Some("model_not_found"),
                "'gpt-4' does not exist",
            ),
        ),
        (with(json!({"model": 4})), field("model", "cannot be read")),
        (
            with(json!({"temperature": 2.5})),
            field("temperature", "0 (greedy)"),
        ),
        (
            with(json!({"temperature": -0.1})),
            field("temperature", "0 (greedy)"),
        ),
        (
            with(json!({"temperature": "hot"})),
            field("temperature", "cannot be read"),
        ),
        (with(json!({"top_p": 0})), field("top_p", "above 0")),
        (with(json!({"top_p": 1.1})), field("top_p", "up to 1")),
        (with(json!({"top_k": -2})), field("top_k", "0 or -1")),
        (
            with(json!({"repetition_penalty": 0})),
            field("repetition_penalty", "above 0"),
        ),
        (with(json!({"n": 0})), field("n", "1 to 128")),
        (with(json!({"n": 129})), field("n", "1 to 128")),
        (with(json!({"n": 9})), field("n", "8 places")),
        (with(json!({"seed": 0.5})), field("seed", "cannot be read")),
        (with(json!({"logprobs": 21})), field("logprobs", "0 to 20")),
        (
            with(json!({"logprobs": true})),
            field("logprobs", "cannot be read"),
        ),
        (
            with(json!({"echo": true, "logprobs": 0})),
            unsupported("echo"),
        ),
        (with(json!({"stop": ""})), field("stop", "empty")),
        (
            with(json!({"stop": ["1", "2", "3", "4", "5"]})),
            field("stop", "up to 4"),
        ),
        (with(json!({"stop": [1]})), field("stop", "list of texts")),
        (
            with(json!({"stream": "yes"})),
            field("stream", "cannot be read"),
        ),
        (
            with(json!({"stream_options": {}})),
            field("stream_options", "for streams"),
        ),
        (
            with(json!({"stream": true, "stream_options": {"include_obfuscation": true}})),
            field("stream_options", "unknown field `include_obfuscation`"),
        ),
        (with(json!({"best_of": 2})), unsupported("best_of")),
        (with(json!({"suffix": "z"})), unsupported("suffix")),
        (
            with(json!({"logit_bias": {"1": 5}})),
            unsupported("logit_bias"),
        ),
        (
            with(json!({"presence_penalty": 0.5})),
            unsupported("presence_penalty"),
        ),
        (
            with(json!({"frequency_penalty": -1})),
            unsupported("frequency_penalty"),
        ),
        (with(json!({"min_tokens": 3})), unsupported("min_tokens")),
        (
            with(json!({"max_completion_tokens": 3})),
            unsupported("max_completion_tokens"),
        ),
        (
            with(json!({"guided_json": {"type": "object"}})),
            unsupported("guided_json"),
        ),
        (
            with(json!({"a_slip_of_the_pen": 1})),
            unsupported("a_slip_of_the_pen"),
        ),
    ] {
        check(&served, COMPLETIONS, body.to_string().as_bytes(), wanted);
    }
    for body in [
        &b""[..],
        b"{",
        b"{\"prompt\": \"\\ud800\"}",
        b"\xff",
        b"{\"prompt\": \"\xff\"}",
    ] {
        check(
            &served,
            COMPLETIONS,
            body,
            (400, None, None, "not valid JSON"),
        );
    }
    // Nothing of it stays.
    assert_eq!(served.metric("requests_running"), Some(0.0));
    assert_eq!(served.metric("kv_pages_used"), Some(0.0));
}

#[test]
fn wrong_conversations() {
    let folder = spelled::model();
    let template = folder.path().join("chat_template.jinja");
    let text = "{% if messages[0].role == 'nobody' %}{{ raise_exception('who?') }}{% endif %}{{ messages[0].content }}";
    std::fs::write(template, text).unwrap();
    let served = Served::start(&["--model", folder.path().to_str().unwrap()]);
    let messages = |message| (400, Some("messages"), None, message);
    let unsupported = |name| {
        (
            400,
            Some(name),
            Some("unsupported_parameter"),
            "not supported",
        )
    };
    let said = |message: Value| json!({"messages": [message]});
    let with = |more: Value| {
        let mut body = said(json!({"role": "user", "content": "é"}));
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    };
    let user = |more: Value| {
        let mut message = json!({"role": "user", "content": "é"});
        message
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        said(message)
    };
    let long = Some("context_length_exceeded");
    for (body, wanted) in [
        (json!({}), messages("missing")),
        (json!({"messages": []}), messages("empty")),
        (
            json!({"messages": "é"}),
            messages("list of {role, content}"),
        ),
        (
            said(json!({"content": "é"})),
            messages("missing field `role`"),
        ),
        (
            said(json!({"role": "user"})),
            messages("'content' is a text"),
        ),
        (
            said(json!({"role": "user", "content": 1})),
            messages("'content' is a text"),
        ),
        (
            said(json!({"role": "user", "content": ""})),
            messages("rendered nothing"),
        ),
        (
            said(json!({"role": "nobody", "content": "é"})),
            messages("who?"),
        ),
        (
            user(json!({"content": [{"type": "image_url", "image_url": {}}]})),
            messages("`image_url`"),
        ),
        (
            user(json!({"content": [{"type": "text", "text": "é", "cache": 1}]})),
            messages("`cache`"),
        ),
        (
            user(json!({"name": "me"})),
            (
                400,
                Some("messages"),
                Some("unsupported_parameter"),
                "'name' of a message",
            ),
        ),
        (
            user(json!({"tool_calls": [{}]})),
            (
                400,
                Some("messages"),
                Some("unsupported_parameter"),
                "'tool_calls'",
            ),
        ),
        (
            user(json!({"content": "é".repeat(300)})),
            (400, Some("messages"), long, "the prompt has 600"),
        ),
        (
            with(json!({"max_tokens": 1000})),
            (400, Some("messages"), long, "1000 more"),
        ),
        (
            with(json!({"max_tokens": 1, "max_completion_tokens": 2})),
            (400, Some("max_tokens"), None, "give one"),
        ),
        (
            with(json!({"logprobs": 3})),
            (400, Some("logprobs"), None, "cannot be read"),
        ),
        (
            with(json!({"top_logprobs": 2})),
            (400, Some("top_logprobs"), None, "needs \"logprobs\": true"),
        ),
        (
            with(json!({"logprobs": true, "top_logprobs": 21})),
            (400, Some("top_logprobs"), None, "0 to 20"),
        ),
        (
            with(json!({"tools": [{"type": "function"}]})),
            unsupported("tools"),
        ),
        (
            with(json!({"tool_choice": "auto"})),
            unsupported("tool_choice"),
        ),
        (
            with(json!({"response_format": {"type": "json_object"}})),
            unsupported("response_format"),
        ),
        (
            with(json!({"reasoning_effort": "low"})),
            unsupported("reasoning_effort"),
        ),
        (
            with(json!({"modalities": ["audio"]})),
            unsupported("modalities"),
        ),
        (with(json!({"echo": true})), unsupported("echo")),
    ] {
        check(&served, CHAT, body.to_string().as_bytes(), wanted);
    }
    // What clients send of an earlier answer asks for nothing.
    let earlier = user(json!({"refusal": null, "annotations": [], "tool_calls": null}));
    assert_eq!(served.post(CHAT, &earlier).status, 200);
}

#[test]
fn a_model_without_a_template_says_so() {
    let served = Served::start(&[]);
    let body = json!({"messages": [{"role": "user", "content": "a"}]}).to_string();
    check(
        &served,
        CHAT,
        body.as_bytes(),
        (400, Some("messages"), None, "--chat-template FILE"),
    );
}

#[test]
fn wrong_addresses_and_methods() {
    let served = Served::start(&[]);
    for (method, path, status, message) in [
        ("GET", "/v1/nothing", 404, "there is no GET /v1/nothing"),
        (
            "POST",
            "/v1/embeddings",
            404,
            "there is no POST /v1/embeddings",
        ),
        ("GET", COMPLETIONS, 405, "does not take GET"),
        ("DELETE", "/v1/models", 405, "does not take DELETE"),
    ] {
        let answer = send(served.address, method, path, "", b"");
        assert_eq!(answer.status, status);
        let error = answer.error();
        assert!(
            error["message"].as_str().unwrap().contains(message),
            "{error}"
        );
        assert_eq!(error["type"], "invalid_request_error");
    }
}

#[test]
fn bodies_that_are_no_plain_json() {
    let served = Served::start(&[]);
    let packed = send(
        served.address,
        "POST",
        COMPLETIONS,
        "content-encoding: gzip\r\n",
        b"{}",
    );
    assert_eq!(packed.status, 415);
    assert!(
        packed.error()["message"]
            .as_str()
            .unwrap()
            .contains("content-encoding")
    );

    let mut stream = connect(served.address);
    let head = head("POST", COMPLETIONS, "transfer-encoding: chunked\r\n");
    stream
        .write_all(format!("{head}no length\r\n").as_bytes())
        .unwrap();
    let broken = Stream::read(stream).whole();
    assert_eq!(broken.status, 400);
    assert!(
        broken.error()["message"]
            .as_str()
            .unwrap()
            .contains("broke off")
    );
}
