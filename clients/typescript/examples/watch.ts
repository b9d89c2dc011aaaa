// List the models, then tell what changes, until Ctrl-C: node dist/examples/watch.js
// It goes on by itself when the service is restarted.

import { watch } from "@modelkeep/client";
import { connect } from "@modelkeep/client/node";

const modelkeep = connect();
const stop = new AbortController();
process.once("SIGINT", () => stop.abort());

// The first page says from where a watch tells of everything that happens after the list was read.
let resumeToken = "";
let pageToken = "";
do {
  const page = await modelkeep.records.listModels({ pageToken });
  for (const { key, name } of page.models) console.log(`is there: ${key} ${name}`);
  resumeToken ||= page.resumeToken;
  pageToken = page.nextPageToken;
} while (pageToken);

const frames = watch(modelkeep.records.watchModels, { resumeToken }, { signal: stop.signal });
for await (const { events, awayMs } of frames) {
  if (awayMs !== undefined) console.error(`the service has been away for ${Math.round(awayMs / 1000)} s`);
  for (const { id, put } of events) console.log(put ? `changed: ${id} ${put.name}` : `removed: ${id}`);
}
