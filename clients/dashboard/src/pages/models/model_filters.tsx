/** What narrows the list of models. */
import type { RefObject } from "preact";
import { useMemo } from "preact/hooks";
import type { Model } from "@modelkeep/client/gen/modelkeep/model/v1/model_pb";
import { ModelTypeSchema } from "@modelkeep/client/gen/modelkeep/model/v1/taxonomy_pb";
import { models as feed } from "../../api/suite";
import { word } from "../../lib/words";
import { Check } from "../../ui/field";
import type { ModelQuery } from "./filter";

interface Props {
  readonly query: ModelQuery;
  readonly models: ReadonlyMap<string, Model>;
  readonly onChange: (query: ModelQuery) => void;
  readonly searchBox: RefObject<HTMLInputElement | null>;
}

export function ModelFilters({ query, models, onChange, searchBox }: Props) {
  const version = feed.version;
  const types = useMemo(() => kinds(models, (model) => model.type), [version]);
  const bases = useMemo(() => kinds(models, (model) => model.base), [version]);
  const set = (change: Partial<ModelQuery>) => onChange({ ...query, ...change });
  return (
    <search class="filters">
      <input
        ref={searchBox}
        type="search"
        aria-label="Search models"
        placeholder="Search names, tags, paths, descriptions"
        value={query.text}
        onInput={(event) => set({ text: event.currentTarget.value })}
      />
      <select aria-label="Type" value={query.type} onChange={(event) => set({ type: Number(event.currentTarget.value) })}>
        <option value={0}>all types</option>
        {types.map((type) => (
          <option key={type} value={type}>
            {word(ModelTypeSchema, type)}
          </option>
        ))}
      </select>
      <select aria-label="Base" value={query.base} onChange={(event) => set({ base: event.currentTarget.value })}>
        <option value="">all bases</option>
        {bases.map((base) => (
          <option key={base} value={base}>
            {base}
          </option>
        ))}
      </select>
      <select
        aria-label="Order"
        value={query.order}
        onChange={(event) => set({ order: event.currentTarget.value as ModelQuery["order"] })}
      >
        <option value="name">by name</option>
        <option value="size">largest first</option>
        <option value="newest">newest first</option>
      </select>
      <Check checked={query.onlyMissing} onChange={(onlyMissing) => set({ onlyMissing })}>
        files missing
      </Check>
    </search>
  );
}

/** The values that models have, each once, in order. */
function kinds<Value extends string | number>(models: ReadonlyMap<string, Model>, of: (model: Model) => Value): Value[] {
  return [...new Set([...models.values()].map(of))].sort((a, b) => (a < b ? -1 : 1));
}
