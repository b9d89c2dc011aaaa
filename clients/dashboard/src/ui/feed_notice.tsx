/** Says so where what a page shows is not live. */
import type { ComponentChildren } from "preact";
import { useEffect } from "preact/hooks";
import type { Feed } from "../api/feed";
import { now } from "../lib/clock";
import { duration } from "../lib/format";

/** What is asked of a feed here, whatever it tells of. */
type Watched = Pick<Feed<unknown>, "state" | "loaded" | "hold">;

/** Keeps feeds running while the component is on the page. */
export function useFeeds(...feeds: readonly Watched[]): void {
  useEffect(() => {
    const releases = feeds.map((feed) => feed.hold());
    return () => releases.forEach((release) => release());
  }, []);
}

interface Props {
  readonly feed: Watched;
  /** The service in words: "RecordService". */
  readonly service: string;
}

export function FeedNotice({ feed, service }: Props): ComponentChildren {
  const state = feed.state.value;
  if (state.kind === "away") {
    return (
      <p class="banner warn" role="status">
        {service} is away for {duration((now.value - state.since) / 1000)}; trying again. What you see is as it was then.
      </p>
    );
  }
  if (state.kind === "refused") {
    return (
      <p class="banner warn" role="status">
        {service} answers: {state.message}
      </p>
    );
  }
  if (!feed.loaded.value) return <p class="banner">Asking {service} …</p>;
  return null;
}
