// Watches the models as a page does, through a gateway, and prints each change: node dist/test/page.js GATEWAY TOKEN_FILE

import { watch } from "@modelkeep/client";
import { tokenFile } from "@modelkeep/client/node";
import { connect } from "@modelkeep/client/web";

const [baseUrl = "", path = ""] = process.argv.slice(2);
const modelkeep = connect({ baseUrl, token: tokenFile(path) });
const stop = new AbortController();
process.stdin.on("end", () => stop.abort()).resume();
const options = { signal: stop.signal, patienceMs: Number.POSITIVE_INFINITY };
for await (const { events, snapshotComplete, restarted } of watch(modelkeep.records.watchModels, {}, options)) {
  if (restarted) console.log("restarted");
  for (const { id, put } of events) console.log(put ? `${id} ${put.name}` : `removed: ${id}`);
  if (snapshotComplete) console.log("these there are");
}
