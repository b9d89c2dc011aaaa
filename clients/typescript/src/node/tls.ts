/** Certificates and keys of who calls by TLS, in files that may be replaced while a program runs. */

import { readFileSync, statSync } from "node:fs";
import { createSecureContext } from "node:tls";

import { Code, type Transport } from "@connectrpc/connect";

import { ModelkeepError } from "../errors.js";

/** Milliseconds between two looks at the files. */
const LOOK_MS = 1_000;

/** The files, in PEM, of who calls by TLS. */
export interface TlsFiles {
  /** The authorities whose word for a service is taken. */
  readonly ca: string;
  /** The caller's own certificate, with those between it and its authority; without it none is shown. */
  readonly cert?: string | undefined;
  /** Its private key, without a passphrase; without it the key stands in `cert`. */
  readonly key?: string | undefined;
}

/** What is in them. */
export interface TlsSecrets {
  readonly ca: string;
  readonly cert?: string;
  readonly key?: string;
}

/** The files that the environment names, for what a caller does not name. */
export function namedFiles(
  said: Partial<TlsFiles> | undefined,
  environment: Readonly<Record<string, string | undefined>>,
): TlsFiles | undefined {
  const ca = said?.ca ?? environment["MODELKEEP_CA_FILE"];
  const cert = said?.cert ?? environment["MODELKEEP_CERT_FILE"];
  const key = said?.key ?? environment["MODELKEEP_KEY_FILE"];
  if (ca) return { ca, cert: cert || undefined, key: key || undefined };
  if (cert || key) throw unusable("A certificate is shown over TLS, for which the authorities of the services have to be known");
  return undefined;
}

/**
 * A transport by what the files say: they are looked at once a second while there are calls. Once they were replaced new
 * calls go by a new connection, and those under way go on as they are. Files that are no good then leave in use what was
 * there before.
 *
 * @param open makes a transport
 * @throws ModelkeepError CREDENTIALS_MISSING if they are no good to begin with
 */
export function renewed(files: TlsFiles, open: (secrets: TlsSecrets) => Transport): Transport {
  let seen = stateOf(files);
  let transport = open(read(files));
  let looked = Date.now();
  const current = (): Transport => {
    if (Date.now() - looked < LOOK_MS) return transport;
    looked = Date.now();
    const now = stateOf(files);
    if (now === seen) return transport;
    try {
      const secrets = read(files);
      // Files that are being replaced just now are of two times: the next look has them of one.
      if (stateOf(files) !== now) return transport;
      transport = open(secrets);
    } catch (error) {
      process.emitWarning(`${ModelkeepError.from(error).rawMessage} What was there before is shown.`, "ModelkeepWarning");
    }
    seen = now;
    return transport;
  };
  return {
    unary: (...call) => current().unary(...call),
    stream: (...call) => current().stream(...call),
  };
}

function read({ ca, cert, key }: TlsFiles): TlsSecrets {
  try {
    const authorities = readFileSync(ca, "utf8");
    const own = cert === undefined ? {} : { cert: readFileSync(cert, "utf8"), key: readFileSync(key ?? cert, "utf8") };
    const secrets = { ca: authorities, ...own };
    createSecureContext(secrets); // throws where a key is another certificate's
    if (!authorities.includes("-----BEGIN CERTIFICATE-----")) throw new Error(`${ca} holds no certificates as PEM`);
    return secrets;
  } catch (error) {
    throw unusable(`The files of TLS are no good (${(error as Error).message})`, error);
  }
}

/** What tells one state of the files from another. */
function stateOf({ ca, cert, key }: TlsFiles): string {
  const states = [ca, cert, key].map((path) => {
    if (path === undefined) return "";
    try {
      const { dev, ino, mtimeNs, size } = statSync(path, { bigint: true });
      return `${dev} ${ino} ${mtimeNs} ${size}`;
    } catch {
      return ""; // whatever keeps it from being seen: `read` says so
    }
  });
  return states.join("\n");
}

function unusable(what: string, cause?: unknown): ModelkeepError {
  const remedy = "Name others by tlsFiles, or MODELKEEP_CA_FILE, MODELKEEP_CERT_FILE and MODELKEEP_KEY_FILE.";
  const told = { reason: "CREDENTIALS_MISSING", facts: { remedy } };
  return new ModelkeepError(`${what}. ${remedy}`, Code.Unauthenticated, told, cause);
}
