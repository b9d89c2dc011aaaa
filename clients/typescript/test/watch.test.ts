import assert from "node:assert/strict";
import { test } from "node:test";

import { Code, type HandlerContext } from "@connectrpc/connect";
import { Collection, isReason, watch, type WatchFrame } from "@modelkeep/client";
import type { Model } from "@modelkeep/client/gen/modelkeep/model/v1/model_pb";
import { WatchPhase } from "@modelkeep/client/gen/modelkeep/server/v1/watch_pb";

import { against, refusal } from "./scripted.js";

type Asked = { resumeToken: string; skipSnapshot: boolean };

const put = (key: string, name = key) => ({ revision: 1n, change: { case: "put" as const, value: { key, name } } });
const removed = (key: string) => ({ revision: 2n, change: { case: "removedKey" as const, value: key } });
const live = (resumeToken: string, ...events: ReturnType<typeof put | typeof removed>[]) => ({
  phase: WatchPhase.LIVE,
  resumeToken,
  events,
});
const snapshot = (resumeToken: string, ...events: ReturnType<typeof put>[]) => ({
  phase: WatchPhase.SNAPSHOT,
  snapshotComplete: true,
  resumeToken,
  events,
});

/** The first frames of a watch. */
async function first(count: number, frames: AsyncIterable<WatchFrame<Model>>): Promise<WatchFrame<Model>[]> {
  const found: WatchFrame<Model>[] = [];
  for await (const frame of frames) if (found.push(frame) === count) break;
  return found;
}

test("a watch goes on from its last place when the stream ends, is lost or was too slow", async () => {
  const asked: Asked[] = [];
  async function* watchModels(request: Asked) {
    switch (asked.push(request)) {
      case 1:
        yield snapshot("a", put("one"));
        return; // as a service that is drained may
      case 2:
        yield live("b", put("two"));
        throw refusal(Code.Unavailable, "SERVER_DRAINING");
      case 3:
        throw refusal(Code.ResourceExhausted, "WATCHER_TOO_SLOW", { resume_token: "c" });
      default:
        yield live("d", removed("one"));
    }
  }
  await against({ watchModels }, async ({ records }) => {
    const models = new Collection<Model>();
    for (const frame of await first(3, watch(records.watchModels, {}))) models.apply(frame);
    assert.deepEqual([...models.items.keys()], ["two"]);
    assert.ok(models.complete);
  });
  assert.deepEqual(
    asked.map(({ resumeToken }) => resumeToken),
    ["", "a", "b", "c"],
  );
});

test("a place that is lost is told, and a snapshot says what is no more", async () => {
  async function* watchModels({ resumeToken, skipSnapshot }: Asked) {
    if (resumeToken === "old") throw refusal(Code.OutOfRange, "RESUME_TOKEN_EXPIRED");
    assert.equal(skipSnapshot, false);
    yield snapshot("new", put("one"));
  }
  await against({ watchModels }, async ({ records }) => {
    const models = new Collection<Model>();
    models.items.set("gone", {} as Model);
    const [frame] = await first(1, watch(records.watchModels, { resumeToken: "old", skipSnapshot: true }));
    assert.ok(frame?.restarted);
    models.apply(frame);
    assert.deepEqual([...models.items.keys()], ["one"]);
  });
});

test("who leaves the loop ends the call, and so does the signal", async () => {
  let ended: (() => void) | undefined;
  async function* watchModels(_: Asked, { signal }: HandlerContext) {
    signal.addEventListener("abort", () => ended?.());
    yield live("a");
    await new Promise(() => undefined);
  }
  await against({ watchModels }, async ({ records }) => {
    const left = new Promise<void>((resolve) => (ended = resolve));
    await first(1, watch(records.watchModels, {}));
    await left;

    const stopped = new Promise<void>((resolve) => (ended = resolve));
    const stop = new AbortController();
    for await (const _ of watch(records.watchModels, {}, { signal: stop.signal })) stop.abort();
    await stopped;
  });
});

test("what another try would not mend is told at once, and an absence once patience ends", async () => {
  let calls = 0;
  const watchModels = (): AsyncIterable<never> => {
    throw calls++ ? refusal(Code.Unavailable, "SERVER_DRAINING") : refusal(Code.PermissionDenied, "ROLE_REQUIRED");
  };
  await against({ watchModels }, async ({ records }) => {
    await assert.rejects(first(1, watch(records.watchModels, {})), (error) => isReason(error, "ROLE_REQUIRED"));
    assert.equal(calls, 1);
    const [frame] = await first(1, watch(records.watchModels, {}, { patienceMs: Number.POSITIVE_INFINITY }));
    assert.ok((frame?.awayMs ?? 0) >= 1000);
    const impatient = first(1, watch(records.watchModels, {}, { patienceMs: 0 }));
    await assert.rejects(impatient, (error) => isReason(error, "SERVER_DRAINING"));
  });
});
