/** Changes what people say of a model. What its files are and where they lie is not for this form. */
import { useState } from "preact/hooks";
import type { Model } from "@modelkeep/client/gen/modelkeep/model/v1/model_pb";
import { suite } from "../../api/suite";
import { Action } from "../../ui/action";
import { Dialog } from "../../ui/dialog";
import { Field } from "../../ui/field";

/** Labels that are not for this form: the suite's own. */
const OWN = "modelkeep.dev/";

/** The form's texts. Lists are one entry a line. */
const draftOf = (model: Model) => ({
  name: model.name,
  description: model.description,
  base: model.base,
  license: model.license,
  tags: model.tags.join("\n"),
  triggerPhrases: model.triggerPhrases.join("\n"),
  labels: Object.entries(model.labels)
    .filter(([key]) => !key.startsWith(OWN))
    .map(([key, value]) => `${key}=${value}`)
    .join("\n"),
});

type Draft = ReturnType<typeof draftOf>;
/** Where each text stands in the record, as a field mask names it. */
const PATHS: Readonly<Record<keyof Draft, string>> = {
  name: "name",
  description: "description",
  base: "base",
  license: "license",
  tags: "tags",
  triggerPhrases: "trigger_phrases",
  labels: "labels",
};

const lines = (text: string) => [...new Set(text.split("\n").map((line) => line.trim()).filter(Boolean))];

/** What `text` says, and the suite's own labels as they are: an update replaces all of them. */
function labelsOf(text: string, model: Model): Record<string, string> {
  const own = Object.entries(model.labels).filter(([key]) => key.startsWith(OWN));
  const written = lines(text).map((line) => {
    const [key = "", ...value] = line.split("=");
    return [key.trim(), value.join("=").trim()] as const;
  });
  return Object.fromEntries([...written, ...own]);
}

export function EditDialog({ model, onClose }: { model: Model; onClose: () => void }) {
  const [before] = useState(() => draftOf(model));
  const [etag] = useState(model.etag);
  const [draft, setDraft] = useState(before);
  const changed = (Object.keys(PATHS) as Array<keyof Draft>).filter((name) => draft[name] !== before[name]);

  const save = async () => {
    const { tags, triggerPhrases, labels, ...texts } = draft;
    await suite.records.updateModel({
      // The etag of when the form was opened: who changed the record meanwhile is not overwritten.
      model: {
        key: model.key,
        etag,
        ...texts,
        tags: lines(tags),
        triggerPhrases: lines(triggerPhrases),
        labels: labelsOf(labels, model),
      },
      updateMask: { paths: changed.map((name) => PATHS[name]) },
    });
    onClose();
  };
  const bind = (name: keyof Draft) => ({
    value: draft[name],
    onInput: (value: string) => setDraft({ ...draft, [name]: value }),
  });

  return (
    <Dialog title={`Edit ${model.name}`} onClose={onClose}>
      <form class="fields" onSubmit={(event) => event.preventDefault()}>
        <Field label="Name" {...bind("name")} />
        <Field label="Description" rows={4} {...bind("description")} />
        <Field label="Base" hint="such as sd-1, sdxl, flux" {...bind("base")} />
        <Field label="Licence" {...bind("license")} />
        <Field label="Tags" hint="one a line" rows={3} {...bind("tags")} />
        <Field label="Trigger phrases" hint="one a line" rows={3} {...bind("triggerPhrases")} />
        <Field label="Labels" hint="name=value, one a line" rows={2} {...bind("labels")} />
      </form>
      <footer>
        <button type="button" onClick={onClose}>
          Cancel
        </button>
        <Action kind="primary" run={save} done="Saved." disabled={changed.length === 0}>
          Save
        </Action>
      </footer>
    </Dialog>
  );
}
