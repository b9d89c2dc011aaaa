/** The room of a tier, and what takes it. */
import type { TierCapacity } from "@modelkeep/client/gen/modelkeep/loader/v1/resident_pb";
import { bytes, count, counted } from "../../lib/format";
import { type Part, tierName } from "./memory";

interface Props {
  readonly capacity: TierCapacity;
  readonly parts: readonly Part[];
}

export function TierBar({ capacity, parts }: Props) {
  const { tier, device, budgetBytes, leasedBytes, pinnedBytes, hitCount, missCount, evictionCount } = capacity;
  const name = tierName(tier, device);
  const taken = parts.reduce((sum, part) => sum + part.bytes, 0);
  const whole = Math.max(Number(budgetBytes), taken, 1);
  const told = parts.map((part) => `${part.label} ${bytes(part.bytes)}`).join(", ");
  return (
    <section class="tier" aria-label={name}>
      <div class="section-head">
        <h3>{name}</h3>
        <span>
          {bytes(taken)} of {bytes(budgetBytes)}
        </span>
        <span class="hint">
          {bytes(leasedBytes)} leased · {bytes(pinnedBytes)} pinned · {counted(hitCount, "hit")} ·{" "}
          {counted(missCount, "miss", "misses")} · {count(evictionCount)} evicted
        </span>
      </div>
      <div class="stack" role="img" aria-label={`${name}: ${told === "" ? "nothing in it" : told}`}>
        {parts.map((part) => (
          <span
            key={part.key}
            class={`part look-${part.look}`}
            title={`${part.label}: ${bytes(part.bytes)}`}
            style={{ width: `${(part.bytes / whole) * 100}%` }}
          />
        ))}
      </div>
    </section>
  );
}
