/** A question to a service that a component needs the answer of. */
import { useEffect, useState } from "preact/hooks";
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
    const failed = (thrown: unknown) => {
      if (stop.signal.aborted) return;
      const { rawMessage, remedy } = ModelkeepError.from(thrown);
      const error = [rawMessage, remedy].filter(Boolean).join(" ");
      setState(({ answer }) => ({ answer, error, asked: question }));
    };
    sleep(delayMs, stop.signal)
      .then(() => ask(stop.signal))
      .then(answered, failed);
    return () => stop.abort();
  }, [question]);
  return { answer: state.answer, error: state.error, current: state.asked === question };
}
