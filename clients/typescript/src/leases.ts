/** Leases on models in the loader's memory, held until they are let go. */

import type { MessageInitShape } from "@bufbuild/protobuf";
import { type CallOptions, Code } from "@connectrpc/connect";

import { isReason, ModelkeepError } from "./errors.js";
import type {
  Grant,
  HoldModelRequestSchema,
  HoldModelResponse,
  HoldQueued,
  HoldRevokeRequested,
} from "./gen/modelkeep/loader/v1/hold_pb.js";
import type { LoadProgress } from "./gen/modelkeep/loader/v1/load_pb.js";
import type { Modelkeep } from "./modelkeep.js";
import { type Away, reopened } from "./streams.js";

/** What to do while a lease is waited for and held. */
export interface LeaseOptions {
  /** Gives up waiting for the grant; a lease that is granted is let go by `release`. */
  readonly signal?: AbortSignal;
  /** Told while the lease waits for its turn or for room. */
  readonly onQueued?: (queued: HoldQueued) => void;
  /** Told how far loading is. */
  readonly onProgress?: (progress: LoadProgress) => void;
  /** Told that somebody asks for the lease back; release it before the deadline. */
  readonly onRevokeRequested?: (request: HoldRevokeRequested) => void;
}

type Answers = AsyncGenerator<HoldModelResponse | Away, void, undefined>;

/**
 * Have components loaded and hold them: `await using lease = await hold(modelkeep, { components: [{ key }] })`.
 *
 * The lease lives until it is released or disposed of, or this process or page ends. When the loader is restarted it is
 * taken up again, where the loader still knows it.
 *
 * @throws ModelkeepError if it is not granted
 * @throws the signal's reason if it is aborted before the grant
 */
export async function hold(
  { loader }: Modelkeep,
  request: MessageInitShape<typeof HoldModelRequestSchema>,
  options: LeaseOptions = {},
): Promise<Lease> {
  const stream = new AbortController();
  const giveUp = () => stream.abort();
  options.signal?.addEventListener("abort", giveUp);
  let again = {};
  const open = (call: CallOptions) => loader.holdModel({ ...request, ...again }, call);
  const answers: Answers = reopened(open, { signal: stream.signal });
  try {
    options.signal?.throwIfAborted();
    for (;;) {
      const { value, done } = await answers.next();
      options.signal?.throwIfAborted();
      if (done) throw new ModelkeepError("The stream ended before the lease was granted.", Code.Unavailable);
      const granted = "event" in value && tell(value, options);
      if (!granted) continue;
      // From now on another opening takes the same lease up.
      again = { leaseId: granted.lease?.id ?? "", leaseSecret: granted.leaseSecret };
      return new Lease(loader, granted, answers, stream, options);
    }
  } catch (error) {
    stream.abort();
    throw error;
  } finally {
    options.signal?.removeEventListener("abort", giveUp);
  }
}

/** Components that stay in memory until `release`. */
export class Lease implements AsyncDisposable {
  readonly #lost = new AbortController();
  readonly #following: Promise<void>;
  #released: Promise<void> | undefined;

  /** @internal made by `hold` */
  constructor(
    private readonly loader: Modelkeep["loader"],
    private granted: Grant,
    answers: Answers,
    private readonly stream: AbortController,
    options: LeaseOptions,
  ) {
    this.#following = this.#follow(answers, options);
  }

  /** Its name, as ListLeases tells it. */
  get id(): string {
    return this.granted.lease?.id ?? "";
  }

  /** What was granted; another one once the lease was taken up again. */
  get grant(): Grant {
    return this.granted;
  }

  /** Aborted, with a `ModelkeepError` as its reason, when the lease has ended without having been released. */
  get lost(): AbortSignal {
    return this.#lost.signal;
  }

  /**
   * Let the components go. To release twice is no error, nor to release what was lost.
   *
   * @throws ModelkeepError if the loader does not answer; the lease ends then, since its stream does
   */
  release(): Promise<void> {
    return (this.#released ??= this.#release());
  }

  /** As `release`, for `await using`; a loader that does not answer is no error here. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.release().catch(() => undefined);
  }

  async #release(): Promise<void> {
    try {
      const { id: leaseId, grant } = this;
      if (!this.lost.aborted) await this.loader.releaseLease({ leaseId, leaseSecret: grant.leaseSecret });
    } catch (error) {
      if (!isReason(error, "UNKNOWN_LEASE", "LEASE_REVOKED")) throw error;
    } finally {
      this.stream.abort();
      await this.#following;
    }
  }

  async #follow(answers: Answers, options: LeaseOptions): Promise<void> {
    try {
      for await (const answer of answers) {
        if ("event" in answer) this.granted = tell(answer, options) ?? this.granted;
      }
    } catch (error) {
      if (!this.#released) this.#lost.abort(error);
    }
  }
}

/** Tell what a frame says; returns what it grants. */
function tell({ event }: HoldModelResponse, options: LeaseOptions): Grant | undefined {
  switch (event.case) {
    case "queued":
      options.onQueued?.(event.value);
      return undefined;
    case "progress":
      options.onProgress?.(event.value);
      return undefined;
    case "revokeRequested":
      options.onRevokeRequested?.(event.value);
      return undefined;
    case "lost":
      throw ModelkeepError.ofJob(event.value) ?? new ModelkeepError("The lease was lost.", Code.Unavailable);
    case "granted":
      return event.value;
    default:
      return undefined;
  }
}
