// For each line of standard input creates a model over mTLS and prints its name or the reason, while a watch goes on:
// node dist/test/tls.js ADDRESS CA CERTIFICATE KEY

import { createInterface } from "node:readline";

import { ModelkeepError } from "@modelkeep/client";
import { ModelFormat, ModelType } from "@modelkeep/client/gen/modelkeep/model/v1/taxonomy_pb";
import { connect } from "@modelkeep/client/node";

const [record = "", ca = "", cert = "", key = ""] = process.argv.slice(2);
const { records } = connect({ addresses: { record }, tlsFiles: { ca, cert, key } });
const model = { name: "over TLS", type: ModelType.VAE, format: ModelFormat.DIFFUSERS, base: "sd-1", path: "/models/vae" };

const stop = new AbortController();
const watching = (async () => {
  for await (const { events } of records.watchModels({}, { signal: stop.signal })) {
    for (const { change } of events) if (change.case === "put") console.log(`watched: ${change.value.name}`);
  }
})().catch((error: unknown) => {
  if (!stop.signal.aborted) console.log(`the watch has ended: ${String(error)}`);
});

for await (const line of createInterface(process.stdin)) {
  try {
    console.log((await records.createModel({ model: { ...model, path: `/models/${line}` } })).model?.name);
  } catch (error) {
    console.log(ModelkeepError.from(error).reason);
  }
}
stop.abort();
await watching;
