// How much time the timeline shows: what the reader chose, or as much as some requests after another take.

const CHOICES = [["auto", null], ["2 s", 2_000], ["10 s", 10_000], ["30 s", 30_000]];
const FITTING = [2_000, 5_000, 10_000, 20_000, 30_000];
const REQUESTS_IN_SIGHT = 6;

class Span {
  #chosen = null;
  #fitting = null;
  #lengths = [];

  constructor(group, onchange) {
    for (const [name, ms] of CHOICES) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      button.ariaPressed = String(ms === this.#chosen);
      button.addEventListener("click", () => {
        this.#chosen = ms;
        for (const other of group.children) other.ariaPressed = String(other === button);
        onchange();
      });
      group.append(button);
    }
  }

  get ms() {
    return this.#chosen ?? this.#fitting ?? 10_000;
  }

  /** Changes only where it no longer fits at all: a picture that jumps tells less. */
  hear(snapshot) {
    this.#lengths.push(...snapshot.left.filter(r => r.started_ms !== null).slice(-50).map(r => r.left_ms - r.started_ms));
    this.#lengths.splice(0, this.#lengths.length - 200);
    const running = snapshot.requests.filter(r => r.started_ms !== null).map(r => snapshot.now_ms - r.started_ms);
    const lengths = (this.#lengths.length ? this.#lengths : running).toSorted((a, b) => a - b);
    if (lengths.length === 0) return;
    const wanted = lengths[lengths.length >> 1] * REQUESTS_IN_SIGHT;
    if (this.#fitting === null || wanted > this.#fitting * 1.5 || wanted < this.#fitting / 4)
      this.#fitting = FITTING.find(ms => ms >= wanted) ?? FITTING.at(-1);
  }
}
