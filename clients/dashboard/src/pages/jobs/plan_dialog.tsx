/** What an install would do, and the choices that there are; then does it. */
import { useState } from "preact/hooks";
import type { SourcePlan } from "@modelkeep/client/gen/modelkeep/download/v1/resolve_pb";
import type { ImportModelResponse } from "@modelkeep/client/gen/modelkeep/install/v1/install_service_pb";
import { ModelFormatSchema, ModelTypeSchema } from "@modelkeep/client/gen/modelkeep/model/v1/taxonomy_pb";
import { suite } from "../../api/suite";
import { useAnswer } from "../../lib/answer";
import { bytes, counted } from "../../lib/format";
import { word } from "../../lib/words";
import { Action } from "../../ui/action";
import { Dialog } from "../../ui/dialog";
import { Facts } from "../../ui/facts";
import { Check, Field } from "../../ui/field";
import { EvidenceList } from "../models/evidence_panel";

interface Props {
  readonly source: string;
  readonly onInstalled: () => void;
  readonly onClose: () => void;
}

export function PlanDialog({ source: given, onInstalled, onClose }: Props) {
  const [source, setSource] = useState(given);
  const [variant, setVariant] = useState("");
  const [copied, setCopied] = useState(false);
  const [accessToken, setAccessToken] = useState("");
  const request = {
    source: { source: { case: "remote", value: { source, variant } } },
    inplace: !copied,
    accessToken,
  } as const;
  const { answer, error, current } = useAnswer(
    (signal) => suite.installs.importModel({ ...request, validateOnly: true }, { signal, timeoutMs: 120_000 }),
    JSON.stringify([source, variant, copied, accessToken]),
    accessToken === "" ? 0 : 400,
  );
  const choose = (choice: { kind: string; value: string; source: string }) => {
    if (choice.kind === "variant") setVariant(choice.value);
    else if (choice.source !== "") setSource(choice.source);
  };
  const install = async () => {
    await suite.installs.importModel(request);
    onInstalled();
    onClose();
  };
  const isLocal = answer?.install?.probe !== undefined;

  return (
    <Dialog title="Install this?" onClose={onClose}>
      <p class="path">{source}</p>
      <div class="outcome" role="status">
        {!current && <p>Looking it up …</p>}
        {current && error !== undefined && <p class="banner warn">{error}</p>}
        {current && error === undefined && answer !== undefined && <Plan answer={answer} onChoose={choose} />}
      </div>
      <form class="fields" onSubmit={(event) => event.preventDefault()}>
        {isLocal && (
          <Check checked={copied} onChange={setCopied}>
            Copy it into the folder of models; else it stays where it is
          </Check>
        )}
        {!isLocal && (
          <Field label="Access token" hint="Where the source asks for one; it is not kept here." secret value={accessToken} onInput={setAccessToken} />
        )}
      </form>
      <footer>
        <button type="button" onClick={onClose}>
          Cancel
        </button>
        <Action kind="primary" run={install} done="The install is made." disabled={!current}>
          Install
        </Action>
      </footer>
    </Dialog>
  );
}

interface PlanProps {
  readonly answer: ImportModelResponse;
  readonly onChoose: (choice: SourcePlan["choices"][number]) => void;
}

function Plan({ answer: { install, plan }, onChoose }: PlanProps) {
  const probe = install?.probe;
  return (
    <>
      {install?.installedAlready && <p class="banner">It is installed already, as {install.model?.name}.</p>}
      {(install?.sameContentKeys.length ?? 0) > 0 && <p class="banner">Another model has the same content.</p>}
      {plan === undefined && probe === undefined && !install?.installedAlready && (
        <p class="hint">This source tells nothing before it is fetched.</p>
      )}
      {probe !== undefined && (
        <>
          <Facts
            facts={{
              Name: probe.name,
              Type: word(ModelTypeSchema, probe.type),
              Base: probe.base,
              Format: word(ModelFormatSchema, probe.format),
              Size: `${bytes(probe.sizeBytes)} in ${counted(probe.fileCount, "file")}`,
              Place: install?.localPath,
            }}
          />
          <details>
            <summary>Evidence</summary>
            <EvidenceList result={probe} />
          </details>
        </>
      )}
      {plan !== undefined && <HubPlan plan={plan} onChoose={onChoose} />}
    </>
  );
}

function HubPlan({ plan, onChoose }: { plan: SourcePlan; onChoose: PlanProps["onChoose"] }) {
  const { name, revision, files, bytesTotal, sourceBytesTotal, metadata, reasons, choices } = plan;
  return (
    <>
      <Facts
        facts={{
          Name: metadata?.name || name,
          By: metadata?.author,
          Licence: metadata?.license,
          Revision: revision,
          Fetches: bytesTotal === undefined ? counted(files.length, "file") : `${bytes(bytesTotal)} in ${counted(files.length, "file")}`,
          "Of all": sourceBytesTotal === undefined ? "" : bytes(sourceBytesTotal),
        }}
      />
      {reasons.map((reason) => (
        <p key={reason}>{reason}</p>
      ))}
      {choices.length > 0 && (
        <div class="actions" role="group" aria-label="What else there is">
          {choices.map((choice) => (
            <button key={`${choice.kind} ${choice.value}`} type="button" aria-pressed={choice.chosen} onClick={() => onChoose(choice)}>
              {choice.kind} {choice.value}
              {choice.bytesTotal === undefined ? "" : `, ${bytes(choice.bytesTotal)}`}
            </button>
          ))}
        </div>
      )}
      <details>
        <summary>{counted(files.length, "file")}</summary>
        <ul class="paths">
          {files.map((file) => (
            <li key={file.path}>
              {file.path} {file.sizeBytes === undefined ? "" : bytes(file.sizeBytes)}
              {file.cachedPath === "" ? "" : ", copied from the cache"}
            </li>
          ))}
        </ul>
      </details>
    </>
  );
}
