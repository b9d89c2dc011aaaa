/** How long to wait between tries of what a fault interrupted. */

/** Waits that double from try to try, up to a limit, and begin anew after a success. */
export class Backoff {
  #failures = 0;

  constructor(
    private readonly firstMs: number,
    private readonly lastMs = Number.POSITIVE_INFINITY,
  ) {}

  /**
   * Milliseconds before the next try, up to half of it less: those who began to wait together do not try together.
   *
   * @param askedMs how long the other side asks to wait; it wins where it is longer
   */
  next(askedMs = 0): number {
    const doubled = Math.min(this.lastMs, this.firstMs * 2 ** this.#failures++);
    return Math.max(doubled * (0.5 + Math.random() / 2), askedMs);
  }

  /** A try succeeded. */
  reset(): void {
    this.#failures = 0;
  }
}

/** Wait; rejects with the signal's reason once it is aborted. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const timer = setTimeout(done, ms);
    signal?.addEventListener("abort", stop);
    function done() {
      signal?.removeEventListener("abort", stop);
      resolve();
    }
    function stop() {
      clearTimeout(timer);
      reject(signal?.reason as Error);
    }
  });
}
