/** What goes wrong, as one typed error: a reason, facts for a program, and what to do about it. */

import { Code, ConnectError } from "@connectrpc/connect";

import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import type { ErrorReason } from "./gen/modelkeep/errors/v1/error_reason_pb.js";
import type { JobError } from "./gen/modelkeep/server/v1/job_pb.js";

/** Why a call or a job failed: the names of `modelkeep.errors.v1.ErrorReason`, whose comments say what each means. */
export type Reason = Exclude<keyof typeof ErrorReason, "UNSPECIFIED">;

/** One bad field of a request: its path as in the .proto, and what is wrong with it. */
export interface FieldViolation {
  readonly field: string;
  readonly description: string;
}

/** What an error of the suite tells besides its code and its message. */
export interface Told {
  readonly reason?: string;
  readonly facts?: Readonly<Record<string, string>>;
  readonly violations?: readonly FieldViolation[];
  readonly retryAfterMs?: number | undefined;
}

/**
 * An error of a call, or of a job that failed while it ran.
 *
 * It is a `ConnectError`, so `code`, `rawMessage` and `details` are there, too; it keeps that class's name, by which
 * Connect knows its own.
 */
export class ModelkeepError extends ConnectError {
  /** The reason; "" where no service said one: the network or a proxy failed, and `code` is all there is. */
  readonly reason: Reason | "";
  /** Facts for a program; the keys are those of the reason. */
  readonly facts: Readonly<Record<string, string>>;
  /** The bad fields of the request, where that is the reason. */
  readonly violations: readonly FieldViolation[];
  /** Milliseconds after which the service asks to be asked again; undefined if it did not say so. */
  readonly retryAfterMs: number | undefined;

  constructor(message: string, code: Code, told: Told = {}, cause?: unknown, metadata?: Headers) {
    super(message, code, metadata, undefined, cause);
    // A service may be newer than this client: a reason that is not in its list is told as it came.
    this.reason = (told.reason ?? "") as Reason | "";
    this.facts = told.facts ?? {};
    this.violations = told.violations ?? [];
    this.retryAfterMs = told.retryAfterMs;
  }

  /** Name of the status code, as gRPC writes it: "NOT_FOUND". */
  get status(): string {
    return nameOf(this.code);
  }

  /** What to do about it, as a sentence; "" if nothing is known. */
  get remedy(): string {
    return this.facts["remedy"] ?? "";
  }

  static override [Symbol.hasInstance](value: unknown): boolean {
    return Object.prototype.isPrototypeOf.call(ModelkeepError.prototype, value as object);
  }

  /** The error of a failed call, whatever was thrown. */
  static override from(cause: unknown, code?: Code): ModelkeepError {
    if (cause instanceof ModelkeepError) return cause;
    const error = ConnectError.from(cause, code);
    const made = new ModelkeepError(error.rawMessage, error.code, read(error), cause, error.metadata);
    made.details = error.details;
    return made;
  }

  /** The error that a job tells of; undefined if it tells of none. */
  static ofJob(job: { readonly error?: JobError | undefined }): ModelkeepError | undefined {
    if (job.error === undefined) return undefined;
    const { code, message, metadata, reason, retryTime } = job.error;
    const wait = retryTime && Number(retryTime.seconds) * 1000 - Date.now();
    const retryAfterMs = wait === undefined ? undefined : Math.max(0, wait);
    return new ModelkeepError(message, CODES.get(code) ?? Code.Unknown, { reason, facts: metadata, retryAfterMs });
  }
}

/** Whether something thrown is an error of the suite, for one of these reasons if any are named. */
export function isReason(error: unknown, ...reasons: Reason[]): error is ModelkeepError {
  if (!(error instanceof ModelkeepError) || error.reason === "") return false;
  return reasons.length === 0 || reasons.includes(error.reason);
}

function read(error: ConnectError): Told {
  const info = error.findDetails(ErrorInfoSchema).find(({ domain }) => domain.endsWith(".modelkeep.dev"));
  const delay = error.findDetails(RetryInfoSchema)[0]?.retryDelay;
  return {
    reason: info?.reason ?? "",
    facts: info?.metadata ?? {},
    violations: error.findDetails(BadRequestSchema).flatMap((request) => request.fieldViolations),
    retryAfterMs: delay && Number(delay.seconds) * 1000 + delay.nanos / 1e6,
  };
}

/** A status code as gRPC writes it: "NOT_FOUND". */
function nameOf(code: Code): string {
  // gRPC writes CANCELLED, Connect Canceled.
  return code === Code.Canceled ? "CANCELLED" : Code[code].replace(/(?<!^)[A-Z]/g, "_$&").toUpperCase();
}

const CODES = new Map(
  Object.values(Code).flatMap((code) => (typeof code === "number" ? [[nameOf(code), code] as const] : [])),
);
