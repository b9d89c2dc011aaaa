import assert from "node:assert/strict";
import { test } from "node:test";

import { Code } from "@connectrpc/connect";
import { isReason, ModelkeepError } from "@modelkeep/client";

import { against, refusal } from "./scripted.js";

test("a call that may be repeated is, while the service is away, and as late as it asks", async () => {
  const times: number[] = [];
  const getModel = () => {
    times.push(Date.now());
    if (times.length < 3) throw refusal(Code.Unavailable, "SERVER_DRAINING", {}, 400);
    return { model: { name: "found" } };
  };
  await against({ getModel }, async ({ records }) => {
    assert.equal((await records.getModel({ key: "k" })).model?.name, "found");
  });
  assert.equal(times.length, 3);
  assert.ok((times[2] ?? 0) - (times[0] ?? 0) >= 800);
});

test("a call that changes something is repeated by one and the same request id", async () => {
  const ids: string[] = [];
  const createModel = ({ requestId }: { requestId: string }) => {
    ids.push(requestId);
    if (ids.length < 2) throw refusal(Code.Unavailable, "SERVER_DRAINING");
    return {};
  };
  await against({ createModel }, async ({ records }) => {
    await records.createModel({ model: { name: "new" } });
  });
  assert.equal(ids.length, 2);
  assert.match(ids[0] ?? "", /^[0-9a-f]{8}-/);
  assert.equal(ids[0], ids[1]);
});

test("a call that may not be repeated is made once, and so is one that is refused", async () => {
  let calls = 0;
  const refused = () => {
    calls++;
    throw refusal(Code.Unavailable, "SERVER_DRAINING");
  };
  const getModel = () => {
    calls++;
    throw refusal(Code.NotFound, "UNKNOWN_MODEL", { key: "k", remedy: "Name another." });
  };
  await against({ setCoverImage: refused, watchModels: refused, getModel }, async ({ records }) => {
    const failure = await records.getModel({ key: "k" }).catch((error: unknown) => error);
    assert.ok(isReason(failure, "UNKNOWN_MODEL"));
    assert.equal(failure.status, "NOT_FOUND");
    assert.equal(failure.remedy, "Name another.");
    assert.equal(failure.facts["key"], "k");
    assert.equal(calls, 1);
    await assert.rejects(records.watchModels({})[Symbol.asyncIterator]().next());
    assert.equal(calls, 2);
  });
});

test("after four tries the error is told", async () => {
  let calls = 0;
  const getModel = () => {
    calls++;
    throw refusal(Code.Unavailable, "SERVER_DRAINING");
  };
  await against({ getModel }, async ({ records }) => {
    await assert.rejects(records.getModel({ key: "k" }), (error) => isReason(error, "SERVER_DRAINING"));
  });
  assert.equal(calls, 4);
});

test("nothing that answers is an interruption, and not a reason", async () => {
  await against({}, async ({ records }) => {
    const failure = await records.getModel({ key: "k" }).catch((error: unknown) => error);
    assert.ok(failure instanceof ModelkeepError);
    assert.equal(failure.status, "UNIMPLEMENTED");
    assert.ok(!isReason(failure));
  });
});

test("a call ends with its time, and with its signal", async () => {
  const getModel = () => new Promise<never>(() => undefined);
  await against({ getModel }, async ({ records }) => {
    const late = records.getModel({ key: "k" }, { timeoutMs: 50 });
    await assert.rejects(late, (error) => error instanceof ModelkeepError && error.code === Code.DeadlineExceeded);
    const stopped = records.getModel({ key: "k" }, { signal: AbortSignal.timeout(50), timeoutMs: 500 });
    await assert.rejects(stopped, (error) => error instanceof ModelkeepError && error.code !== Code.Unavailable);
  });
});
