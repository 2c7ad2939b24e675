// What the requests did, drawn once: a picture as wide as the timeline, written column by column where
// it is oldest, so that a frame costs what happened since the last one.

/** Device pixels of a prefill at least: it marks where a request begins. */
const START_PX = 2;
const PALE = 0.75;

class Tape {
  #canvas = document.createElement("canvas");
  #context = this.#canvas.getContext("2d");
  #layout = null;
  /** The first column that is not drawn yet, counted from the server's start. */
  #column = 0;

  /** Forgets all that was drawn. */
  reset(layout) {
    this.#layout = layout;
    this.#canvas.width = Math.max(1, layout.width);
    this.#canvas.height = Math.max(1, layout.height);
    this.#column = -Infinity;
  }

  /** Draws what is new up to `now`; all columns if too much is, or if time begins anew. */
  advance(requests, now) {
    const { width, msPerColumn } = this.#layout;
    const end = Math.floor(now / msPerColumn);
    if (end < this.#column - width) this.#column = -Infinity;
    let from = Math.max(this.#column, end - width);
    while (from < end) {
      const x = modulo(from, width);
      const to = Math.min(end, from + width - x);
      this.#draw(requests, from, to, x);
      from = to;
    }
    this.#column = Math.max(this.#column, end);
  }

  /** Time at the right edge. */
  get now() {
    return this.#layout ? this.#column * this.#layout.msPerColumn : 0;
  }

  copyTo(context) {
    const { width, height } = this.#layout;
    const seam = modulo(this.#column, width);
    if (seam < width) context.drawImage(this.#canvas, seam, 0, width - seam, height, 0, 0, width - seam, height);
    if (seam > 0) context.drawImage(this.#canvas, 0, 0, seam, height, width - seam, 0, seam, height);
  }

  #draw(requests, from, to, x) {
    const { msPerColumn, height, waiting, rows, colors } = this.#layout;
    const context = this.#context;
    const start = from * msPerColumn, end = to * msPerColumn;
    context.clearRect(x, 0, to - from, height);
    const block = (band, lane, since, until, color) => {
      const left = Math.max(since, start), right = Math.min(until, end);
      if (right <= left || lane >= band.lanes) return;
      const at = x + (left - start) / msPerColumn;
      context.fillStyle = color;
      context.fillRect(at, band.top + lane * band.pitch, (right - left) / msPerColumn, band.thick);
    };
    if (waiting.lanes > MOST_WAITING) this.#drawDepths(requests.depths, start, end, x);
    else requests.waiting.each(start, waitsUntil, (lane, r) => {
      block(waiting, lane, r.arrival_ms, waitsUntil(r), colors.waiting);
    });
    requests.rows.each(start, leavesAt, (lane, r) => {
      const ended = r.ended_ms ?? Infinity;
      const first = Math.min(Math.max(r.first_token_ms ?? ended, r.started_ms + START_PX * msPerColumn), ended);
      block(rows, lane, r.started_ms, first, colors.prefill);
      // Without gaps between rows, neighbours are told apart by their tone.
      context.globalAlpha = rows.thick === rows.pitch && r.isOdd ? PALE : 1;
      block(rows, lane, first, ended, colors.decode);
      context.globalAlpha = 1;
      block(rows, lane, ended, leavesAt(r), colors.idle);
    });
  }

  #drawDepths(depths, start, end, x) {
    const { msPerColumn, waiting, colors } = this.#layout, context = this.#context;
    const times = [start, ...depths.map(([t]) => t).filter(t => start < t && t < end), end];
    const at = t => x + (t - start) / msPerColumn;
    context.fillStyle = colors.waiting;
    context.beginPath();
    context.moveTo(at(start), waiting.top);
    for (const t of times) context.lineTo(at(t), waiting.top + depthAt(depths, t) * waiting.pitch);
    context.lineTo(at(end), waiting.top);
    context.fill();
  }
}

/** `depth` at `t`, on the line between the readings around it. */
function depthAt(depths, t) {
  const after = depths.findIndex(reading => reading[0] >= t);
  if (after <= 0) return (depths.at(after) ?? [0, 0])[1];
  const [t0, d0] = depths[after - 1], [t1, d1] = depths[after];
  return d0 + (d1 - d0) * (t - t0) / (t1 - t0);
}

function modulo(value, by) {
  return Number.isFinite(value) ? ((value % by) + by) % by : 0;
}
