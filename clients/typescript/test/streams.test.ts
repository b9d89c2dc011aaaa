import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate } from "node:timers/promises";

import type { HandlerContext } from "@connectrpc/connect";

import { against } from "./scripted.js";

const timers = () => process.getActiveResourcesInfo().filter((kind) => kind === "Timeout").length;

for (const signal of [undefined, new AbortController().signal]) {
  test(`a stream ends when its reader leaves it, with ${signal ? "a" : "no"} signal of his own`, { timeout: 10_000 }, async () => {
    let end: (() => void) | undefined;
    const ended = new Promise<void>((resolve) => (end = resolve));
    async function* watchModels(_: unknown, { signal: given }: HandlerContext) {
      given.addEventListener("abort", () => end?.());
      yield { resumeToken: "a" };
      await ended;
    }
    await against({ watchModels }, async ({ records }) => {
      const before = timers();
      for await (const { resumeToken } of records.watchModels({}, { timeoutMs: 60_000, ...(signal && { signal }) })) {
        assert.equal(resumeToken, "a");
        break;
      }
      await ended;
      while (timers() > before) await setImmediate(); // each would keep a program from ending
    });
  });
}
