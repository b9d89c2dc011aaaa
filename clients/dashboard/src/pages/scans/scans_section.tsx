/** Scans of folders, syncs of the suite's own, and what they found. */
import { useState } from "preact/hooks";
import { type Scan, ScanKind, ScanState, ScanStateSchema } from "@modelkeep/client/gen/modelkeep/install/v1/scan_pb";
import { suite } from "../../api/suite";
import { canAct } from "../../api/token";
import { usePolled } from "../../lib/answer";
import { count, counted, moment } from "../../lib/format";
import { useShortcut } from "../../lib/shortcuts";
import { word } from "../../lib/words";
import { Action } from "../../ui/action";
import { Bar } from "../../ui/bar";
import { Reason } from "../jobs/reason";
import { FindingsDialog } from "./findings_dialog";
import { InvokeAIDialog } from "./invokeai_dialog";
import { ScanDialog } from "./scan_dialog";

/** Nothing tells of scans by itself: one that runs is asked about often, and whether there is another now and then. */
const RUNNING_MS = 1_000;
const RESTING_MS = 5_000;
/** So many are shown at first: a service makes one at each start. */
const FEW = 3;

export function ScansSection() {
  const [open, setOpen] = useState<"scan" | "invokeai" | undefined>();
  const [changes, setChanges] = useState(0);
  const [shown, setShown] = useState<string | undefined>();
  const [all, setAll] = useState(false);
  const [pause, setPause] = useState(RESTING_MS);
  const ask = async (signal: AbortSignal) => {
    const { scans } = await suite.installs.listScans({ pageSize: 50 }, { signal });
    setPause(scans.every(({ ended }) => ended) ? RESTING_MS : RUNNING_MS);
    return scans;
  };
  const { answer: scans = [], error } = usePolled(ask, pause, `${changes}`);
  const again = () => setChanges((last) => last + 1);
  useShortcut("s", "Scan for models", () => canAct() && setOpen("scan"));
  const looked = scans.find(({ id }) => id === shown);
  return (
    <section aria-label="Scans">
      <div class="section-head">
        <h2>Scans</h2>
        <button type="button" disabled={!canAct()} onClick={() => setOpen("scan")}>
          Scan for models …
        </button>
        <button type="button" disabled={!canAct()} onClick={() => setOpen("invokeai")}>
          Import an InvokeAI …
        </button>
        {error !== undefined && <p class="banner warn">{error}</p>}
      </div>
      {scans.length === 0 ? (
        <p class="empty">No scans.</p>
      ) : (
        <ul class="jobs">
          {(all ? scans : scans.slice(0, FEW)).map((scan) => (
            <ScanRow key={scan.id} scan={scan} onLook={() => setShown(scan.id)} onChange={again} />
          ))}
        </ul>
      )}
      {!all && scans.length > FEW && (
        <button type="button" onClick={() => setAll(true)}>
          Show the other {count(scans.length - FEW)}
        </button>
      )}
      {open === "scan" && <ScanDialog onBegun={again} onClose={() => setOpen(undefined)} />}
      {open === "invokeai" && <InvokeAIDialog onClose={() => setOpen(undefined)} />}
      {looked !== undefined && <FindingsDialog scan={looked} onClose={() => setShown(undefined)} />}
    </section>
  );
}

/** What a scan looks through, in words. */
export function nameOf({ kind, path }: Scan): string {
  return kind === ScanKind.SYNC ? "The folders of models" : path;
}

interface RowProps {
  readonly scan: Scan;
  readonly onLook: () => void;
  readonly onChange: () => void;
}

function ScanRow({ scan, onLook, onChange }: RowProps) {
  const { id, state, ended, error } = scan;
  const cancel = async () => {
    await suite.installs.cancelScan({ id });
    onChange();
  };
  return (
    <li class={`job ${toneOf(state)}`}>
      <div class="heading">
        <span class="name">{nameOf(scan)}</span>
        <span class={`tag ${toneOf(state)}`}>{word(ScanStateSchema, state)}</span>
      </div>
      <p class="hint">{[moment(scan.createTime), ...waysOf(scan)].join(" · ")}</p>
      {!ended && <Bar label={`Progress of the scan of ${nameOf(scan)}`} done={0} total={undefined} tone="going" />}
      <p class="numbers">{found(scan)}</p>
      {error !== undefined && <Reason error={error} />}
      <div class="actions">
        <button type="button" aria-label={`What it found … in ${nameOf(scan)}`} onClick={onLook}>
          What it found …
        </button>
        {!ended && (
          <Action run={cancel} kind="danger" label={`Cancel the scan of ${nameOf(scan)}`}>
            Cancel
          </Action>
        )}
      </div>
    </li>
  );
}

function toneOf(state: ScanState): "going" | "good" | "bad" | "still" {
  if (state === ScanState.COMPLETED) return "good";
  if (state === ScanState.ERROR) return "bad";
  return state === ScanState.RUNNING ? "going" : "still";
}

/** What was asked of it besides looking. */
function waysOf({ atStart, validateOnly, install, removeOrphans }: Scan): string[] {
  const ways: Array<[boolean, string]> = [
    [atStart, "at the service's start"],
    [validateOnly, "tells only"],
    [install, "copies what is new"],
    [removeOrphans, "removes records without files"],
  ];
  return ways.filter(([is]) => is).map(([, text]) => text);
}

function found({ counts }: Scan): string {
  if (counts === undefined) return "";
  const { fileCount, folderCount, newCount, knownCount, unknownCount, unreadableCount } = counts;
  const { movedCount, orphanCount, failedCount, removedCount } = counts;
  const kinds: Array<[bigint, string]> = [
    [newCount, "new"],
    [knownCount, "known"],
    [movedCount, "moved"],
    [orphanCount, "without files"],
    [removedCount, "removed"],
    [unknownCount, "unknown"],
    [unreadableCount, "unreadable"],
    [failedCount, "failed"],
  ];
  const told = kinds.filter(([number]) => number > 0n).map(([number, text]) => `${count(number)} ${text}`);
  return [`${counted(fileCount, "file")} in ${counted(folderCount, "folder")}`, ...told].join(" · ");
}
