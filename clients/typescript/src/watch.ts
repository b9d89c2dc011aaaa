/** Watches that go on by themselves: across lost connections, restarts and lost history. */

import type { CallOptions } from "@connectrpc/connect";

import { isReason, type ModelkeepError } from "./errors.js";
import { WatchPhase } from "./gen/modelkeep/server/v1/watch_pb.js";
import { BOOKMARK_INTERVAL, reopened, type StreamOptions } from "./streams.js";

/** One resource as it is now, or that it is gone. */
export interface WatchEvent<R> {
  /** Its key or id. */
  readonly id: string;
  /** The resource; undefined if it was removed or left the filter. */
  readonly put: R | undefined;
  /** Whether only its progress moved on. */
  readonly progress: boolean;
  /** The change's revision; 0 in a snapshot and for progress. */
  readonly revision: bigint;
}

/** Some events at once; without events it is a bookmark. */
export interface WatchFrame<R> {
  /** The changes, in order. */
  readonly events: readonly WatchEvent<R>[];
  /** Whether they are part of the snapshot of what exists, or happened after it. */
  readonly phase: "snapshot" | "live";
  /** True on the last frame of a snapshot: what it did not name does not exist. */
  readonly snapshotComplete: boolean;
  /** Place to go on from after this frame, also in another process: the `resumeToken` of a request. */
  readonly resumeToken: string;
  /** True on the first frame after history was lost: a new snapshot begins, and forget what it does not name. */
  readonly restarted: boolean;
  /** For how long the service has not answered, in a frame that says nothing else; undefined: it does. */
  readonly awayMs: number | undefined;
}

/** What the responses of all watches have in common. */
export interface Answer {
  readonly phase: WatchPhase;
  readonly snapshotComplete: boolean;
  readonly resumeToken: string;
  readonly events: readonly Happened[];
}

/** What the events in them have in common. */
interface Happened {
  readonly revision: bigint;
  readonly change:
    | { readonly case: "put"; readonly value: Named }
    | { readonly case: "removedId" | "removedKey"; readonly value: string }
    | { readonly case: "progress"; readonly value: Moved }
    | { readonly case: undefined };
}

type Named = { readonly id: string } | { readonly key: string };
type Moved = { readonly id: string; readonly revision?: bigint; readonly progress?: unknown };

/** What a watch tells of: a model, a job, a resident, a lease. */
export type Resource<A extends Answer> = Extract<A["events"][number]["change"], { case: "put" }>["value"];

/** The fields of a watch's request by which it goes on. */
interface Place {
  readonly resumeToken?: string;
  readonly skipSnapshot?: boolean;
  readonly untilEnded?: boolean;
}

/** A method of a client that watches: `modelkeep.records.watchModels`. */
export type WatchMethod<Q, A> = (request: Q, options?: CallOptions) => AsyncIterable<A>;

/**
 * The frames of a watch, for as long as the caller wants them: `for await (const frame of watch(…))`.
 *
 * It goes on where it stopped when the service is restarted or the connection is lost, and begins anew, saying so, where
 * that place is lost. Leaving the loop ends it, and so does the signal. `Collection` keeps what it tells.
 *
 * @param method a method of a client, such as `modelkeep.installs.watchInstalls`
 * @param request its request: the filter, and a `resumeToken` to go on from, if there is one
 * @throws ModelkeepError when the service was away for too long, or for what another try would not mend
 */
export async function* watch<Q extends object, A extends Answer>(
  method: WatchMethod<Q, A>,
  request: Q,
  options: StreamOptions = {},
): AsyncGenerator<WatchFrame<Resource<A>>, void, undefined> {
  let place: Place = request;
  let restarted = false;
  const mends = (failure: ModelkeepError): boolean => {
    if (isReason(failure, "RESUME_TOKEN_EXPIRED", "RESUME_TOKEN_FOREIGN") && place.resumeToken) {
      place = { ...place, resumeToken: "", skipSnapshot: false };
      restarted = true;
      return true;
    }
    const last = failure.facts["resume_token"];
    if (last) place = { ...place, resumeToken: last };
    return false;
  };
  const open = (call: CallOptions) => method({ bookmarkInterval: BOOKMARK_INTERVAL, ...request, ...place }, call);
  const read = eventsWithProgress<Resource<A>>();
  for await (const answer of reopened(open, options, mends, place.untilEnded)) {
    if ("awayMs" in answer) {
      const resumeToken = place.resumeToken ?? "";
      yield { events: [], phase: "live", snapshotComplete: false, resumeToken, restarted: false, awayMs: answer.awayMs };
      continue;
    }
    const { snapshotComplete } = answer;
    const resumeToken = answer.resumeToken || (place.resumeToken ?? "");
    place = { ...place, resumeToken };
    const phase = answer.phase === WatchPhase.SNAPSHOT ? "snapshot" : "live";
    yield { events: read(answer.events), phase, snapshotComplete, resumeToken, restarted, awayMs: undefined };
    restarted = false;
  }
}

/**
 * What makes events of the answers of one watch.
 *
 * Progress comes without its resource: here it is told with the resource as it was told last. That of a resource which
 * this watch has not named yet is left out.
 */
function eventsWithProgress<R>(): (happened: readonly Happened[]) => WatchEvent<R>[] {
  const last = new Map<string, Named>();
  const read = ({ revision, change }: Happened): WatchEvent<R>[] => {
    switch (change.case) {
      case "put": {
        const id = idOf(change.value);
        if ("progress" in change.value) last.set(id, change.value);
        return [{ id, put: change.value as R, progress: false, revision }];
      }
      case "progress": {
        const moved = withProgress(last.get(change.value.id), change.value);
        if (moved === undefined) return [];
        last.set(change.value.id, moved);
        return [{ id: change.value.id, put: moved as R, progress: true, revision: 0n }];
      }
      case undefined:
        return []; // a newer service tells of something else
      default:
        last.delete(change.value);
        return [{ id: change.value, put: undefined, progress: false, revision }];
    }
  };
  return (happened) => happened.flatMap(read);
}

/** The resource with new progress; undefined if that is out of date, or of a resource that is not known. */
function withProgress(known: Named | undefined, { revision, progress }: Moved): Named | undefined {
  if (known === undefined) return undefined;
  const told = (known as { revision?: bigint }).revision ?? 0n;
  return revision !== undefined && revision < told ? undefined : { ...known, ...{ progress } };
}

function idOf(resource: Named): string {
  return "key" in resource ? resource.key : resource.id;
}
