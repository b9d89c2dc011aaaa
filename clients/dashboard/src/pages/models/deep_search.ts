/** The service's own search, which looks into descriptions, sources and trigger phrases as well. */
import { suite } from "../../api/suite";
import { useAnswer } from "../../lib/answer";

const NONE: ReadonlySet<string> = new Set();
/** So long after the last key stroke the service is asked. */
const PAUSE_MS = 250;

/** Keys of the models whose texts have all words of `text`, at most a thousand; none until the service has answered. */
export function useDeepSearch(text: string): ReadonlySet<string> {
  const ask = async (signal: AbortSignal) => {
    if (text.trim() === "") return { text, keys: NONE };
    const { models } = await suite.records.listModels({ filter: { text }, pageSize: 1000 }, { signal });
    return { text, keys: new Set(models.map(({ key }) => key)) };
  };
  // A failure is not told: what the page has itself is searched all the same, and the feed says who is away.
  const { answer } = useAnswer(ask, text, PAUSE_MS);
  return answer?.text === text ? answer.keys : NONE;
}
