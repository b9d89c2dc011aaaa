/** Tells where a model lies now whose files are gone from where they were. */
import { useState } from "preact/hooks";
import type { Model } from "@modelkeep/client/gen/modelkeep/model/v1/model_pb";
import { suite } from "../../api/suite";
import { Action } from "../../ui/action";
import { Dialog } from "../../ui/dialog";
import { Field } from "../../ui/field";

export function RelinkDialog({ model, onClose }: { model: Model; onClose: () => void }) {
  const [path, setPath] = useState("");
  const relink = async () => {
    await suite.installs.relinkModel({ key: model.key, path: path.trim(), etag: model.etag });
    onClose();
  };
  return (
    <Dialog title={`Where is ${model.name} now?`} onClose={onClose}>
      <p>Its files must be the same by name, size and content; nothing is moved. They were at:</p>
      <p class="path">{model.path}</p>
      <form class="fields" onSubmit={(event) => event.preventDefault()}>
        <Field label="Place" hint="absolute path of the file or folder on the services' host" value={path} onInput={setPath} />
      </form>
      <footer>
        <button type="button" onClick={onClose}>
          Cancel
        </button>
        <Action kind="primary" run={relink} done={`${model.name} has its files again.`} disabled={path.trim() === ""}>
          Relink
        </Action>
      </footer>
    </Dialog>
  );
}
