/** Why a model is taken for what it is: what its headers and configs show, read on request. */
import { useState } from "preact/hooks";
import {
  type Evidence,
  EvidenceStrengthSchema,
  type ProbeResult,
} from "@modelkeep/client/gen/modelkeep/install/v1/install_pb";
import type { Model } from "@modelkeep/client/gen/modelkeep/model/v1/model_pb";
import { serverInfo, suite } from "../../api/suite";
import { word } from "../../lib/words";
import { Action } from "../../ui/action";

export function EvidencePanel({ model }: { model: Model }) {
  const [result, setResult] = useState<ProbeResult | undefined>();
  const probe = async () => {
    const path = await placeOf(model);
    const answer = await suite.installs.probeModel({ path });
    setResult(answer.result);
  };
  return (
    <section>
      <h3>Evidence</h3>
      {result === undefined ? (
        <p>
          What its headers and configs tell is read anew. <Action run={probe}>Show why</Action>
        </p>
      ) : (
        <EvidenceList result={result} />
      )}
    </section>
  );
}

export function EvidenceList({ result }: { result: ProbeResult }) {
  return (
    <>
      <ul class="evidence">
        {result.evidence.map((evidence) => (
          <EvidenceItem key={`${evidence.finding} ${evidence.observation}`} evidence={evidence} />
        ))}
      </ul>
      {result.ruledOut.length > 0 && (
        <details>
          <summary>What it is not</summary>
          <ul class="evidence">
            {result.ruledOut.map(({ kind, reason }) => (
              <li key={kind}>
                <b>{kind}</b>: {reason}
              </li>
            ))}
          </ul>
        </details>
      )}
    </>
  );
}

function EvidenceItem({ evidence: { finding, observation, strength } }: { evidence: Evidence }) {
  return (
    <li>
      <b>{finding}</b>: {observation} <span class="tag">{word(EvidenceStrengthSchema, strength)}</span>
    </li>
  );
}

/** The absolute path of a model: relative ones belong to a folder of models, which InstallService tells. */
async function placeOf({ path, rootId }: Model): Promise<string> {
  if (path.startsWith("/")) return path;
  const { roots } = await serverInfo("install", AbortSignal.timeout(10_000));
  const root = roots.find((candidate) => candidate.purpose === "models" && candidate.rootId === rootId);
  if (root === undefined) throw new Error("The model lies in a folder of models that InstallService does not have.");
  return `${root.path}/${path}`;
}
