/** Who holds what, and since when; asking for it back. */
import { useState } from "preact/hooks";
import { type Lease, LeaseState, LeaseStateSchema } from "@modelkeep/client/gen/modelkeep/loader/v1/resident_pb";
import { suite } from "../../api/suite";
import { canAct } from "../../api/token";
import { now } from "../../lib/clock";
import { bytes, duration, secondsSince } from "../../lib/format";
import { word } from "../../lib/words";
import { Action } from "../../ui/action";
import { Dialog } from "../../ui/dialog";
import { Field } from "../../ui/field";

export function LeaseList({ leases }: { leases: readonly Lease[] }) {
  const [asked, setAsked] = useState<Lease | undefined>();
  if (leases.length === 0) return <p class="empty">Nobody holds anything.</p>;
  return (
    <>
      <ul class="held">
        {leases.map((lease) => (
          <LeaseItem key={lease.id} lease={lease} onRevoke={() => setAsked(lease)} />
        ))}
      </ul>
      {asked !== undefined && <RevokeDialog lease={asked} onClose={() => setAsked(undefined)} />}
    </>
  );
}

/** Who holds a lease, by what he calls himself and his process. */
export function holderOf({ holder }: Lease): string {
  if (holder === undefined) return "somebody";
  const process = holder.pid === 0 ? "" : `process ${holder.pid}`;
  return [holder.label || holder.principal, process].filter(Boolean).join(", ") || "somebody";
}

function LeaseItem({ lease, onRevoke }: { lease: Lease; onRevoke: () => void }) {
  const { displayNames, state, createTime, sizeBytes, vramBytes, demoted, revokeDeadlineTime } = lease;
  const told = [displayNames.join(", "), `${bytes(sizeBytes)} RAM`];
  if (vramBytes > 0n) told.push(`${bytes(vramBytes)} VRAM`);
  if (createTime !== undefined) told.push(`for ${duration(secondsSince(createTime, now.value))}`);
  return (
    <li>
      <div class="what">
        <span class="name">{holderOf(lease)}</span>
        {state !== LeaseState.ACTIVE && <span class="tag">{word(LeaseStateSchema, state)}</span>}
        {demoted && <span class="tag">demoted</span>}
        <span class="hint">{told.join(" · ")}</span>
        {revokeDeadlineTime !== undefined && (
          <span class="hint">Asked back: ends in {duration(-secondsSince(revokeDeadlineTime, now.value))}.</span>
        )}
      </div>
      <div class="actions">
        <button type="button" class="danger" disabled={!canAct()} aria-label={`Revoke the lease of ${holderOf(lease)}`} onClick={onRevoke}>
          Revoke …
        </button>
      </div>
    </li>
  );
}

const GRACES = [
  { seconds: 30, text: "in 30 seconds" },
  { seconds: 300, text: "in 5 minutes" },
  { seconds: 0, text: "at once" },
] as const;

function RevokeDialog({ lease, onClose }: { lease: Lease; onClose: () => void }) {
  const [grace, setGrace] = useState<number>(GRACES[0].seconds);
  const [why, setWhy] = useState("");
  const revoke = async () => {
    await suite.loader.revokeLease({ leaseId: lease.id, why, grace: { seconds: BigInt(grace), nanos: 0 } });
    onClose();
  };
  return (
    <Dialog title={`Revoke the lease of ${holderOf(lease)}?`} onClose={onClose}>
      <p>
        Its holder is told, and the lease ends. What it has mapped stays valid there; the memory comes back when it lets go.
      </p>
      <form class="fields" onSubmit={(event) => event.preventDefault()}>
        <fieldset class="choices">
          <legend>When it ends</legend>
          {GRACES.map(({ seconds, text }) => (
            <label key={seconds} class="check">
              <input type="radio" name="grace" checked={grace === seconds} onChange={() => setGrace(seconds)} />
              {text}
            </label>
          ))}
        </fieldset>
        <Field label="Why" hint="for its holder to read" value={why} onInput={setWhy} />
      </form>
      <footer>
        <button type="button" onClick={onClose}>
          Cancel
        </button>
        <Action kind="danger" run={revoke} done="The lease is asked back.">
          Revoke
        </Action>
      </footer>
    </Dialog>
  );
}
