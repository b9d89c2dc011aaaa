// A RecordService, and others, that do as a test says, over a real connection.

import { createServer } from "node:http2";
import type { AddressInfo } from "node:net";

import { Code, ConnectError, type ConnectRouter, type ServiceImpl } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import type { Modelkeep, Reason } from "@modelkeep/client";
import { ErrorInfoSchema, RetryInfoSchema } from "@modelkeep/client/gen/google/rpc/error_details_pb";
import { RecordService } from "@modelkeep/client/gen/modelkeep/record/v1/record_service_pb";
import { connect } from "@modelkeep/client/node";

/**
 * Run a test against a RecordService with these methods.
 *
 * @param others adds other services
 */
export async function against(
  methods: Partial<ServiceImpl<typeof RecordService>>,
  test: (modelkeep: Modelkeep) => Promise<void>,
  others: (router: ConnectRouter) => unknown = () => undefined,
): Promise<void> {
  const routes = (router: ConnectRouter) => void others(router.service(RecordService, methods));
  const server = createServer(connectNodeAdapter({ routes }));
  const sessions = new Set<{ destroy(): void }>();
  server.on("session", (session) => sessions.add(session));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const target = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  try {
    await test(connect({ addresses: { record: target, download: target, install: target, loader: target } }));
  } finally {
    for (const session of sessions) session.destroy();
    server.close();
  }
}

/** An error as the services make them. */
export function refusal(code: Code, reason: Reason, facts: Record<string, string> = {}, retryMs?: number): ConnectError {
  const info = { desc: ErrorInfoSchema, value: { reason, domain: "record.modelkeep.dev", metadata: facts } };
  const delay = { seconds: 0n, nanos: (retryMs ?? 0) * 1e6 };
  const retry = retryMs === undefined ? [] : [{ desc: RetryInfoSchema, value: { retryDelay: delay } }];
  return new ConnectError(`It is ${reason}.`, code, undefined, [info, ...retry]);
}
