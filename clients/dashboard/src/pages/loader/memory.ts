/** What takes a tier's room, as parts of a bar. */
import type { Resident, Tier, TierCapacity } from "@modelkeep/client/gen/modelkeep/loader/v1/resident_pb";
import { Tier as TierNumber, TierSchema } from "@modelkeep/client/gen/modelkeep/loader/v1/resident_pb";
import { word } from "../../lib/words";

export interface Part {
  readonly key: string;
  readonly label: string;
  readonly bytes: number;
  /** A colour of the components' own, from 1; or what it is besides components. */
  readonly look: number | "reserved" | "zombie" | "other";
}

/** So many colours there are in styles/base.css. */
const COLOURS = 6;

/** "RAM", "VRAM of cuda:0". */
export function tierName(tier: Tier, device: string): string {
  const name = tier === TierNumber.DISK ? "Disk" : word(TierSchema, tier).toUpperCase();
  return device === "" ? name : `${name} of ${device}`;
}

export function liesIn(resident: Resident, { tier, device }: TierCapacity): boolean {
  return resident.tier === tier && (device === "" || resident.device === device);
}

/**
 * The parts of a tier, the largest component first, then what no component takes.
 *
 * @param colours colour of each resident by its id, so that it has the same in the list
 */
export function partsOf(capacity: TierCapacity, residents: readonly Resident[], colours: ReadonlyMap<string, number>): Part[] {
  const here = residents.filter((resident) => liesIn(resident, capacity)).sort((a, b) => Number(b.sizeBytes - a.sizeBytes));
  const parts: Part[] = here.map(({ id, displayName, sizeBytes }) => ({
    key: id,
    label: displayName,
    bytes: Number(sizeBytes),
    look: colours.get(id) ?? 1,
  }));
  const known = parts.reduce((sum, part) => sum + part.bytes, 0);
  const rest: Part[] = [
    { key: "other", label: "being loaded", bytes: Number(capacity.usedBytes) - known, look: "other" },
    { key: "reserved", label: "reserved", bytes: Number(capacity.reservedBytes), look: "reserved" },
    { key: "zombie", label: "evicted and still mapped", bytes: Number(capacity.zombieBytes), look: "zombie" },
  ];
  return [...parts, ...rest.filter((part) => part.bytes > 0)];
}

/** A colour for each resident, the same for what is held of one component in several tiers. */
export function coloursOf(residents: readonly Resident[]): Map<string, number> {
  const names = [...new Set(residents.map(({ displayName }) => displayName))].sort();
  return new Map(residents.map(({ id, displayName }) => [id, (names.indexOf(displayName) % COLOURS) + 1]));
}
