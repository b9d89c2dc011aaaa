/** Installs and downloads as one kind of thing: a job with a title, a bar, and what can be done with it. */
import type { JobError, Progress } from "@modelkeep/client/gen/modelkeep/server/v1/job_pb";

/** What a job may need again after a restart, and what whoever resumes it brings. */
export interface Secrets {
  readonly accessToken?: string;
  readonly sourceUrl?: string;
}

/** Order of the groups in which jobs are shown. */
export const GROUPS = ["going", "waiting", "ended"] as const;

export interface Job {
  readonly id: string;
  readonly title: string;
  /** Where it comes from. */
  readonly source: string;
  readonly group: (typeof GROUPS)[number];
  readonly tone: "going" | "still" | "good" | "bad";
  /** State and stage in words. */
  readonly state: string;
  readonly progress: Progress | undefined;
  /** Why it waits or failed. */
  readonly error: JobError | undefined;
  /** Key of the model that it made; "" before. */
  readonly modelKey: string;
  /** Priority of its download; undefined where that does not count. */
  readonly priority: number | undefined;
  readonly actions: JobActions;
}

/** What can be done now; what is not there cannot. */
export interface JobActions {
  readonly pause?: () => Promise<unknown>;
  readonly resume?: (secrets: Secrets) => Promise<unknown>;
  readonly retry?: (secrets: Secrets) => Promise<unknown>;
  readonly cancel?: () => Promise<unknown>;
  readonly forget?: () => Promise<unknown>;
  readonly setPriority?: (priority: number) => Promise<unknown>;
}

/** Those under way and those that wait by age, those that ended with the newest first. */
export function inOrder(jobs: Iterable<Job>): Job[] {
  return [...jobs].sort((a, b) => {
    const apart = GROUPS.indexOf(a.group) - GROUPS.indexOf(b.group);
    if (apart !== 0) return apart;
    return a.group === "ended" ? Number(b.id) - Number(a.id) : Number(a.id) - Number(b.id);
  });
}

/** Seconds until all bytes are there at the present rate; undefined where nobody can tell. */
export function secondsLeft(progress: Progress | undefined): number | undefined {
  if (progress?.bytesTotal === undefined || progress.bytesPerSecond <= 0n) return undefined;
  return Number(progress.bytesTotal - progress.bytesDone) / Number(progress.bytesPerSecond);
}
