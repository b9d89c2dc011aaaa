/** Removes a model. What would go is asked of the service first, and shown before anything does. */
import { useState } from "preact/hooks";
import {
  UninstallFiles,
  type UninstallModelResponse,
} from "@modelkeep/client/gen/modelkeep/install/v1/install_service_pb";
import type { Model } from "@modelkeep/client/gen/modelkeep/model/v1/model_pb";
import { suite } from "../../api/suite";
import { useAnswer } from "../../lib/answer";
import { bytes, counted } from "../../lib/format";
import { go } from "../../lib/route";
import { Action } from "../../ui/action";
import { Dialog } from "../../ui/dialog";

const CHOICES = [
  { files: UninstallFiles.OWNED, text: "Delete its files if they lie in the folder of models" },
  { files: UninstallFiles.KEEP, text: "Forget the model, and keep every file" },
  { files: UninstallFiles.ANY_ALLOWED_ROOT, text: "Delete its files, wherever they were installed from" },
] as const;

export function RemoveDialog({ model, onClose }: { model: Model; onClose: () => void }) {
  const [files, setFiles] = useState<UninstallFiles>(UninstallFiles.OWNED);
  const request = { key: model.key, files };
  const { answer, error, current } = useAnswer(
    (signal) => suite.installs.uninstallModel({ ...request, validateOnly: true, force: true }, { signal }),
    `${files} ${model.revision}`,
  );
  const inUse = answer !== undefined && answer.leaseIds.length > 0;
  const remove = async () => {
    await suite.installs.uninstallModel({ ...request, etag: model.etag, force: inUse });
    onClose();
    go("models");
  };

  return (
    <Dialog title={`Remove ${model.name}?`} onClose={onClose}>
      <fieldset class="choices">
        <legend>What happens to its files</legend>
        {CHOICES.map((choice) => (
          <label key={choice.files} class="check">
            <input
              type="radio"
              name="files"
              checked={files === choice.files}
              onChange={() => setFiles(choice.files)}
            />
            {choice.text}
          </label>
        ))}
      </fieldset>
      <div class="outcome" role="status">
        {!current && <p>Asking what would go …</p>}
        {current && error !== undefined && <p class="banner warn">{error}</p>}
        {current && error === undefined && answer !== undefined && <Outcome answer={answer} />}
      </div>
      <footer>
        <button type="button" onClick={onClose}>
          Cancel
        </button>
        <Action kind="danger" run={remove} done={`Removed ${model.name}.`} disabled={!current || error !== undefined}>
          {inUse ? "Remove although it is in use" : "Remove"}
        </Action>
      </footer>
    </Dialog>
  );
}

function Outcome({ answer }: { answer: UninstallModelResponse }) {
  const { deletedBytes, deletedCount, deletedPaths, leaseIds, leasesKnown, sharedFiles } = answer;
  return (
    <>
      <p>
        <b>
          {deletedCount === 0n
            ? "No file would be deleted."
            : `${counted(deletedCount, "file")} would be deleted, ${bytes(deletedBytes)}.`}
        </b>
      </p>
      {deletedPaths.length > 0 && (
        <ul class="paths">
          {deletedPaths.slice(0, 20).map((path) => (
            <li key={path}>{path}</li>
          ))}
          {deletedCount > 20n && <li>and {counted(deletedCount - 20n, "other")}</li>}
        </ul>
      )}
      {sharedFiles.length > 0 && (
        <p>{counted(sharedFiles.length, "file stays", "files stay")}, since other models list them.</p>
      )}
      {leaseIds.length > 0 && (
        <p class="banner warn">
          {counted(leaseIds.length, "lease holds", "leases hold")} it. Who works with it goes on; nobody gets it anew.
        </p>
      )}
      {!leasesKnown && <p class="hint">Whether somebody works with it is not known: LoaderService did not answer.</p>}
    </>
  );
}
