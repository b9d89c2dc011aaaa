// Have a component loaded and keep it in memory until standard input ends: node dist/examples/lease.js KEY [SUBMODEL]
// SUBMODEL is like VAE; a model that is one component needs none.

import { hold } from "@modelkeep/client";
import { Delivery } from "@modelkeep/client/gen/modelkeep/loader/v1/hold_pb";
import { SubModelType } from "@modelkeep/client/gen/modelkeep/model/v1/taxonomy_pb";
import { connect } from "@modelkeep/client/node";

const modelkeep = connect();
const [key = "", submodel = "UNSPECIFIED"] = process.argv.slice(2);
const component = { key, submodel: SubModelType[submodel as keyof typeof SubModelType] };

await using lease = await hold(
  modelkeep,
  // This program does not use the weights, it only keeps them there.
  { components: [component], delivery: Delivery.NONE, label: "lease.js" },
  { onProgress: ({ progress }) => console.log(`loading: ${progress?.bytesDone} bytes`) },
);
console.log(`held: ${lease.id}`);
lease.lost.addEventListener("abort", () => console.log(`lost: ${lease.lost.reason}`));

for await (const _ of process.stdin);
