/** What is held, in which tier, by whom, and what can be done with it. */
import {
  PrecisionSchema,
  type Resident,
  ResidentState,
  ResidentStateSchema,
  Tier,
} from "@modelkeep/client/gen/modelkeep/loader/v1/resident_pb";
import { suite } from "../../api/suite";
import { bytes, counted } from "../../lib/format";
import { address } from "../../lib/route";
import { word } from "../../lib/words";
import { Action } from "../../ui/action";
import { Bar } from "../../ui/bar";
import { tierName } from "./memory";

interface Props {
  readonly residents: readonly Resident[];
  readonly colours: ReadonlyMap<string, number>;
}

export function ResidentList({ residents, colours }: Props) {
  if (residents.length === 0) return <p class="empty">Nothing is held. Whoever leases a model has it loaded.</p>;
  return (
    <ul class="held">
      {residents.map((resident) => (
        <ResidentItem key={resident.id} resident={resident} colour={colours.get(resident.id) ?? 1} />
      ))}
    </ul>
  );
}

function ResidentItem({ resident, colour }: { resident: Resident; colour: number }) {
  const { displayName, className, precision, tier, device, state, sizeBytes, leaseCount, pinned, progress, error } = resident;
  const [component] = resident.components;
  const where = tierName(tier, tier === Tier.VRAM ? device : "");
  const told = [where, className, word(PrecisionSchema, precision), bytes(sizeBytes)];
  if (leaseCount > 0) told.push(counted(leaseCount, "lease"));
  const loading = state !== ResidentState.RESIDENT && state !== ResidentState.FAILED;
  return (
    <li>
      <span class={`swatch look-${colour}`} />
      <div class="what">
        <span class="name">
          {component === undefined ? displayName : <a href={address("models", component.key)}>{displayName}</a>}
        </span>
        {pinned && <span class="tag good">pinned</span>}
        {state !== ResidentState.RESIDENT && <span class="tag">{word(ResidentStateSchema, state)}</span>}
        <span class="hint">{told.filter(Boolean).join(" · ")}</span>
        {error !== undefined && <span class="reason">{error.message}</span>}
        {loading && progress !== undefined && (
          <Bar
            label={`Loading of ${displayName}`}
            done={Number(progress.bytesDone)}
            total={progress.bytesTotal === undefined ? undefined : Number(progress.bytesTotal)}
            tone="going"
          />
        )}
      </div>
      {component !== undefined && <ResidentButtons resident={resident} component={component} where={where} />}
    </li>
  );
}

interface ButtonsProps {
  readonly resident: Resident;
  readonly component: Resident["components"][number];
  readonly where: string;
}

function ResidentButtons({ resident, component, where }: ButtonsProps) {
  const { key, submodel } = component;
  const { displayName, precision, weights, memoryFormat, device, tier, pinned } = resident;
  const named = `${displayName} in ${where}`;
  const pin = () => suite.loader.pinModel({ components: [{ key, submodel, precision, weights, memoryFormat, device }] });
  const unpin = () => suite.loader.unpinModel({ components: [{ key, submodel }] });
  const evict = () =>
    suite.loader.evictModel({ key, submodel, tier, device: tier === Tier.VRAM ? device : "" });
  return (
    <div class="actions">
      {tier !== Tier.DISK &&
        (pinned ? (
          <Action run={unpin} label={`Unpin ${named}`}>
            Unpin
          </Action>
        ) : (
          <Action run={pin} label={`Pin ${named}`}>
            Pin
          </Action>
        ))}
      <Action run={evict} label={`Evict ${named}`} disabled={resident.leaseCount > 0}>
        Evict
      </Action>
    </div>
  );
}
