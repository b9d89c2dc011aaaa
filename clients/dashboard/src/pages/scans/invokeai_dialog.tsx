/** Registers the models of an InvokeAI; what would come of it is looked up and shown first. */
import { useEffect, useState } from "preact/hooks";
import {
  type InvokeAICounts,
  type InvokeAIModel,
  InvokeAIOutcome,
  InvokeAIOutcomeSchema,
  type InvokeAIRoot,
} from "@modelkeep/client/gen/modelkeep/install/v1/invokeai_pb";
import { suite } from "../../api/suite";
import { count, counted } from "../../lib/format";
import { word } from "../../lib/words";
import { Action } from "../../ui/action";
import { Bar } from "../../ui/bar";
import { Dialog } from "../../ui/dialog";
import { Check, Field } from "../../ui/field";
import { tellDone } from "../../ui/notices";
import { Reason } from "../jobs/reason";

/** So many models that something is to be said of are listed. */
const TOLD = 100;

interface Told {
  readonly root?: InvokeAIRoot;
  readonly done: number;
  /** Those that failed or were kept back, the first of them. */
  readonly models: readonly InvokeAIModel[];
  readonly counts?: InvokeAICounts;
}

export function InvokeAIDialog({ onClose }: { onClose: () => void }) {
  const [root, setRoot] = useState("");
  const [skipMissing, setSkipMissing] = useState(false);
  const [overwrite, setOverwrite] = useState(false);
  const [told, setTold] = useState<Told | undefined>();
  const [looked, setLooked] = useState("");
  const [imported, setImported] = useState(false);
  const [closed] = useState(() => new AbortController());
  // What is imported when the dialog closes stays, and the same again goes on.
  useEffect(() => () => closed.abort(), []);

  const asked = JSON.stringify([root.trim(), skipMissing, overwrite]);
  const go = async (validateOnly: boolean) => {
    let now: Told = { done: 0, models: [] };
    setTold(now);
    setImported(!validateOnly);
    const request = { root: root.trim(), skipMissing, overwrite, validateOnly };
    try {
      for await (const { event } of suite.installs.importInvokeAI(request, { signal: closed.signal })) {
        now = after(now, event);
        setTold(now);
      }
    } catch (error) {
      if (closed.signal.aborted) return;
      throw error;
    }
    setLooked(asked);
    if (!validateOnly) tellDone("The models are imported.");
  };
  return (
    <Dialog title="Import an InvokeAI" onClose={onClose}>
      <form class="fields" onSubmit={(event) => event.preventDefault()}>
        <Field label="Its root folder" hint="the one with invokeai.yaml, on the services' host" value={root} onInput={setRoot} />
        <Check checked={skipMissing} onChange={setSkipMissing}>
          Leave out models whose files are gone
        </Check>
        <Check checked={overwrite} onChange={setOverwrite}>
          Give records that were changed here InvokeAI's values again
        </Check>
      </form>
      <div class="outcome" role="status">
        {told !== undefined && <Outcome told={told} imported={imported} />}
      </div>
      <footer>
        <button type="button" onClick={onClose}>
          Close
        </button>
        <Action run={() => go(true)} disabled={root.trim() === ""}>
          Look
        </Action>
        <Action kind="primary" run={() => go(false)} disabled={looked !== asked || imported}>
          Import
        </Action>
      </footer>
    </Dialog>
  );
}

type Event = { case: "started"; value: InvokeAIRoot } | { case: "models"; value: { models: InvokeAIModel[] } } | { case: "ended"; value: InvokeAICounts } | { case: undefined };

function after(told: Told, event: Event): Told {
  switch (event.case) {
    case "started":
      return { ...told, root: event.value };
    case "models": {
      const { models } = event.value;
      const odd = models.filter(({ outcome, error }) => error !== undefined || outcome === InvokeAIOutcome.INVOKE_AI_OUTCOME_KEPT);
      return { ...told, done: told.done + models.length, models: [...told.models, ...odd].slice(0, TOLD) };
    }
    case "ended":
      return { ...told, counts: event.value };
    default:
      return told;
  }
}

function Outcome({ told: { root, done, models, counts }, imported }: { told: Told; imported: boolean }) {
  return (
    <>
      {root !== undefined && <p>{counted(root.modelCount, "record")} in {root.path}.</p>}
      {root?.isNewer && <p class="banner">It is newer than what is known here; what is there is read all the same.</p>}
      {counts === undefined ? (
        <Bar label="Progress" done={done} total={root === undefined ? undefined : Number(root.modelCount)} tone="going" />
      ) : (
        <p>
          <b>{imported ? "Imported" : "Would be imported"}</b>: {inWords(counts)}
        </p>
      )}
      {models.length > 0 && (
        <ul class="findings">
          {models.map(({ invokeaiKey, name, path, outcome, error, changedFields }) => (
            <li key={invokeaiKey}>
              <span class={`tag ${outcome === InvokeAIOutcome.INVOKE_AI_OUTCOME_FAILED ? "bad" : ""}`}>{outcomeWord(outcome)}</span>{" "}
              {name || path}
              {changedFields.length > 0 && <span class="hint"> differs in {changedFields.join(", ")}</span>}
              {error !== undefined && <Reason error={error} />}
            </li>
          ))}
        </ul>
      )}
    </>
  );
}

/** The stubs for TypeScript leave these names their prefix. */
function outcomeWord(outcome: InvokeAIOutcome): string {
  return word(InvokeAIOutcomeSchema, outcome).replace(/^invoke ai outcome /, "");
}

function inWords(counts: InvokeAICounts): string {
  const { newCount, updatedCount, unchangedCount, keptCount, skippedCount, failedCount, missingCount } = counts;
  const told: Array<[bigint, string]> = [
    [newCount, "new"],
    [updatedCount, "updated"],
    [unchangedCount, "unchanged"],
    [keptCount, "kept as changed here"],
    [skippedCount, "left out"],
    [failedCount, "failed"],
    [missingCount, "without files"],
  ];
  const said = told.filter(([number]) => number > 0n).map(([number, text]) => `${count(number)} ${text}`);
  return said.join(", ") || "nothing";
}
