/** All that is known of one model, and what can be done with it. */
import { useState } from "preact/hooks";
import type { Model } from "@modelkeep/client/gen/modelkeep/model/v1/model_pb";
import {
  ModelFormatSchema,
  ModelSourceTypeSchema,
  ModelTypeSchema,
} from "@modelkeep/client/gen/modelkeep/model/v1/taxonomy_pb";
import { suite } from "../../api/suite";
import { useAnswer } from "../../lib/answer";
import { bytes, moment } from "../../lib/format";
import { address, go } from "../../lib/route";
import { useShortcut } from "../../lib/shortcuts";
import { word } from "../../lib/words";
import { canAct } from "../../api/token";
import { Action } from "../../ui/action";
import { Facts } from "../../ui/facts";
import { Cover, CoverButtons } from "./cover";
import { EditDialog } from "./edit_dialog";
import { EvidencePanel } from "./evidence_panel";
import { FilesPanel } from "./files_panel";
import { RelinkDialog } from "./relink_dialog";
import { RemoveDialog } from "./remove_dialog";

/** @param props.listed the model as the list has it; what a list leaves out is asked for, again whenever it changes */
export function ModelCard({ listed }: { listed: Model }) {
  const [open, setOpen] = useState<"edit" | "relink" | "remove" | undefined>();
  const { answer, error } = useAnswer(
    (signal) => suite.records.getModel({ key: listed.key }, { signal }),
    `${listed.key} ${listed.revision}`,
  );
  const model = answer?.model ?? listed;
  useShortcut("Escape", "Back to the list", () => go("models"));
  useShortcut("e", "Edit the model", () => canAct() && setOpen("edit"));
  useShortcut("Delete", "Remove the model", () => canAct() && setOpen("remove"));
  const close = () => setOpen(undefined);

  return (
    <article class="card" aria-label={model.name}>
      <header>
        <a class="back" href={address("models")}>
          ← All models
        </a>
        <h2>{model.name}</h2>
        <div class="actions">
          <button type="button" disabled={!canAct()} onClick={() => setOpen("edit")}>
            Edit
          </button>
          <Action run={() => suite.installs.checkModels({ keys: [model.key] })} done="Looked at its files.">
            Check files
          </Action>
          <CoverButtons model={listed} />
          <button type="button" class="danger" disabled={!canAct()} onClick={() => setOpen("remove")}>
            Remove …
          </button>
        </div>
      </header>
      {model.missingTime !== undefined && (
        <div class="banner warn">
          <p>Its files are not where they were since {moment(model.missingTime)}. It cannot be used until they are back.</p>
          <button type="button" disabled={!canAct()} onClick={() => setOpen("relink")}>
            They are elsewhere …
          </button>
        </div>
      )}
      {error !== undefined && <p class="banner warn">{error}</p>}
      <Cover model={listed} />
      {model.description !== "" && <p class="description">{model.description}</p>}
      <Facts facts={factsOf(model)} />
      <Words title="Tags" words={model.tags} />
      <Words title="Trigger phrases" words={model.triggerPhrases} />
      <FilesPanel model={listed} />
      <EvidencePanel model={model} />
      {open === "edit" && <EditDialog model={model} onClose={close} />}
      {open === "relink" && <RelinkDialog model={model} onClose={close} />}
      {open === "remove" && <RemoveDialog model={model} onClose={close} />}
    </article>
  );
}

function factsOf(model: Model) {
  const source = [model.source, model.sourceType === 0 ? "" : `(${word(ModelSourceTypeSchema, model.sourceType)})`];
  return {
    Type: word(ModelTypeSchema, model.type),
    Base: [model.base, ...model.compatibleBases].join(", "),
    Format: word(ModelFormatSchema, model.format),
    Size: bytes(model.sizeBytes),
    Path: model.path,
    Source: source.filter(Boolean).join(" "),
    Page: /^https?:\/\//.test(model.sourceUrl) ? (
      <a href={model.sourceUrl} target="_blank" rel="noreferrer noopener">
        {model.sourceUrl}
      </a>
    ) : (
      ""
    ),
    Licence: model.license,
    Hash: model.currentHash,
    Key: model.key,
    Added: moment(model.createTime),
    Changed: moment(model.updateTime),
    Labels: Object.entries(model.labels)
      .map(([key, value]) => `${key}=${value}`)
      .join(", "),
  };
}

function Words({ title, words }: { title: string; words: readonly string[] }) {
  if (words.length === 0) return null;
  return (
    <section>
      <h3>{title}</h3>
      <p class="tags">
        {words.map((text) => (
          <span key={text} class="tag">
            {text}
          </span>
        ))}
      </p>
    </section>
  );
}
