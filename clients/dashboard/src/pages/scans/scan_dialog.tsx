/** Begins a scan of a folder, or a sync of those that the suite has. */
import { useState } from "preact/hooks";
import { suite } from "../../api/suite";
import { Action } from "../../ui/action";
import { Dialog } from "../../ui/dialog";
import { Check, Field } from "../../ui/field";

export function ScanDialog({ onBegun, onClose }: { onBegun: () => void; onClose: () => void }) {
  const [syncs, setSyncs] = useState(false);
  const [path, setPath] = useState("");
  const [install, setInstall] = useState(false);
  const [removeOrphans, setRemoveOrphans] = useState(false);
  const [force, setForce] = useState(false);
  const [validateOnly, setValidateOnly] = useState(false);
  const begin = async () => {
    if (syncs) await suite.installs.syncModels({ validateOnly, removeOrphans, force: removeOrphans && force });
    else await suite.installs.scanDirectory({ path: path.trim(), install, validateOnly });
    onBegun();
    onClose();
  };
  return (
    <Dialog title="Scan for models" onClose={onClose}>
      <form class="fields" onSubmit={(event) => event.preventDefault()}>
        <fieldset class="choices">
          <legend>Where</legend>
          <label class="check">
            <input type="radio" name="where" checked={!syncs} onChange={() => setSyncs(false)} />A folder
          </label>
          <label class="check">
            <input type="radio" name="where" checked={syncs} onChange={() => setSyncs(true)} />
            The folder of models and those that are imported by themselves; records without files are told, too
          </label>
        </fieldset>
        {!syncs && (
          <>
            <Field label="Folder" hint="its absolute path on the services' host" value={path} onInput={setPath} />
            <Check checked={install} onChange={setInstall}>
              Copy what is new into the folder of models; else it stays where it is
            </Check>
          </>
        )}
        {syncs && (
          <>
            <Check checked={removeOrphans} onChange={setRemoveOrphans}>
              Remove records whose files are gone
            </Check>
            {removeOrphans && (
              <Check checked={force} onChange={setForce}>
                Even if a whole folder is missing, or they are more than half of all
              </Check>
            )}
          </>
        )}
        <Check checked={validateOnly} onChange={setValidateOnly}>
          Only tell what would be done
        </Check>
      </form>
      <footer>
        <button type="button" onClick={onClose}>
          Cancel
        </button>
        <Action
          kind={syncs && removeOrphans && !validateOnly ? "danger" : "primary"}
          run={begin}
          done="The scan is made."
          disabled={!syncs && path.trim() === ""}
        >
          Scan
        </Action>
      </footer>
    </Dialog>
  );
}
