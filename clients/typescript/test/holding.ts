// Holds a component and watches what is resident, until standard input ends: node dist/test/holding.js KEY
// Each line says what happened: held, asked back, lost, restarted, and how many residents there are.

import { Collection, hold, ModelkeepError, watch } from "@modelkeep/client";
import { Delivery } from "@modelkeep/client/gen/modelkeep/loader/v1/hold_pb";
import type { Resident } from "@modelkeep/client/gen/modelkeep/loader/v1/resident_pb";
import { connect } from "@modelkeep/client/node";

const modelkeep = connect();
const [key = ""] = process.argv.slice(2);

async function follow(signal: AbortSignal): Promise<void> {
  const residents = new Collection<Resident>();
  let before = -1;
  for await (const frame of watch(modelkeep.loader.watchResidents, {}, { signal })) {
    residents.apply(frame);
    if (frame.restarted) console.log("restarted");
    if (residents.complete && residents.items.size !== before) console.log(`residents: ${residents.items.size}`);
    before = residents.items.size;
  }
}

await using lease = await hold(
  modelkeep,
  { components: [{ key }], delivery: Delivery.NONE },
  { onRevokeRequested: ({ why }) => console.log(`asked back: ${why}`) },
);
console.log(`held: ${lease.id}`);
lease.lost.addEventListener("abort", () => console.log(`lost: ${ModelkeepError.from(lease.lost.reason).reason}`));

const stop = new AbortController();
const following = follow(stop.signal);
for await (const _ of process.stdin);
stop.abort();
await following;
