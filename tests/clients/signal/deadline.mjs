// Every wait of the scenario ends: by what it waits for, or by a deadline that says what did not happen.
import { EventEmitter } from "node:events";

/** How long one step may take. Generous: debug builds on two busy cores are slow. */
export const STEP_MS = 60_000;

/** Rejects with `what` unless `promise` settles in time. */
export async function within(promise, what, ms = STEP_MS) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${ms} ms: ${typeof what === "function" ? what() : what}`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Something whose changes can be waited for, without polling. */
export class Observable {
  #changes = new EventEmitter().setMaxListeners(0);

  changed() {
    this.#changes.emit("change");
  }

  /** Resolves as soon as `holds()` is true; `what` says what is missing if it never is. */
  async until(holds, what, ms = STEP_MS) {
    if (holds()) return;
    let check;
    const met = new Promise((resolve, reject) => {
      check = () => {
        try {
          if (holds()) resolve();
        } catch (error) {
          reject(error);
        }
      };
      this.#changes.on("change", check);
    });
    try {
      await within(met, what, ms);
    } finally {
      this.#changes.off("change", check);
    }
  }
}

/** Runs acts one after the other, in the order they were handed in. */
export class Turns {
  #last = Promise.resolve();

  take(act) {
    const turn = this.#last.then(act);
    this.#last = turn.catch(() => {}); // a failed act is its caller's to handle; the next one still gets its turn
    return turn;
  }
}
