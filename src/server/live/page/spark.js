// The last minute of one number as a small curve, or as much of it as this page has heard.

const CURVE_MS = 60_000, SHORTEST_CURVE_MS = 10_000;

class Spark {
  #canvas;
  #points = [];

  constructor(id) {
    this.#canvas = document.getElementById(id);
  }

  /** `most` is the top of the curve; none: as high as it gets. */
  add(now, value, most) {
    if (this.#points.length && this.#points.at(-1)[0] > now) this.#points = [];
    this.#points.push([now, value]);
    while (this.#points[0][0] < now - CURVE_MS) this.#points.shift();
    this.#draw(now, most ?? Math.max(...this.#points.map(p => p[1])) * 1.1);
  }

  #draw(now, most) {
    const scale = devicePixelRatio || 1, { clientWidth: width, clientHeight: height } = this.#canvas;
    if (!width) return;
    this.#canvas.width = width * scale;
    this.#canvas.height = height * scale;
    const context = this.#canvas.getContext("2d"), style = getComputedStyle(this.#canvas);
    context.scale(scale, scale);
    const heard = Math.max(now - this.#points[0][0], SHORTEST_CURVE_MS);
    const x = t => width * (1 - (now - t) / heard);
    const y = value => height - 1 - Math.min(value / (most || 1), 1) * (height - 3);
    context.beginPath();
    for (const [t, value] of this.#points) context.lineTo(x(t), y(value));
    context.strokeStyle = context.fillStyle = style.getPropertyValue("--phase-decode");
    context.lineWidth = 1.5;
    context.lineJoin = "round";
    context.stroke();
    context.lineTo(width, height);
    context.lineTo(x(this.#points[0][0]), height);
    context.globalAlpha = 0.15;
    context.fill();
    context.globalAlpha = 1;
    context.beginPath();
    context.moveTo(0, height - 0.5);
    context.lineTo(width, height - 0.5);
    context.strokeStyle = style.getPropertyValue("--line");
    context.lineWidth = 1;
    context.stroke();
  }
}
