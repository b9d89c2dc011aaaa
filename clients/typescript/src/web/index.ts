/** Modelkeep from a browser: gRPC-Web, through a gateway such as the one in `deploy/envoy`. */

import { createGrpcWebTransport } from "@connectrpc/connect-web";

import { interceptors, type Token } from "../calls.js";
import { Modelkeep, SERVICES, type Transports } from "../modelkeep.js";

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

/**
 * The four services behind one gateway. Connects with the first call.
 *
 * It tells them apart by the calls' names; those of ServerService are the same at all four, so the service's name goes
 * before them, as a folder.
 */
export function connect({ baseUrl = globalThis.location.origin, token, timeoutMs }: WebOptions = {}): Modelkeep {
  const open = (url: string) => createGrpcWebTransport({ baseUrl: url, interceptors: interceptors(token) });
  const gateway = open(baseUrl);
  const transports = { record: gateway, download: gateway, install: gateway, loader: gateway };
  const servers = SERVICES.map((service) => [service, open(`${baseUrl}/${service}`)]);
  return new Modelkeep(transports, timeoutMs, Object.fromEntries(servers) as Transports);
}
