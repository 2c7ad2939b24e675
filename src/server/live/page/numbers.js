// Everything that the page says in numbers and words.

const $ = id => document.getElementById(id);

function say(id, text) {
  const element = $(id);
  if (element.textContent !== text) element.textContent = text;
}

const sparks = Object.fromEntries(["output", "rows", "queued", "kv", "gpu"].map(id => [id, new Spark(`spark-${id}`)]));

function showAbout(about) {
  say("model", `Batching ${about.model}`);
  say("about", `${about.policy} · ${about.device}`);
  const legend = [["waiting", "waiting"], ["prefill", "prefill"], ["decode", "decode"]];
  if (about.request_level) legend.push(["idle", "idle: done, its batch is not"], ["batch", "batch starts"]);
  $("legend").replaceChildren(...legend.map(([name, text]) => {
    const item = document.createElement("li");
    item.className = name;
    item.textContent = text;
    return item;
  }));
}

function showNumbers(s) {
  const { max_rows, kv_pages, page_size } = s.about;
  document.title = `${number(s.output_throughput)} tok/s · ${s.about.model}`;
  say("output", whole.format(s.output_throughput));
  say("output-more", `prompts ${whole.format(s.prompt_throughput)}/s\n${whole.format(s.request_throughput)} requests/s`);
  say("rows", whole.format(s.running));
  say("rows-of", `of ${whole.format(max_rows)}`);
  say("rows-more", s.idle_rows ? `${whole.format(s.idle_rows)} idle, waiting for the slowest` : `${whole.format(Math.max(0, max_rows - s.running))} free`);
  say("queued", whole.format(s.queued));
  say("queued-more", nextBatch(s));
  const kv = kv_pages ? 100 * s.kv_pages_used / kv_pages : 0;
  say("kv", whole.format(kv));
  say("kv-more", `${whole.format(s.kv_pages_used)} of ${whole.format(kv_pages)},\n${whole.format(page_size)} tokens each`);
  sparks.output.add(s.now_ms, s.output_throughput);
  sparks.rows.add(s.now_ms, s.running, max_rows);
  sparks.queued.add(s.now_ms, s.queued, Math.max(max_rows, s.queued));
  sparks.kv.add(s.now_ms, kv, 100);
  showGpu(s);
  for (const [id, of] of [["ttft", s.ttft_ms], ["tpot", s.tpot_ms], ["queue", s.queue_ms]])
    [of.p50, of.p90, of.p99].forEach((value, i) => $(id).cells[i + 1].textContent = number(value));
  say("latency-more", `of ${whole.format(s.ttft_ms.n)} requests`);
  const totals = [["Batches left", s.batch_close_reasons], ["Requests ended", s.finish_reasons]];
  say("totals", totals.filter(([, of]) => Object.keys(of).length).map(([name, of]) => `${name}: ${counts(of)}.`).join(" "));
}

function showGpu({ gpu, now_ms }) {
  const known = gpu?.gpu_utilization_percent != null;
  $("gpu-card").hidden = !known;
  if (!known) return;
  say("gpu", whole.format(gpu.gpu_utilization_percent));
  const more = [];
  if (gpu.gpu_power_w != null) more.push(`${whole.format(gpu.gpu_power_w)} W`);
  if (gpu.gpu_memory_used_bytes != null) more.push(bytes(gpu.gpu_memory_used_bytes));
  if (gpu.sm_active_percent != null) more.push(`\nSMs active ${whole.format(gpu.sm_active_percent)} %`);
  say("gpu-more", more.join(", ").replace(", \n", "\n"));
  sparks.gpu.add(now_ms, gpu.gpu_utilization_percent, 100);
}

/** The batch being formed. */
function nextBatch(s) {
  const { max_rows, request_level } = s.about;
  const runs = s.running + s.idle_rows > 0;
  const when = s.deadline_ms === null || s.deadline_ms <= s.now_ms ? null : `within ${duration(s.deadline_ms - s.now_ms)}`;
  if (!request_level) {
    if (s.queued === 0) return "requests start at once";
    return when ? `to start ${when}` : s.running >= max_rows ? "until a row is free" : "until there is room";
  }
  const forming = `${whole.format(Math.min(s.queued, max_rows))} of ${whole.format(max_rows)} in the next batch`;
  return forming + (when ? `, leaves ${when}` : runs && s.queued ? ", after this one" : "");
}

function timelineWords(s, spanMs, paused) {
  const parts = [`The last ${whole.format(spanMs / 1000)} s${paused ? ", held still" : ", moving left"}: ${whole.format(s.running)} of ${whole.format(s.about.max_rows)} rows run`];
  if (s.idle_rows) parts.push(`${whole.format(s.idle_rows)} idle`);
  parts.push(`${whole.format(s.queued)} requests wait`);
  return `${parts.join(", ")}. Point at a request, or tap it, for its numbers.`;
}

function showTable(s) {
  const since = r => (r.started_ms ?? s.now_ms) - r.arrival_ms;
  const rows = s.requests.map(r => [r.id, words(r.state), r.row ?? dash, duration(since(r)), duration(s.now_ms - r.arrival_ms), r.prompt_len, r.output_len, r.max_new_tokens]);
  const body = $("table").querySelector("tbody");
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((cells, i) => {
    const row = body.rows[i] ?? body.insertRow();
    cells.forEach((cell, j) => (row.cells[j] ?? row.insertCell()).textContent = cell);
  });
}
