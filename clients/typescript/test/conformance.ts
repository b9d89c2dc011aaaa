// Runs the cases of clients/conformance, as its README says: node dist/test/conformance.js [GATEWAY]
// With the origin of a gateway it calls by gRPC-Web, as a browser does; MODELKEEP_CONFORMANCE_GATEWAY names one that is
// called by gRPC.

import { readFile } from "node:fs/promises";

import { type DescMethod, type DescService, fromJson, type JsonValue, type Message, toJson } from "@bufbuild/protobuf";
import type { CallOptions } from "@connectrpc/connect";
import { type Modelkeep, ModelkeepError, type ServiceName, type Token } from "@modelkeep/client";
import { DownloadService } from "@modelkeep/client/gen/modelkeep/download/v1/download_service_pb";
import { InstallService } from "@modelkeep/client/gen/modelkeep/install/v1/install_service_pb";
import { LoaderService } from "@modelkeep/client/gen/modelkeep/loader/v1/loader_service_pb";
import { RecordService } from "@modelkeep/client/gen/modelkeep/record/v1/record_service_pb";
import { ServerService } from "@modelkeep/client/gen/modelkeep/server/v1/server_service_pb";
import * as node from "@modelkeep/client/node";
import * as web from "@modelkeep/client/web";

import { compare, fill, textAt } from "./expectations.js";

/** One case; the README of clients/conformance says what the fields mean. */
interface Case {
  readonly name: string;
  readonly method: string;
  readonly as?: Role;
  readonly at?: ServiceName;
  readonly request?: JsonValue;
  readonly answer?: JsonValue;
  readonly answers?: readonly JsonValue[];
  readonly ends?: boolean;
  readonly error?: Record<string, JsonValue>;
  readonly keep?: Readonly<Record<string, string>>;
}

type Role = "owner" | "anonymous" | "stranger";
type Call = (request: Message, options: CallOptions) => Promise<Message> | AsyncIterable<Message>;

const FILES = ["server", "record", "install", "download", "loader"];
const SERVICES: readonly DescService[] = [ServerService, RecordService, InstallService, DownloadService, LoaderService];
const DEADLINE_MS = 60_000;
const [gateway] = process.argv.slice(2);
const kept = new Map([["IMPORTS", process.env["MODELKEEP_CONFORMANCE_IMPORTS"] ?? ""]]);

const tokens: Record<Role, Token> = {
  owner: node.tokenFile(process.env["MODELKEEP_TOKEN_FILE"] ?? ""),
  anonymous: () => undefined,
  stranger: () => "nobody-knows-this-token-of-a-stranger",
};
const byGrpc = process.env["MODELKEEP_CONFORMANCE_GATEWAY"];
const connect = (role: Role): Modelkeep => {
  const token = tokens[role];
  if (gateway) return web.connect({ baseUrl: gateway, token });
  return node.connect({ token, ...(byGrpc ? { gateway: byGrpc } : {}) });
};
const callers: Record<Role, Modelkeep> = {
  owner: connect("owner"),
  anonymous: connect("anonymous"),
  stranger: connect("stranger"),
};

/** The method of a case, and the call that makes it. */
function find({ method: name, as = "owner", at = "record" }: Case): [DescMethod, Call] {
  const [serviceName, methodName] = name.split("/");
  const method = SERVICES.find(({ typeName }) => typeName === serviceName)?.methods.find((m) => m.name === methodName);
  if (method === undefined) throw new Error(`${name} is not known`);
  const { records, installs, downloads, loader, servers } = callers[as];
  const clients = { record: records, install: installs, download: downloads, loader, server: servers[at] };
  const client = clients[serviceName?.split(".")[1] as keyof typeof clients];
  return [method, (client as unknown as Record<string, Call>)[method.localName] as Call];
}

/** The answers to a case's call: of a stream as many as it names, or one more if it should end after them. */
async function ask(said: Case): Promise<JsonValue[]> {
  const [method, call] = find(said);
  const cancel = new AbortController();
  const options = { timeoutMs: DEADLINE_MS, signal: cancel.signal };
  const answer = call(fromJson(method.input, fill(said.request ?? {}, kept)), options);
  if (!(Symbol.asyncIterator in answer)) return [toJson(method.output, await answer)];
  const wanted = (said.answers?.length ?? 1) + (said.ends ? 1 : 0);
  const found: JsonValue[] = [];
  for await (const message of answer) {
    found.push(toJson(method.output, message));
    if (found.length === wanted) break;
  }
  cancel.abort();
  return found;
}

/** Throws where the answer is not what the case says. */
async function run(said: Case): Promise<void> {
  let answers: JsonValue[];
  try {
    answers = await ask(said);
  } catch (error) {
    if (said.error === undefined || !(error instanceof ModelkeepError)) throw error;
    const { status: code, reason, facts: metadata, remedy, violations } = error;
    const told = { code, reason, metadata, remedy, violations: violations.map(({ field }) => field) };
    compare({ violations: [], ...(fill(said.error, kept) as object) }, told, "error");
    return;
  }
  if (said.error !== undefined) throw new Error(`there is no error, but ${JSON.stringify(answers)}`);
  compare(fill([...(said.answers ?? [said.answer ?? {}])], kept), answers, "answers");
  for (const [name, path] of Object.entries(said.keep ?? {})) kept.set(name, textAt(answers.at(-1), path));
}

let passed = 0;
for (const file of FILES) {
  const cases = new URL(`../../../conformance/${file}.json`, import.meta.url);
  for (const said of JSON.parse(await readFile(cases, "utf8")) as Case[]) {
    try {
      await run(said);
      passed++;
    } catch (error) {
      process.exitCode = 1;
      console.log(`${file}: ${said.name}: ${String(error)}`);
    }
  }
}
console.log(`${passed} passed`);
