/** What a scan found, by kind; where a missing model's files turned up, its record is given that place. */
import { useState } from "preact/hooks";
import {
  type Scan,
  type ScanFinding,
  ScanFindingKind,
  ScanFindingKindSchema,
} from "@modelkeep/client/gen/modelkeep/install/v1/scan_pb";
import { suite } from "../../api/suite";
import { useAnswer } from "../../lib/answer";
import { address } from "../../lib/route";
import { word, words } from "../../lib/words";
import { Action } from "../../ui/action";
import { Dialog } from "../../ui/dialog";
import { Reason } from "../jobs/reason";
import { nameOf } from "./scans_section";

const STEP = 100;
/** The largest page there is. */
const MOST = 1_000;

export function FindingsDialog({ scan, onClose }: { scan: Scan; onClose: () => void }) {
  const [kind, setKind] = useState(ScanFindingKind.UNSPECIFIED);
  const [shown, setShown] = useState(STEP);
  const ask = (signal: AbortSignal) =>
    suite.installs.listScanFindings({ id: scan.id, kinds: kind === 0 ? [] : [kind], pageSize: shown }, { signal });
  const { counts, state } = scan;
  const told = Object.values(counts ?? {}).filter((value) => typeof value !== "object").join(" ");
  const { answer, error, current } = useAnswer(ask, `${scan.id} ${kind} ${shown} ${state} ${told}`);
  const findings = answer?.findings ?? [];
  const more = answer !== undefined && answer.nextPageToken !== "";
  return (
    <Dialog title="What the scan found" onClose={onClose}>
      <p class="path">{nameOf(scan)}</p>
      <div class="field">
        <label for="finding-kind">Show</label>
        <select id="finding-kind" value={kind} onChange={(event) => setKind(Number(event.currentTarget.value))}>
          <option value={0}>everything</option>
          {words(ScanFindingKindSchema).map(({ number, word: text }) => (
            <option key={number} value={number}>
              {text}
            </option>
          ))}
        </select>
      </div>
      <div class="outcome">
        {error !== undefined && <p class="banner warn">{error}</p>}
        {current && findings.length === 0 && error === undefined && <p class="empty">Nothing.</p>}
        <ul class="findings" aria-label="Findings">
          {findings.map((finding) => (
            <Finding key={`${finding.kind} ${finding.path}`} finding={finding} told={scan.validateOnly} onLeave={onClose} />
          ))}
        </ul>
        {more && shown < MOST && (
          <button type="button" onClick={() => setShown(Math.min(MOST, shown + STEP))}>
            Show more
          </button>
        )}
        {more && shown >= MOST && (
          <p class="hint">
            These are the first thousand. <code>modelkeep scans show {scan.id}</code> has all.
          </p>
        )}
      </div>
    </Dialog>
  );
}

const TONES: Readonly<Partial<Record<ScanFindingKind, string>>> = {
  [ScanFindingKind.NEW]: "good",
  [ScanFindingKind.MOVED]: "good",
  [ScanFindingKind.ORPHAN]: "bad",
  [ScanFindingKind.FAILED]: "bad",
};

interface Props {
  readonly finding: ScanFinding;
  /** Whether nothing was changed. */
  readonly told: boolean;
  readonly onLeave: () => void;
}

function Finding({ finding, told, onLeave }: Props) {
  const { path, kind, key, error, sameContentKeys, missingContentKeys, removed } = finding;
  const exists = key !== "" && !removed && !(told && kind === ScanFindingKind.NEW);
  return (
    <li>
      <span class={`tag ${TONES[kind] ?? ""}`}>{word(ScanFindingKindSchema, kind)}</span>{" "}
      {exists ? (
        <a href={address("models", key)} onClick={onLeave}>
          {path}
        </a>
      ) : (
        <span>{path}</span>
      )}
      {removed && <span class="hint"> Its record was removed.</span>}
      {sameContentKeys.length > 0 && <span class="hint"> Another model has the same content.</span>}
      {error !== undefined && <Reason error={error} />}
      {kind === ScanFindingKind.MOVED && (
        <div class="actions">
          {missingContentKeys.map((missing) => (
            <Relink key={missing} model={missing} path={path} onLeave={onLeave} />
          ))}
        </div>
      )}
    </li>
  );
}

/** The model that misses its files, by name, and what gives it these. */
function Relink({ model: key, path, onLeave }: { model: string; path: string; onLeave: () => void }) {
  const { answer } = useAnswer((signal) => suite.records.getModel({ key }, { signal }), key);
  const [given, setGiven] = useState(false);
  const name = answer?.model?.name ?? key.slice(0, 8);
  const relink = async () => {
    await suite.installs.relinkModel({ key, path });
    setGiven(true);
  };
  return (
    <>
      <a href={address("models", key)} onClick={onLeave}>
        {name}
      </a>
      <Action
        run={relink}
        done={`${name} has its files again.`}
        disabled={given}
      >
        Give {name} this place
      </Action>
    </>
  );
}
