/** Tokens that lie in files. */

import { readFileSync, statSync } from "node:fs";

import { Code } from "@connectrpc/connect";

import type { Token } from "../calls.js";
import { ModelkeepError } from "../errors.js";

/**
 * The token in a file, read again when the file has changed: a suite makes new ones at each start.
 *
 * The token is all of the file but white space around it; asking throws CREDENTIALS_MISSING if it cannot be read or holds none.
 */
export function tokenFile(path: string): Token {
  let seen = "";
  let token = "";
  return () => {
    try {
      const { ino, mtimeMs, size } = statSync(path);
      if (seen !== `${ino} ${mtimeMs} ${size}`) {
        token = readFileSync(path, "utf8").trim();
        seen = `${ino} ${mtimeMs} ${size}`;
      }
    } catch (error) {
      throw missing(path, `The token file ${path} cannot be read (${(error as Error).message})`, error);
    }
    if (!/^[!-~]+$/.test(token)) throw missing(path, `The token file ${path} does not hold one token`);
    return token;
  };
}

function missing(path: string, what: string, cause?: unknown): ModelkeepError {
  const remedy = "Name another with MODELKEEP_TOKEN_FILE, or start the suite.";
  const told = { reason: "CREDENTIALS_MISSING", facts: { path, remedy } };
  return new ModelkeepError(`${what}. ${remedy}`, Code.Unauthenticated, told, cause);
}
