/** What every call does besides: shows a token, is made again where that does no harm, fails with typed errors. */

import type { DescService, Message } from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel as Level } from "@bufbuild/protobuf/wkt";
import { type CallOptions, type Client, Code, createClient, type Interceptor } from "@connectrpc/connect";
import type { Transport, UnaryRequest } from "@connectrpc/connect";

import { Backoff, sleep } from "./backoff.js";
import { ModelkeepError } from "./errors.js";

/** Gives the token to show, or nothing; asked before each call. */
export type Token = () => string | undefined | Promise<string | undefined>;

/** How long a unary call may take with its repetitions, unless the caller says otherwise. */
export const DEFAULT_TIMEOUT_MS = 30_000;
/** How often a call is made at most: four tries take 0.5 to 1 s. */
const MAX_TRIES = 4;
const FIRST_DELAY_MS = 150;
/** How a connection ends in the middle of an answer: reset, closed without a status, given up by a gateway. */
const LOST = new Set([Code.Aborted, Code.Canceled, Code.DeadlineExceeded, Code.Internal, Code.Unknown]);

/** The interceptors of every transport, the outermost first. */
export function interceptors(token?: Token): Interceptor[] {
  return [retries, ...(token ? [showing(token)] : [])];
}

/** A unary call is made again while the service is away, where a repetition does no harm. */
const retries: Interceptor = (next) => async (request) => {
  if (request.stream || !mayRepeat(request)) return next(request);
  const backoff = new Backoff(FIRST_DELAY_MS);
  for (let triesLeft = MAX_TRIES - 1; ; triesLeft--) {
    try {
      return await next(request);
    } catch (thrown) {
      const error = ModelkeepError.from(thrown);
      if (triesLeft === 0 || request.signal.aborted || !isInterruption(error)) throw error;
      await sleep(backoff.next(error.retryAfterMs), request.signal);
    }
  }
};

/**
 * Whether the service was away, or the connection to it was lost: another try may find it.
 *
 * Of what Connect, the network and gateways say without a reason these codes are meant; a service gives its reason.
 */
export function isInterruption({ code, reason }: ModelkeepError): boolean {
  return code === Code.Unavailable || (reason === "" && LOST.has(code));
}

/** Whether the method says so (its idempotency level), or the request has an id by which a repetition is known. */
function mayRepeat({ method, message }: UnaryRequest): boolean {
  if (method.idempotency !== Level.IDEMPOTENCY_UNKNOWN) return true;
  if (method.input.field["requestId"] === undefined) return false;
  const named = message as { requestId?: string };
  named.requestId ||= crypto.randomUUID();
  return true;
}

function showing(token: Token): Interceptor {
  return (next) => async (request) => {
    const shown = await token();
    if (shown) request.header.set("authorization", `Bearer ${shown}`);
    return next(request);
  };
}

/**
 * A transport whose every failure is a `ModelkeepError`, and whose unary calls end after a while. Streams go on for as
 * long as they are wanted.
 *
 * No interceptor: Connect puts a call's own end, by time or by signal, in place of what interceptors throw.
 */
export function withTypedErrors(transport: Transport, defaultMs: number): Transport {
  return {
    unary: (method, signal, timeoutMs, ...rest) =>
      transport.unary(method, signal, timeoutMs ?? defaultMs, ...rest).catch(rethrow),
    async stream(...call) {
      const response = await transport.stream(...call).catch(rethrow);
      return { ...response, message: typed(response.message) };
    },
  };
}

async function* typed<T>(messages: AsyncIterable<T>): AsyncIterable<T> {
  try {
    yield* messages;
  } catch (error) {
    rethrow(error);
  }
}

type OpensStream = (request: Message, options?: CallOptions) => AsyncIterable<Message>;

/** A client whose streams end when their reader leaves them, as by `break`, which those of Connect's do not. */
export function clientOf<S extends DescService>(service: S, transport: Transport): Client<S> {
  const client = createClient(service, transport);
  const streams = service.methods.filter(({ methodKind }) => methodKind === "server_streaming");
  const leaving = streams.map(({ localName }) => {
    const open = client[localName as keyof Client<S>] as OpensStream;
    return [localName, endingWithReader(open)] as const;
  });
  return Object.assign(client, Object.fromEntries(leaving));
}

function endingWithReader(open: OpensStream): OpensStream {
  return (request, options) => {
    const call = new AbortController();
    const signal = options?.signal ? AbortSignal.any([options.signal, call.signal]) : call.signal;
    const messages = open(request, { ...options, signal })[Symbol.asyncIterator]();
    const leave = async (value?: unknown) => {
      call.abort();
      // Behind what had come already Connect finds the end, and lets go of the deadline's timer.
      const toTheEnd = async () => {
        while (!(await messages.next()).done);
      };
      await toTheEnd().catch(() => undefined);
      return { done: true as const, value };
    };
    return { [Symbol.asyncIterator]: () => ({ next: () => messages.next(), return: leave }) };
  };
}

function rethrow(error: unknown): never {
  throw ModelkeepError.from(error);
}
