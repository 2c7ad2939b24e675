// Every request of the last half minute, in the lanes in which it is drawn.

const KEPT_MS = 31_000;
/** Less time than that is kept where more requests than this would be. */
const MOST_KEPT = 100_000;
/** Where more than this wait, the timeline shows only how many. */
const MOST_WAITING = 64;

/** Rows of the timeline; in each, requests that follow one another. */
class Lanes {
  #lanes = [];

  /** Lanes up to the last that has something after `from`. */
  used(from, gone) {
    return this.#lanes.findLastIndex(l => l.length > 0 && gone(l.at(-1)) >= from) + 1;
  }

  add(lane, request) {
    while (this.#lanes.length <= lane) this.#lanes.push([]);
    const requests = this.#lanes[lane];
    request.isOdd = !requests.at(-1)?.isOdd;
    requests.push(request);
  }

  /** The first lane whose last request `isGone`. */
  free(isGone) {
    const lane = this.#lanes.findIndex(l => l.length === 0 || isGone(l.at(-1)));
    return lane < 0 ? this.#lanes.length : lane;
  }

  /** Calls `draw(lane, request)` for all that are not gone before `from`, in each lane the latest first. */
  each(from, gone, draw) {
    for (let lane = 0; lane < this.#lanes.length; lane++) {
      const requests = this.#lanes[lane];
      for (let i = requests.length - 1; i >= 0 && gone(requests[i]) >= from; i--) draw(lane, requests[i]);
    }
  }

  /** The one in `lane` at time `t`. */
  at(lane, t, since, gone) {
    return this.#lanes[lane]?.findLast(r => since(r) <= t && t <= gone(r));
  }

  forget(isOld) {
    for (const requests of this.#lanes) {
      let old = 0;
      while (old < requests.length && isOld(requests[old])) old++;
      if (old) requests.splice(0, old);
    }
    while (this.#lanes.length && this.#lanes.at(-1).length === 0) this.#lanes.pop();
  }
}

const waitsUntil = r => r.started_ms ?? r.left_ms ?? Infinity;
const leavesAt = r => r.left_ms ?? Infinity;

class Requests {
  waiting = new Lanes();
  rows = new Lanes();
  batches = [];
  /** How many waited, by time. */
  depths = [];
  /** Times whose snapshots were missed, as [from, until]. */
  gaps = [];
  #known = new Map();
  #heard = null;

  hear(snapshot) {
    const before = this.#heard?.now_ms ?? snapshot.now_ms;
    if (this.#heard && snapshot.number !== this.#heard.number + 1) this.gaps.push([before, snapshot.now_ms]);
    this.#heard = snapshot;
    const told = new Set();
    const fresh = [];
    for (const news of [...snapshot.left, ...snapshot.requests]) {
      told.add(news.id);
      let request = this.#known.get(news.id);
      if (!request) {
        request = news;
        this.#known.set(news.id, request);
        fresh.push(request);
      }
      const starts = news.row !== null && !request.inRow;
      Object.assign(request, news);
      if (starts) {
        request.inRow = true;
        this.rows.add(request.row, request);
      }
    }
    fresh.sort((a, b) => a.arrival_ms - b.arrival_ms);
    for (const request of fresh) {
      request.lane = this.waiting.free(other => waitsUntil(other) <= request.arrival_ms);
      if (request.lane < MOST_WAITING) this.waiting.add(request.lane, request);
    }
    this.depths.push([snapshot.now_ms, snapshot.queued]);
    this.#hearBatches(snapshot);
    const kept = Math.min(KEPT_MS, MOST_KEPT / snapshot.request_throughput * 1000);
    this.#end(told, before);
    this.#forget(snapshot.now_ms - kept);
  }

  /** The most that waited at once after `from`. */
  deepest(from) {
    const depths = this.depths.filter(([t]) => t >= from).map(([, depth]) => depth);
    return Math.max(this.waiting.used(from, waitsUntil), ...depths);
  }

  #hearBatches(snapshot) {
    for (const batch of snapshot.batches) {
      const known = this.batches.findLast(b => b.start_ms === batch.start_ms);
      if (known && snapshot.about.request_level) Object.assign(known, batch);
      else this.batches.push(batch);
    }
  }

  /** What left unheard, or with too many others for one snapshot, was last known of at `before`. */
  #end(told, before) {
    for (const [id, request] of this.#known) {
      if (request.left_ms === null && !told.has(id)) request.left_ms = before;
      if (request.left_ms !== null) this.#known.delete(id);
    }
  }

  #forget(before) {
    this.waiting.forget(r => waitsUntil(r) < before);
    this.rows.forget(r => leavesAt(r) < before);
    this.depths = this.depths.filter(([t]) => t >= before);
    this.gaps = this.gaps.filter(([, until]) => until >= before);
    this.batches = this.batches.filter(b => (b.end_ms ?? b.start_ms) >= before);
  }
}
