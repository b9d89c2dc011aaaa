/** Streams that never end by themselves, opened again when they do: across restarts and lost connections. */

import { type CallOptions, Code } from "@connectrpc/connect";

import { Backoff, sleep } from "./backoff.js";
import { isInterruption } from "./calls.js";
import { isReason, ModelkeepError } from "./errors.js";

/** A longest wait between two frames that is asked of a service; the services' own default. */
export const BOOKMARK_INTERVAL = { seconds: 15n };
/** After so long without any frame, bookmarks included, the connection is taken for dead. */
const SILENCE_MS = 60_000;
/** How long a service may be away before the first frame: a wrong address should show soon. */
const PATIENCE_AT_START_MS = 1_000;
/** How long it may be away later: a restart, an update. */
const PATIENCE_MS = 60_000;
/** A shorter absence is not told. */
const AWAY_MS = 1_000;
const FIRST_DELAY_MS = 150;
const LONGEST_DELAY_MS = 5_000;

/** How a stream is followed. */
export interface StreamOptions {
  /** Ends the stream: what iterates over it comes to its end. */
  readonly signal?: AbortSignal;
  /**
   * How many milliseconds a service may be away before this gives up and throws; `Infinity`: for ever. By default 1 s
   * before the first frame, and 60 s from then on.
   */
  readonly patienceMs?: number;
}

/** The service has not answered for a while. */
export interface Away {
  readonly awayMs: number;
}

/**
 * The answers of a stream, and `Away` while the service does not answer.
 *
 * @param open opens the stream; called anew for each opening, so it can say where to go on
 * @param mends told why the stream ended; whether the next opening asks for something else, at once
 * @param ends whether an end without an error is the end
 * @throws ModelkeepError when the service was away for too long, or for what another try would not mend
 */
export async function* reopened<M>(
  open: (options: CallOptions) => AsyncIterable<M>,
  { signal, patienceMs }: StreamOptions = {},
  mends: (failure: ModelkeepError) => boolean = () => false,
  ends = false,
): AsyncGenerator<M | Away, void, undefined> {
  const backoff = new Backoff(FIRST_DELAY_MS, LONGEST_DELAY_MS);
  let patience = patienceMs ?? PATIENCE_AT_START_MS;
  let awaySince: number | undefined;
  while (!signal?.aborted) {
    let failure: ModelkeepError;
    try {
      for await (const answer of untilSilent(open, signal)) {
        awaySince = undefined;
        patience = patienceMs ?? PATIENCE_MS;
        backoff.reset();
        yield answer;
      }
      if (ends) return;
      failure = new ModelkeepError("The stream ended.", Code.Unavailable);
    } catch (error) {
      failure = ModelkeepError.from(error);
      if (signal?.aborted) return;
      if (mends(failure)) continue;
      if (!passes(failure)) throw failure;
    }
    const awayMs = Date.now() - (awaySince ??= Date.now());
    if (awayMs > patience) throw failure;
    if (awayMs >= AWAY_MS) yield { awayMs };
    await sleep(backoff.next(failure.retryAfterMs), signal).catch(() => undefined);
  }
}

/** One opening of a stream. */
async function* untilSilent<M>(
  open: (options: CallOptions) => AsyncIterable<M>,
  signal: AbortSignal | undefined,
): AsyncGenerator<M, void, undefined> {
  const call = new AbortController();
  const cancel = () => call.abort();
  signal?.addEventListener("abort", cancel);
  const silent = new ModelkeepError(`Nothing was heard for ${SILENCE_MS / 1000} s.`, Code.Unavailable);
  const listen = () => setTimeout(() => call.abort(silent), SILENCE_MS);
  let timer = listen();
  try {
    for await (const answer of open({ signal: call.signal })) {
      clearTimeout(timer);
      yield answer;
      timer = listen();
    }
  } catch (error) {
    throw call.signal.reason === silent ? silent : error;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", cancel);
  }
}

/** Whether a stream that ended so is opened again. */
function passes(failure: ModelkeepError): boolean {
  return isInterruption(failure) || isReason(failure, "WATCHER_TOO_SLOW", "SERVER_BUSY", "DEADLINE_EXCEEDED");
}
