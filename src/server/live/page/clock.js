// The server's time here, a little behind, so that all that happened up to it has been told.

const BEHIND_MS = 300;
/** A clock that is wrong by more is set, one that is wrong by less drifts there. */
const JUMP_MS = 1000;

class ServerClock {
  #offset = null;
  #told = 0;

  hear(serverNow, here) {
    const offset = here - serverNow;
    const wrong = this.#offset === null || Math.abs(offset - this.#offset) > JUMP_MS;
    this.#offset = wrong ? offset : this.#offset + (offset - this.#offset) * 0.1;
    this.#told = serverNow;
  }

  /** Never beyond what has been told. */
  now(here) {
    return this.#offset === null ? 0 : Math.min(here - this.#offset - BEHIND_MS, this.#told);
  }
}
