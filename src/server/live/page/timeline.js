// The timeline: who waits, above; what every row does, below; time moves to the left. CSS pixels here,
// device pixels in the tape.

const CAPTION = 20, WAITING = 64, AXIS = 22;
/** All rows together, and one of few. */
const ROWS = 384, THICKEST = 24;
const FEWEST_WAITING = 8;
/** Pixels between the starts of batches, below which they are not marked. */
const MARKS_APART = 9;

const PHASES = ["waiting", "prefill", "decode", "idle"];

class Timeline {
  /** Time from edge to edge. */
  spanMs = 10_000;
  #canvas;
  #context;
  #hint;
  #requests;
  #tape = new Tape();
  #about = null;
  #layout = null;
  #lanes = FEWEST_WAITING;
  #pointer = null;
  #picked = null;

  /** `requests()` are those to draw. */
  constructor(canvas, hint, requests) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    this.#hint = hint;
    this.#requests = requests;
    const place = event => ({ x: event.offsetX, y: event.offsetY });
    canvas.addEventListener("pointermove", event => {
      if (event.pointerType === "mouse") this.#pointer = place(event);
    });
    canvas.addEventListener("pointerleave", () => this.#pointer = null);
    canvas.addEventListener("click", event => this.#picked = this.#under(place(event)) ?? null);
    new ResizeObserver(() => this.relayout()).observe(canvas.parentElement);
    for (const query of ["(prefers-color-scheme: dark)", `(resolution: ${devicePixelRatio}dppx)`])
      matchMedia(query).addEventListener("change", () => this.relayout());
  }

  set about(about) {
    if (this.#about?.max_rows === about.max_rows && this.#about.request_level === about.request_level) return;
    this.#about = about;
    this.relayout();
  }

  /** Everything is drawn anew with the next frame. */
  relayout() {
    this.#layout = null;
  }

  /** Draws the time up to `now`, and leaves the picture as it is where that is null. */
  frame(now) {
    if (!this.#about) return;
    const lanes = now === null ? this.#lanes : this.#lanesFor(now);
    if (!this.#layout || lanes !== this.#lanes) {
      now ??= this.#tape.now;
      this.#lanes = lanes;
      this.#layout = this.#measure();
      this.#tape.reset(this.#layout.tape);
    }
    if (now !== null) this.#tape.advance(this.#requests(), now);
    this.#draw();
  }

  /** Room for those that wait; it shrinks only when most of it is empty. */
  #lanesFor(now) {
    const deepest = this.#requests().deepest(now - this.spanMs);
    let lanes = this.#lanes;
    while (lanes < deepest) lanes *= 2;
    while (lanes > FEWEST_WAITING && deepest * 4 <= lanes) lanes /= 2;
    return lanes;
  }

  #measure() {
    const style = getComputedStyle(this.#canvas);
    const color = name => style.getPropertyValue(name).trim();
    const scale = Math.min(devicePixelRatio || 1, 3);
    const width = Math.round(this.#canvas.clientWidth * scale);
    const rows = this.#about.max_rows;
    const thickest = Math.min(ROWS / rows, THICKEST) * scale;
    const pitch = thickest < 1 ? thickest : Math.max(1, Math.round(thickest));
    const waitingTop = CAPTION, rowsTop = waitingTop + WAITING + CAPTION;
    const rowsHeight = Math.ceil(rows * pitch / scale);
    const height = rowsTop + rowsHeight + AXIS;
    this.#canvas.style.height = `${height}px`;
    this.#canvas.width = width;
    this.#canvas.height = Math.round(height * scale);
    const band = (top, pitch, lanes) => ({ top: Math.round(top * scale), pitch, lanes, thick: pitch - gap(pitch, scale) });
    return {
      scale, width: width / scale, waitingTop, rowsTop, rowsHeight, height,
      ink: color("--ink"), muted: color("--muted"), line: color("--line"), page: color("--page"), card: color("--card"), font: style.fontFamily,
      tape: {
        width, height: Math.round(height * scale), msPerColumn: this.spanMs / Math.max(1, width),
        waiting: band(waitingTop, WAITING * scale / this.#lanes, this.#lanes),
        rows: band(rowsTop, pitch, rows),
        colors: Object.fromEntries(PHASES.map(phase => [phase, color(`--phase-${phase}`)])),
      },
    };
  }

  #x(t) {
    return this.#layout.width * (1 - (this.#tape.now - t) / this.spanMs);
  }

  #draw() {
    const context = this.#context, { scale, width, waitingTop, rowsTop, rowsHeight, card } = this.#layout;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    context.scale(scale, scale);
    context.fillStyle = card;
    context.fillRect(0, waitingTop, width, WAITING);
    context.fillRect(0, rowsTop, width, rowsHeight);
    this.#drawAxis();
    context.setTransform(1, 0, 0, 1, 0, 0);
    this.#tape.copyTo(context);
    context.scale(scale, scale);
    this.#drawGaps();
    this.#drawBatches();
    this.#drawHint();
  }

  #drawAxis() {
    const context = this.#context, { width, waitingTop, rowsTop, rowsHeight, ink, muted, line, font } = this.#layout;
    context.font = `12px ${font}`;
    context.textBaseline = "alphabetic";
    context.fillStyle = ink;
    context.textAlign = "left";
    context.fillText(this.#lanes > MOST_WAITING ? `waiting, the band holds ${whole.format(this.#lanes)}` : "waiting", 0, waitingTop - 6);
    context.fillText(this.#about.max_rows === 1 ? "1 row" : `${this.#about.max_rows} rows`, 0, rowsTop - 6);
    context.fillStyle = muted;
    context.strokeStyle = line;
    context.lineWidth = 1;
    context.beginPath();
    const bottom = rowsTop + rowsHeight, parts = width < 500 ? 2 : 5;
    for (let part = 0; part <= parts; part++) {
      const x = Math.min(Math.round(width * part / parts) + 0.5, width - 0.5);
      context.moveTo(x, waitingTop);
      context.lineTo(x, waitingTop + WAITING);
      context.moveTo(x, rowsTop);
      context.lineTo(x, bottom + 4);
      context.textAlign = part === 0 ? "left" : part === parts ? "right" : "center";
      const ago = this.spanMs * (1 - part / parts) / 1000;
      context.fillText(part === parts ? "now" : `${Number(ago.toFixed(2))} s ago`, x, bottom + 17);
    }
    context.stroke();
  }

  /** What happened unheard is neither work nor rest. */
  #drawGaps() {
    const context = this.#context, { width, waitingTop, rowsTop, rowsHeight, muted, page } = this.#layout;
    context.textAlign = "center";
    for (const [from, until] of this.#requests().gaps) {
      const left = Math.max(this.#x(from), 0), right = Math.min(this.#x(until), width);
      if (right <= left) continue;
      context.fillStyle = page;
      context.globalAlpha = 0.8;
      context.fillRect(left, waitingTop, right - left, WAITING);
      context.fillRect(left, rowsTop, right - left, rowsHeight);
      context.globalAlpha = 1;
      context.fillStyle = muted;
      if (right - left > 90) context.fillText("not connected", (left + right) / 2, rowsTop + rowsHeight / 2);
    }
  }

  /** Under request-level batching: where batches start, and why they left as they are. */
  #drawBatches() {
    if (!this.#about.request_level) return;
    const context = this.#context, { width, waitingTop, rowsTop, rowsHeight, ink, muted } = this.#layout;
    const shown = this.#requests().batches.filter(b => this.#x(b.start_ms) >= 0 && b.start_ms <= this.#tape.now);
    if (shown.length * MARKS_APART > width) return;
    context.strokeStyle = ink;
    context.fillStyle = muted;
    context.textAlign = "left";
    context.setLineDash([3, 3]);
    context.beginPath();
    let free = 56;
    shown.forEach((batch, i) => {
      const x = Math.round(this.#x(batch.start_ms)) + 0.5;
      context.moveTo(x, waitingTop);
      context.lineTo(x, rowsTop + rowsHeight);
      const next = i + 1 < shown.length ? this.#x(shown[i + 1].start_ms) : width;
      const texts = [`${batch.size} of ${batch.max_size}, ${words(batch.close_reason)}`, `${batch.size}`];
      const text = texts.find(text => x + 4 + context.measureText(text).width < next - 2);
      if (text && x >= free) {
        context.fillText(text, x + 4, rowsTop - 6);
        free = x + 8 + context.measureText(text).width;
      }
    });
    context.stroke();
    context.setLineDash([]);
  }

  #drawHint() {
    const request = this.#picked ?? (this.#pointer && this.#under(this.#pointer));
    const box = request && this.#box(request);
    if (this.#picked && !box) this.#picked = null;
    this.#hint.hidden = !box;
    if (!box) return;
    const context = this.#context, { width, ink } = this.#layout;
    context.strokeStyle = ink;
    context.lineWidth = 1.5;
    for (const part of box) context.strokeRect(part.left, part.top, Math.max(part.right - part.left, 2), Math.max(part.bottom - part.top, 2));
    const text = story(request, this.#tape.now);
    if (this.#hint.textContent !== text) this.#hint.textContent = text;
    const at = this.#picked ? { x: box.at(-1).right, y: box.at(-1).bottom } : this.#pointer;
    const left = Math.min(Math.max(0, at.x + 12), width - this.#hint.offsetWidth);
    this.#hint.style.transform = `translate(${left}px, ${at.y + 14}px)`;
    this.#hint.style.left = this.#hint.style.top = "0";
  }

  /** Where a request is drawn: its wait, and its row. None once it is out of sight. */
  #box(request) {
    const { scale, width, tape } = this.#layout;
    const part = (band, lane, since, until) => {
      const top = (band.top + lane * band.pitch) / scale;
      const left = Math.max(this.#x(since), 0), right = Math.min(this.#x(until), width);
      return right > left && lane < band.lanes && [{ left, right, top, bottom: top + band.thick / scale }];
    };
    const waited = this.#lanes <= MOST_WAITING && part(tape.waiting, request.lane, request.arrival_ms, waitsUntil(request));
    const ran = request.row !== null && part(tape.rows, request.row, request.started_ms, leavesAt(request));
    const parts = [waited, ran].flatMap(part => part || []);
    return parts.length > 0 && parts;
  }

  #under({ x, y }) {
    if (!this.#layout) return undefined;
    const { scale, width, tape } = this.#layout;
    const t = this.#tape.now - this.spanMs * (1 - x / width);
    const lane = band => Math.floor((y * scale - band.top) / band.pitch);
    const inside = (band, lane) => lane >= 0 && lane < band.lanes;
    const row = lane(tape.rows), place = lane(tape.waiting);
    if (inside(tape.rows, row)) return this.#requests().rows.at(row, t, r => r.started_ms, leavesAt);
    if (inside(tape.waiting, place)) return this.#requests().waiting.at(place, t, r => r.arrival_ms, waitsUntil);
    return undefined;
  }
}

/** Device pixels between rows. */
function gap(pitch, scale) {
  if (pitch >= 10 * scale) return Math.round(3 * scale);
  return pitch >= 4 ? Math.max(1, Math.round(pitch / 7)) : 0;
}

/** What became of a request. */
function story(r, now) {
  const end = r.ended_ms ?? now, since = (from, until) => duration(Math.max(0, until - from));
  const times = [`waited ${since(r.arrival_ms, r.started_ms ?? end)}`];
  if (r.started_ms !== null) times.push(`prefill ${since(r.started_ms, r.first_token_ms ?? end)}`);
  if (r.first_token_ms !== null) times.push(`decode ${since(r.first_token_ms, end)}`);
  if (r.ended_ms !== null && r.started_ms !== null && (r.left_ms ?? now) > r.ended_ms) times.push(`idle ${since(r.ended_ms, r.left_ms ?? now)}`);
  const state = r.reason ? `ended: ${words(r.reason)}` : r.state;
  return `request ${r.id}, ${state}\n${times.join(", ")}\nprompt ${r.prompt_len}, output ${r.output_len} of ${r.max_new_tokens} tokens`;
}
