/** The loader: its memory, what is in it, and who holds that. */
import { Tier } from "@modelkeep/client/gen/modelkeep/loader/v1/resident_pb";
import { CAPACITY, capacity, leases, residents, suite } from "../../api/suite";
import { counted } from "../../lib/format";
import { Action } from "../../ui/action";
import { FeedNotice, useFeeds } from "../../ui/feed_notice";
import { LeaseList } from "./lease_list";
import { coloursOf, partsOf } from "./memory";
import { ResidentList } from "./resident_list";
import { TierBar } from "./tier_bar";

export function LoaderPage() {
  useFeeds(capacity, residents, leases);
  const host = capacity.items.get(CAPACITY);
  const held = [...residents.items.values()].sort((a, b) => a.displayName.localeCompare(b.displayName) || b.tier - a.tier);
  const colours = coloursOf(held);
  const tiers = (host?.tiers ?? []).filter(({ tier, usedBytes }) => tier !== Tier.DISK || usedBytes > 0n);
  const refused = (host?.accelerators ?? []).filter(({ refusal }) => refusal !== "");
  const borrowed = [...leases.items.values()];

  return (
    <div class="page">
      <h2 class="title">Loader</h2>
      <FeedNotice feed={capacity} service="LoaderService" />
      {host?.draining && (
        <p class="banner warn">It is taken out of service, and gives no new leases. {host.drainReason}</p>
      )}
      {refused.map(({ name, product, refusal }) => (
        <p key={name} class="banner">
          {name} ({product}) is not used: {refusal}
        </p>
      ))}
      {tiers.map((tier) => (
        <TierBar key={`${tier.tier} ${tier.device}`} capacity={tier} parts={partsOf(tier, held, colours)} />
      ))}
      <section aria-label="Components">
        <div class="section-head">
          <h2>Components</h2>
          <span class="hint">{counted(held.length, "component")}</span>
          <Action run={() => suite.loader.evictModel({})} done="What nobody uses is dropped.">
            Drop what nobody uses
          </Action>
        </div>
        <ResidentList residents={held} colours={colours} />
      </section>
      <section aria-label="Leases">
        <div class="section-head">
          <h2>Leases</h2>
          <span class="hint">{counted(borrowed.length, "lease")}</span>
          {(host?.queuedCount ?? 0) > 0 && <span class="tag">{counted(host?.queuedCount ?? 0, "request waits", "requests wait")}</span>}
        </div>
        <LeaseList leases={borrowed} />
      </section>
    </div>
  );
}
