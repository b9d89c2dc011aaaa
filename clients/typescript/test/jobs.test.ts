import assert from "node:assert/strict";
import { test } from "node:test";

import { isReason, jobEnd } from "@modelkeep/client";
import { DownloadService, type WatchDownloadsRequest } from "@modelkeep/client/gen/modelkeep/download/v1/download_service_pb";
import { InstallService } from "@modelkeep/client/gen/modelkeep/install/v1/install_service_pb";
import { WatchPhase } from "@modelkeep/client/gen/modelkeep/server/v1/watch_pb";

import { against } from "./scripted.js";

const told = (value: { id: string; ended: boolean }) => ({
  phase: WatchPhase.LIVE,
  resumeToken: "a",
  events: [{ revision: 1n, change: { case: "put" as const, value } }],
});

test("a download is followed to its end in whichever queue it is", async () => {
  async function* watchDownloads({ allQueues, ids, untilEnded }: WatchDownloadsRequest) {
    assert.deepEqual([ids, untilEnded], [["7"], true]);
    if (!allQueues) return; // there is none of this number in the default queue
    yield told({ id: "7", ended: false });
    yield told({ id: "7", ended: true });
  }
  const changes: boolean[] = [];
  await against(
    {},
    async ({ downloads }) => {
      const ended = await jobEnd(downloads.watchDownloads, "7", { onChange: ({ ended }) => changes.push(ended) });
      assert.equal(ended.id, "7");
    },
    (router) => router.service(DownloadService, { watchDownloads }),
  );
  assert.deepEqual(changes, [false, true]);
});

test("an install is followed likewise, and one that is not there is unknown", async () => {
  async function* watchInstalls({ ids: [id = ""] }: { ids: string[] }) {
    if (id === "7") yield told({ id, ended: true });
  }
  await against(
    {},
    async ({ installs }) => {
      assert.ok((await jobEnd(installs.watchInstalls, "7")).ended);
      await assert.rejects(jobEnd(installs.watchInstalls, "8"), (error) => isReason(error, "UNKNOWN_JOB"));
    },
    (router) => router.service(InstallService, { watchInstalls }),
  );
});
