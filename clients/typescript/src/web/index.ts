/** Modelkeep from a browser: gRPC-Web, through a gateway such as the one in `deploy/envoy`. */

import { createGrpcWebTransport } from "@connectrpc/connect-web";

import { interceptors, type Token } from "../calls.js";
import { Modelkeep } from "../modelkeep.js";

export * from "../index.js";

/** Where the gateway is, and as whom to call. */
export interface WebOptions {
  /** The gateway's origin; by default that of the page. */
  readonly baseUrl?: string;
  /** Gives the token to show; without one the calls are anonymous, who may look and change nothing. */
  readonly token?: Token;
  /** How long a unary call may take with its repetitions; 30 s by default. */
  readonly timeoutMs?: number;
}

/** The four services behind one gateway, which tells them apart by the calls' names. Connects with the first call. */
export function connect({ baseUrl = globalThis.location.origin, token, timeoutMs }: WebOptions = {}): Modelkeep {
  const transport = createGrpcWebTransport({ baseUrl, interceptors: interceptors(token) });
  const transports = { record: transport, download: transport, install: transport, loader: transport };
  return new Modelkeep(transports, timeoutMs);
}
