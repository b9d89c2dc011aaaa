/** What exists, as a watch tells it. */

import type { WatchFrame } from "./watch.js";

/** The resources that a watch has told of, by key or id, in the order in which they came. */
export class Collection<R> {
  readonly items = new Map<string, R>();
  #complete = false;
  #named: Set<string> | undefined;

  /** Whether a whole snapshot has come: what is not in here does not exist. */
  get complete(): boolean {
    return this.#complete;
  }

  /** Take in what a frame of the watch says. */
  apply({ events, phase, snapshotComplete, restarted, awayMs }: WatchFrame<R>): void {
    if (awayMs !== undefined) return;
    if (restarted) this.#named = undefined;
    if (phase === "snapshot") this.#named ??= new Set();
    for (const { id, put } of events) {
      if (put === undefined) this.items.delete(id);
      else this.items.set(id, put);
      this.#named?.add(id);
    }
    if (!snapshotComplete) return;
    for (const id of this.items.keys()) {
      if (this.#named && !this.#named.has(id)) this.items.delete(id);
    }
    this.#named = undefined;
    this.#complete = true;
  }
}
