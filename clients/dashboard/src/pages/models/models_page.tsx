/** All models: a list to search as one types, and the card of the one that is chosen. */
import { useMemo, useRef, useState } from "preact/hooks";
import type { Model } from "@modelkeep/client/gen/modelkeep/model/v1/model_pb";
import { ModelFormatSchema, ModelTypeSchema } from "@modelkeep/client/gen/modelkeep/model/v1/taxonomy_pb";
import { models } from "../../api/suite";
import { bytes, count, counted } from "../../lib/format";
import { address, route } from "../../lib/route";
import { useShortcut } from "../../lib/shortcuts";
import { word } from "../../lib/words";
import { FeedNotice, useFeeds } from "../../ui/feed_notice";
import { VirtualList } from "../../ui/virtual_list";
import { SmallCover } from "./cover";
import { useDeepSearch } from "./deep_search";
import { ALL_MODELS, type ModelQuery, select } from "./filter";
import { ModelCard } from "./model_card";
import { ModelFilters } from "./model_filters";

const ROW_HEIGHT = 56;

export function ModelsPage() {
  useFeeds(models);
  const [query, setQuery] = useState<ModelQuery>(ALL_MODELS);
  const found = useDeepSearch(query.text);
  const search = useRef<HTMLInputElement>(null);
  useShortcut("/", "Search models", () => search.current?.focus());

  const all = models.items;
  const version = models.version;
  const shown = useMemo(() => select(all.values(), query, found), [version, query, found]);
  // Where no model has a picture, rows leave no place for one.
  const pictured = useMemo(() => [...all.values()].some(({ coverImage }) => coverImage !== undefined), [version]);
  const chosen = all.get(route.value.item);

  return (
    <section class={`split${route.value.item === "" ? "" : " chosen"}`}>
      <div class="list">
        <h2 class="title">Models</h2>
        <ModelFilters query={query} models={all} onChange={setQuery} searchBox={search} />
        <FeedNotice feed={models} service="RecordService" />
        <p class="hint" role="status">
          {shown.length === all.size ? counted(all.size, "model") : `${count(shown.length)} of ${counted(all.size, "model")}`}
        </p>
        {models.loaded.value && all.size === 0 ? (
          <p class="empty">
            No models yet. <a href={address("jobs")}>Install one</a> from a path, an address or a hub.
          </p>
        ) : (
          <VirtualList
            items={shown}
            rowHeight={ROW_HEIGHT}
            label="Models"
            keyOf={(model) => model.key}
            row={(model) => <ModelRow model={model} pictured={pictured} />}
          />
        )}
      </div>
      {chosen !== undefined && <ModelCard key={chosen.key} listed={chosen} />}
      {chosen === undefined && route.value.item !== "" && models.loaded.value && (
        <article class="card">
          <p>There is no model of this key any more.</p>
          <a href={address("models")}>Back to the list</a>
        </article>
      )}
    </section>
  );
}

function ModelRow({ model, pictured }: { model: Model; pictured: boolean }) {
  const current = route.value.item === model.key;
  const kind = [word(ModelTypeSchema, model.type), model.base, word(ModelFormatSchema, model.format)];
  return (
    <a class={`row${pictured ? " pictured" : ""}`} href={address("models", model.key)} aria-current={current ? "true" : undefined}>
      {pictured && <SmallCover model={model} />}
      <span class="name">{model.name}</span>
      <span class="size">{bytes(model.sizeBytes)}</span>
      <span class="kind">{kind.filter(Boolean).join(" · ")}</span>
      {model.missingTime !== undefined && <span class="tag bad">files missing</span>}
    </a>
  );
}
