/** Where the services are: what the caller says, the environment, the running suite, the default ports. */

import { accessSync, constants, lstatSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";

import type { Token } from "../calls.js";
import { type ServiceName, SERVICES } from "../modelkeep.js";
import { namedFiles, type TlsFiles } from "./tls.js";
import { tokenFile } from "./tokens.js";

/** Where the services listen when they are not told otherwise: from 50051 in their order. */
const FIRST_PORT = 50051;
const DATA_DIR = "modelkeep-data";

/** Where a service is looked for. */
export interface Address {
  /** `host:port`, or `unix:/path/of/socket`; empty if it is nowhere: to call it is an error. */
  readonly target: string;
  /** Who said so, or why there is none, for messages. */
  readonly origin: string;
  /** Gives the token that calls show there. */
  readonly token: Token | undefined;
  /** The files by which it is called by TLS; undefined for plaintext. */
  readonly tlsFiles: TlsFiles | undefined;
}

/** What a caller says of where the services are. */
export interface Said {
  readonly addresses?: Partial<Readonly<Record<ServiceName, string>>> | undefined;
  readonly gateway?: string | undefined;
  readonly dataDir?: string | undefined;
  readonly tokenFile?: string | undefined;
  readonly tlsFiles?: Partial<TlsFiles> | undefined;
  readonly environment?: Readonly<Record<string, string | undefined>>;
}

/** What `run/suite.json` in a data folder says while a suite runs. */
interface Suite {
  readonly addresses: Partial<Record<ServiceName, string>>;
  readonly sockets?: Partial<Record<ServiceName, string>>;
  /** The folder of the certificates that the services show over TCP; empty for plaintext. */
  readonly certs?: string;
}

/**
 * The address of each service, from the first place that names one: `gateway`, `addresses`, `dataDir`,
 * `MODELKEEP_CLIENT_<SERVICE>_ADDRESS`, `MODELKEEP_DATA_DIR`, the suite in `./modelkeep-data`, the default ports.
 *
 * Of a running suite its UNIX socket is taken; where that is out of reach its port, and the owner's token, which is
 * shown nowhere else. Where a data folder is named, or a suite found, no other suite is called in its place.
 *
 * @throws ModelkeepError CREDENTIALS_MISSING if a certificate is named, and no authority
 * @throws Error if the suite in `./modelkeep-data` is another user's and nobody named it
 */
export function findAddresses(said: Said = {}): Record<ServiceName, Address> {
  const { addresses = {}, gateway, dataDir, environment = process.env } = said;
  const secured = namedFiles(said.tlsFiles, environment);
  const shownFile = said.tokenFile ?? environment["MODELKEEP_TOKEN_FILE"];
  const shown = shownFile ? tokenFile(shownFile) : undefined;
  if (gateway) return forEach(() => ({ target: gateway, origin: "the caller", token: shown, tlsFiles: secured }));
  const named = dataDir ?? environment["MODELKEEP_DATA_DIR"];
  const folder = named ?? DATA_DIR;
  const suiteFile = join(folder, "run", "suite.json");
  if (!named) refuseStrangers(suiteFile);
  const suite = readSuite(suiteFile);
  const ports = Object.values(suite?.addresses ?? {});
  const owners = join(folder, "run", "tokens", "owner");

  const at = (target: string, origin: string, tlsFiles = secured): Address => {
    const isOwners = !shown && ports.includes(target) && allows(owners, constants.R_OK);
    return { target, origin, token: isOwners ? tokenFile(owners) : shown, tlsFiles };
  };
  const find = (service: ServiceName): Address => {
    const variable = `MODELKEEP_CLIENT_${service.toUpperCase()}_ADDRESS`;
    const [given, told] = [addresses[service], dataDir ? undefined : environment[variable]];
    if (given) return at(given, "the caller");
    if (told) return at(told, `the environment variable ${variable}`);
    const [socket, port] = [suite?.sockets?.[service], suite?.addresses[service]];
    if (socket && allows(socket, constants.W_OK)) {
      return { target: `unix:${socket}`, origin: suiteFile, token: shown, tlsFiles: undefined };
    }
    // Who runs a suite by certificates has those that it is called by.
    if (port) return at(port, suiteFile, secured ?? (suite?.certs ? ownFiles(suite.certs) : undefined));
    if (!suite && !named) return at(`127.0.0.1:${FIRST_PORT + SERVICES.indexOf(service)}`, "the default port");
    const why = suite ? `the suite in ${folder} runs without it` : `no suite runs on ${folder}`;
    return { target: "", origin: why, token: undefined, tlsFiles: undefined };
  };
  return forEach(find);
}

function forEach(find: (service: ServiceName) => Address): Record<ServiceName, Address> {
  return Object.fromEntries(SERVICES.map((service) => [service, find(service)])) as Record<ServiceName, Address>;
}

/** How the owner of a suite calls it by TLS, whose folder of certificates is one of `modelkeep certs dev`. */
function ownFiles(certs: string): TlsFiles {
  return { ca: join(certs, "ca.pem"), cert: join(certs, "client.pem"), key: join(certs, "client.key") };
}

/** The running suite; undefined when there is no description. A killed suite leaves its own behind. */
function readSuite(path: string): Suite | undefined {
  try {
    const said: unknown = JSON.parse(readFileSync(path, "utf8"));
    return typeof said === "object" && said !== null && "addresses" in said ? (said as Suite) : undefined;
  } catch {
    return undefined;
  }
}

/** A suite that merely lies where the caller stands may have been put there by anybody. */
function refuseStrangers(suiteFile: string): void {
  const run = dirname(suiteFile);
  let owners: number[];
  try {
    owners = [dirname(run), run, suiteFile].map((path) => lstatSync(path).uid);
  } catch {
    return; // there is none that could be read
  }
  const stranger = owners.find((uid) => uid !== 0 && uid !== process.geteuid?.());
  if (stranger === undefined) return;
  throw new Error(
    `The suite in ${dirname(run)} is of another user (uid ${stranger}) and not called unasked. ` +
      "If you mean it, name the folder: dataDir, or MODELKEEP_DATA_DIR.",
  );
}

function allows(path: string, mode: number): boolean {
  try {
    accessSync(path, mode);
    return true;
  } catch {
    return false;
  }
}
