/** Jobs, followed to their end. */

import { Code } from "@connectrpc/connect";

import { ModelkeepError } from "./errors.js";
import type { StreamOptions } from "./streams.js";
import { type Answer, type Resource, watch, type WatchMethod } from "./watch.js";

/** How a job is followed. */
export interface JobOptions<J> extends StreamOptions {
  /** Told of the job as it is, and again whenever it or its progress has changed. */
  readonly onChange?: (job: J) => void;
}

/**
 * A job once it has ended, however it did: `ModelkeepError.ofJob(job)` says why it failed, if it has.
 *
 * @param method the watch of its kind: `modelkeep.installs.watchInstalls` or `modelkeep.downloads.watchDownloads`
 * @throws ModelkeepError UNKNOWN_JOB where there is no such job any more; what `watch` throws
 * @throws the signal's reason if it is aborted
 */
export async function jobEnd<Q extends { ids?: string[]; untilEnded?: boolean; allQueues?: boolean }, A extends Answer>(
  method: WatchMethod<Q, A>,
  id: string,
  options: JobOptions<Resource<A>> = {},
): Promise<Resource<A>> {
  // A watch of downloads is of one queue, unless it says otherwise; one of installs knows no queues.
  const request = { ids: [id], untilEnded: true, allQueues: true } as Q;
  let job: Resource<A> | undefined;
  for await (const { events } of watch(method, request, options)) {
    for (const { put } of events) {
      job = put;
      if (put !== undefined) options.onChange?.(put);
    }
  }
  options.signal?.throwIfAborted();
  if (job !== undefined) return job;
  const told = { reason: "UNKNOWN_JOB", facts: { id } };
  throw new ModelkeepError(`There is no job ${id}.`, Code.NotFound, told);
}
