// Creates a model over mTLS, and prints its name or the reason: node dist/test/tls.js ADDRESS CA CERTIFICATE KEY

import { readFileSync } from "node:fs";

import { ModelkeepError } from "@modelkeep/client";
import { ModelFormat, ModelType } from "@modelkeep/client/gen/modelkeep/model/v1/taxonomy_pb";
import { connect } from "@modelkeep/client/node";

const [record = "", ...files] = process.argv.slice(2);
const [ca = "", cert = "", key = ""] = files.map((file) => readFileSync(file, "utf8"));
const { records } = connect({ addresses: { record }, tls: { ca, cert, key } });
const model = { name: "over TLS", type: ModelType.VAE, format: ModelFormat.DIFFUSERS, base: "sd-1", path: "/models/vae" };
try {
  console.log((await records.createModel({ model })).model?.name);
} catch (error) {
  console.log(ModelkeepError.from(error).reason);
}
