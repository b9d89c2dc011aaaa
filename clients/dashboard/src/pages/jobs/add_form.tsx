/** Adds a model by whatever a person has in the clipboard; what would happen is shown before anything does. */
import { useRef, useState } from "preact/hooks";
import { canAct } from "../../api/token";
import { useShortcut } from "../../lib/shortcuts";
import { PlanDialog } from "./plan_dialog";

export function AddForm() {
  const [source, setSource] = useState("");
  const [planned, setPlanned] = useState<string | undefined>();
  const box = useRef<HTMLInputElement>(null);
  useShortcut("a", "Add a model", () => box.current?.focus());
  return (
    <>
      <form
        class="add"
        onSubmit={(event) => {
          event.preventDefault();
          if (source.trim() !== "" && canAct()) setPlanned(source.trim());
        }}
      >
        <label for="source">Add a model</label>
        <input
          ref={box}
          id="source"
          spellcheck={false}
          autocomplete="off"
          placeholder="a path, an address, owner/name at Hugging Face, a page of Civitai"
          value={source}
          onInput={(event) => setSource(event.currentTarget.value)}
        />
        <button type="submit" class="primary" disabled={!canAct() || source.trim() === ""}>
          Plan …
        </button>
      </form>
      {planned !== undefined && (
        <PlanDialog
          source={planned}
          onInstalled={() => setSource("")}
          onClose={() => {
            setPlanned(undefined);
            box.current?.focus();
          }}
        />
      )}
    </>
  );
}
