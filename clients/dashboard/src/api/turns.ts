/**
 * Which streams run where there are more than the browser has connections for.
 *
 * Over HTTP/1.1 a browser has six connections for one origin, in all its tabs together, and a stream takes one for as
 * long as it runs. So all tabs share four places; what finds none waits in a queue, and whoever has a place hands it over
 * after a turn while anybody waits. The rest is for what is clicked.
 *
 * A browser without locks is one that reaches the page by plain HTTP from another host: there each tab is on its own.
 */

const PLACES = 4;
const QUEUE = "modelkeep.queue";
const PLACE = "modelkeep.place";
/** In so long every place looks once whether anybody waits, each at a time of its own. */
const TURN_MS = 2_000;
/** What has not caught up by then hands over all the same. */
const LONGEST_TURN_MS = 10_000;

/** The shortest turn, so that a stream that has just begun is not ended at once. */
const SHORTEST_TURN_MS = TURN_MS / 2;

/**
 * Runs a stream in its turns until it ends by itself or `stop` says so.
 *
 * @param run follows the stream until its signal ends it, and goes on where it was when it is called again
 * @param caughtUp whether what it follows has been told of in this turn: nobody is served by a turn that ends before
 */
export async function inTurns(
  stop: AbortSignal,
  run: (signal: AbortSignal) => Promise<void>,
  caughtUp: () => boolean,
): Promise<void> {
  if (!areFew()) return run(stop);
  while (!stop.aborted) {
    const place = await takePlace(stop).catch(() => undefined);
    if (place === undefined) return;
    const turn = new AbortController();
    const timer = handOver(place.number, turn, caughtUp);
    try {
      await run(AbortSignal.any([stop, turn.signal]));
    } finally {
      clearInterval(timer);
      place.leave();
    }
    if (!turn.signal.aborted) return;
  }
}

/** Whether connections are few: over HTTP/2, which browsers speak over TLS alone, one carries everything. */
function areFew(): boolean {
  const [page] = performance.getEntriesByType("navigation") as PerformanceNavigationTiming[];
  return "locks" in navigator && page?.nextHopProtocol !== "h2";
}

interface Place {
  readonly number: number;
  readonly leave: () => void;
}

/** The first place that is free; who comes first is first. */
async function takePlace(stop: AbortSignal): Promise<Place> {
  const leaveQueue = await lock(QUEUE, stop);
  const found = new AbortController();
  const signal = AbortSignal.any([stop, found.signal]);
  const take = async (number: number): Promise<Place> => {
    const leave = await lock(`${PLACE}.${number}`, signal);
    if (!signal.aborted) {
      found.abort();
      return { number, leave };
    }
    leave();
    throw signal.reason;
  };
  try {
    return await Promise.any(Array.from({ length: PLACES }, (_, number) => take(number)));
  } finally {
    leaveQueue();
  }
}

/** Holds a lock that all tabs of this origin share until the function that is answered is called. */
function lock(name: string, signal: AbortSignal): Promise<() => void> {
  return new Promise((resolve, reject) => {
    const hold = () => new Promise<void>((leave) => resolve(leave));
    navigator.locks.request(name, { signal }, hold).catch(reject);
  });
}

/** Ends a turn while anybody waits; answers the timer that looks for it. */
function handOver(number: number, turn: AbortController, caughtUp: () => boolean): number {
  const began = performance.now();
  let looked = slotOf(number);
  const look = async () => {
    const slot = slotOf(number);
    if (slot === looked) return;
    looked = slot;
    const age = performance.now() - began;
    if (age < SHORTEST_TURN_MS || (age < LONGEST_TURN_MS && !caughtUp())) return;
    const { pending = [] } = await navigator.locks.query();
    if (pending.some(({ name }) => name === QUEUE || name?.startsWith(PLACE))) turn.abort();
  };
  return window.setInterval(look, TURN_MS / PLACES / 2);
}

/** Moves on once a turn, for each place at another time: one waits, one hands over. */
function slotOf(number: number): number {
  return Math.floor(Date.now() / TURN_MS + number / PLACES);
}
