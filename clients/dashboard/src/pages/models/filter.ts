/** Which models are listed, and in which order. */
import type { Model } from "@modelkeep/client/gen/modelkeep/model/v1/model_pb";
import { ModelFormatSchema, ModelTypeSchema } from "@modelkeep/client/gen/modelkeep/model/v1/taxonomy_pb";
import { milliseconds } from "../../lib/format";
import { word } from "../../lib/words";

export interface ModelQuery {
  /** Words that must all occur, in any case, also inside longer ones. */
  readonly text: string;
  /** A number of ModelType; 0 for all. */
  readonly type: number;
  /** "" for all. */
  readonly base: string;
  readonly onlyMissing: boolean;
  readonly order: keyof typeof ORDERS;
}

export const ALL_MODELS: ModelQuery = { text: "", type: 0, base: "", onlyMissing: false, order: "name" };

const byName = (a: Model, b: Model) => a.name.localeCompare(b.name) || a.key.localeCompare(b.key);
const newest = (model: Model) => (model.createTime === undefined ? 0 : milliseconds(model.createTime));

export const ORDERS = {
  name: byName,
  size: (a: Model, b: Model) => Number(b.sizeBytes - a.sizeBytes) || byName(a, b),
  newest: (a: Model, b: Model) => newest(b) - newest(a) || byName(a, b),
} as const;

/** What a reader may search in: the texts that a list brings. */
function searched(model: Model): string {
  const { name, base, key, path, tags, type, format } = model;
  const told = [name, base, key, path, word(ModelTypeSchema, type), word(ModelFormatSchema, format), ...tags];
  return told.join("\n").toLowerCase();
}

/** Lower-case texts are made once for each state of a model. */
const cache = new WeakMap<Model, string>();
function searchText(model: Model): string {
  let text = cache.get(model);
  if (text === undefined) cache.set(model, (text = searched(model)));
  return text;
}

/**
 * The models that a query names, in its order.
 *
 * @param found keys of models whose longer texts have the words, as the service found them
 */
export function select(models: Iterable<Model>, query: ModelQuery, found: ReadonlySet<string>): Model[] {
  const needles = query.text.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen: Model[] = [];
  for (const model of models) {
    if (query.type !== 0 && model.type !== query.type) continue;
    if (query.base !== "" && model.base !== query.base && !model.compatibleBases.includes(query.base)) continue;
    if (query.onlyMissing && model.missingTime === undefined) continue;
    if (needles.length > 0 && !found.has(model.key)) {
      const text = searchText(model);
      if (!needles.every((needle) => text.includes(needle))) continue;
    }
    chosen.push(model);
  }
  return chosen.sort(ORDERS[query.order]);
}
