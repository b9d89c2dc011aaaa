/** Modelkeep from Node: gRPC, over TCP or the UNIX sockets of a suite on this machine. */

import { createConnection } from "node:net";
import type { SecureContextOptions } from "node:tls";

import { Code, type Interceptor, type Transport } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";

import { interceptors, type Token } from "../calls.js";
import { ModelkeepError } from "../errors.js";
import { Modelkeep, type ServiceName, SERVICES, type Transports } from "../modelkeep.js";
import { type Address, findAddresses } from "./addresses.js";
import { renewed, type TlsFiles } from "./tls.js";
import { tokenFile } from "./tokens.js";

export * from "../index.js";
export { type Address, findAddresses, type TlsFiles, tokenFile };

/** Where the services are, and as whom to call. Nothing of it need be said beside a suite of one's own. */
export interface NodeOptions {
  /** Where a service is, as `host:port` or `unix:/path/of/socket`; the others are looked for. */
  readonly addresses?: Partial<Readonly<Record<ServiceName, string>>>;
  /** A gateway that stands before all four services, as `host:port`; then nothing else is looked for. */
  readonly gateway?: string;
  /** The data folder of the suite to call; without one see `findAddresses`. */
  readonly dataDir?: string;
  /** Gives the token to show, in place of the file that MODELKEEP_TOKEN_FILE names and the suite's own. */
  readonly token?: Token;
  /** The file of the token to show, read again when it has changed. `token` comes before it. */
  readonly tokenFile?: string;
  /**
   * Files of TLS, by which services are called over TCP; what is left out MODELKEEP_CA_FILE, MODELKEEP_CERT_FILE and
   * MODELKEEP_KEY_FILE name. UNIX sockets are always plain.
   */
  readonly tlsFiles?: Partial<TlsFiles>;
  /** Certificates and keys themselves, in place of files. */
  readonly tls?: Pick<SecureContextOptions, "ca" | "cert" | "key">;
  /** The host that the services' certificates are for, where they are called by another one. */
  readonly serverName?: string;
  /** How long a unary call may take with its repetitions; 30 s by default. */
  readonly timeoutMs?: number;
}

/** The client's version, which calls tell. */
export const VERSION = "0.1.0";
/** A dead peer that never said goodbye is noticed; the services allow a ping every 10 s. */
const PINGS = { pingIntervalMs: 60_000, pingTimeoutMs: 20_000 };
/** Answers are capped well below 4 MiB; a record with a long description and a page of them may pass it. */
const MAX_MESSAGE_BYTES = 16 * 1024 * 1024;

/**
 * The services of a suite. Connects with the first call.
 *
 * @throws ModelkeepError CREDENTIALS_MISSING if files of TLS are no good
 */
export function connect(options: NodeOptions = {}): Modelkeep {
  const { gateway, timeoutMs } = options;
  const found = findAddresses(options);
  const all = (open: (service: ServiceName) => Transport) =>
    Object.fromEntries(SERVICES.map((service) => [service, open(service)])) as Transports;
  if (gateway === undefined) return new Modelkeep(all((service) => transportTo(found[service], options)), timeoutMs);
  // It tells the services apart by the calls' names; those of ServerService are the same at all four.
  const one = transportTo(found.record, options);
  const servers = all((service) => transportTo(found[service], options, `/${service}`));
  return new Modelkeep(all(() => one), timeoutMs, servers);
}

function transportTo(address: Address, { token, tls, serverName }: NodeOptions, folder = ""): Transport {
  if (address.target === "") return nowhere(address);
  const path = address.target.startsWith("unix:") ? address.target.slice("unix:".length) : undefined;
  const open = (secrets?: NodeOptions["tls"]): Transport =>
    createGrpcTransport({
      ...PINGS,
      // Of a socket the name of the host says nothing.
      baseUrl: `${secrets ? "https" : "http"}://${path === undefined ? address.target : "localhost"}${folder}`,
      interceptors: [named, ...interceptors(token ?? address.token)],
      readMaxBytes: MAX_MESSAGE_BYTES,
      nodeOptions: {
        ...secrets,
        ...(secrets && serverName ? { servername: serverName } : {}),
        ...(path === undefined ? {} : { createConnection: () => createConnection(path) }),
      },
    });
  if (path !== undefined) return open();
  return tls || !address.tlsFiles ? open(tls) : renewed(address.tlsFiles, open);
}

/** Calls tell what makes them. */
const named: Interceptor = (next) => (request) => {
  request.header.set("User-Agent", `modelkeep-typescript/${VERSION} ${request.header.get("User-Agent") ?? ""}`.trim());
  return next(request);
};

/** To a service that is not there: every call says so. */
function nowhere({ origin }: Address): Transport {
  const remedy = "Start it with `modelkeep up`, or name another data folder or address.";
  const told = { reason: "UPSTREAM_UNAVAILABLE", facts: { remedy } };
  const fail = () => Promise.reject(new ModelkeepError(`There is no such service to call: ${origin}. ${remedy}`, Code.Unavailable, told));
  return { unary: fail, stream: fail };
}
