/** A question to a service that a component needs the answer of. */
import { useEffect, useRef, useState } from "preact/hooks";
import { ModelkeepError, sleep } from "@modelkeep/client";

export interface Answer<Value> {
  /** The last answer; what was answered before stays until there is another. */
  readonly answer: Value | undefined;
  /** Why there is none, or no newer one. */
  readonly error: string | undefined;
  /** Whether this is what the present question came to; while it is being asked, what was before is told. */
  readonly current: boolean;
}

interface Asked<Value> extends Omit<Answer<Value>, "current"> {
  readonly asked: string | undefined;
}

/**
 * Asks when the component comes, and again when `question` changes; an answer that comes too late counts for nothing.
 *
 * @param delayMs how long the question must stand before it is asked, where a reader writes it
 */
export function useAnswer<Value>(
  ask: (signal: AbortSignal) => Promise<Value>,
  question: string,
  delayMs = 0,
): Answer<Value> {
  const [state, setState] = useState<Asked<Value>>({ answer: undefined, error: undefined, asked: undefined });
  useEffect(() => {
    const stop = new AbortController();
    const answered = (answer: Value) => !stop.signal.aborted && setState({ answer, error: undefined, asked: question });
    const failed = (thrown: unknown) =>
      !stop.signal.aborted && setState(({ answer }) => ({ answer, error: inWords(thrown), asked: question }));
    sleep(delayMs, stop.signal)
      .then(() => ask(stop.signal))
      .then(answered, failed);
    return () => stop.abort();
  }, [question]);
  return { answer: state.answer, error: state.error, current: state.asked === question };
}

/**
 * Asks when the component comes, and again and again while the tab is seen: for what no watch tells of.
 *
 * @param everyMs from one answer to the next question
 * @param question asked at once, and anew, when it changes
 */
export function usePolled<Value>(
  ask: (signal: AbortSignal) => Promise<Value>,
  everyMs: number,
  question = "",
): Omit<Answer<Value>, "current"> {
  const [state, setState] = useState<Omit<Answer<Value>, "current">>({ answer: undefined, error: undefined });
  const pause = useRef(everyMs);
  pause.current = everyMs;
  useEffect(() => {
    const stop = new AbortController();
    const wanted = () => !stop.signal.aborted;
    const poll = async () => {
      while (wanted()) {
        if (!document.hidden) {
          const next = await ask(stop.signal).then(
            (answer) => () => ({ answer, error: undefined }),
            (thrown: unknown) => (before: typeof state) => ({ ...before, error: inWords(thrown) }),
          );
          if (!wanted()) return;
          setState(next);
        }
        await sleep(pause.current, stop.signal).catch(() => undefined);
      }
    };
    void poll();
    return () => stop.abort();
  }, [question]);
  return state;
}

function inWords(thrown: unknown): string {
  const { rawMessage, remedy } = ModelkeepError.from(thrown);
  return [rawMessage, remedy].filter(Boolean).join(" ");
}
