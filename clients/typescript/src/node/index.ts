/** Modelkeep from Node: gRPC, over TCP or the UNIX sockets of a suite on this machine. */

import { createConnection } from "node:net";
import type { SecureContextOptions } from "node:tls";

import { Code, type Transport } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";

import { interceptors, type Token } from "../calls.js";
import { ModelkeepError } from "../errors.js";
import { Modelkeep, type ServiceName, SERVICES, type Transports } from "../modelkeep.js";
import { type Address, findAddresses } from "./addresses.js";
import { tokenFile } from "./tokens.js";

export * from "../index.js";
export { type Address, findAddresses, tokenFile };

/** Where the services are, and as whom to call. Nothing of it need be said beside a suite of one's own. */
export interface NodeOptions {
  /** Where a service is, as `host:port` or `unix:/path/of/socket`; the others are looked for. */
  readonly addresses?: Partial<Readonly<Record<ServiceName, string>>>;
  /** The data folder of the suite to call; without one see `findAddresses`. */
  readonly dataDir?: string;
  /** Gives the token to show, in place of the file that MODELKEEP_TOKEN_FILE names and the suite's own. */
  readonly token?: Token;
  /** Certificates, where the services serve TLS: the CA's, and for mTLS one's own with its key. */
  readonly tls?: Pick<SecureContextOptions, "ca" | "cert" | "key">;
  /** How long a unary call may take with its repetitions; 30 s by default. */
  readonly timeoutMs?: number;
}

/** A dead peer that never said goodbye is noticed; the services allow a ping every 10 s. */
const PINGS = { pingIntervalMs: 60_000, pingTimeoutMs: 20_000 };

/** The services of a suite. Connects with the first call. */
export function connect({ addresses, dataDir, token, tls, timeoutMs }: NodeOptions = {}): Modelkeep {
  const found = findAddresses({ addresses, dataDir });
  const transports = SERVICES.map((service) => [service, open(found[service], token, tls)]);
  return new Modelkeep(Object.fromEntries(transports) as Transports, timeoutMs);
}

function open(address: Address, token: Token | undefined, tls: NodeOptions["tls"]): Transport {
  if (address.target === "") return nowhere(address);
  const path = address.target.startsWith("unix:") ? address.target.slice("unix:".length) : undefined;
  return createGrpcTransport({
    ...PINGS,
    // Of a socket the name of the host says nothing.
    baseUrl: `${tls ? "https" : "http"}://${path === undefined ? address.target : "localhost"}`,
    interceptors: interceptors(token ?? address.token),
    nodeOptions: { ...tls, ...(path === undefined ? {} : { createConnection: () => createConnection(path) }) },
  });
}

/** To a service that is not there: every call says so. */
function nowhere({ origin }: Address): Transport {
  const remedy = "Start it with `modelkeep up`, or name another data folder or address.";
  const told = { reason: "UPSTREAM_UNAVAILABLE", facts: { remedy } };
  const fail = () => Promise.reject(new ModelkeepError(`There is no such service to call: ${origin}. ${remedy}`, Code.Unavailable, told));
  return { unary: fail, stream: fail };
}
