/** The files of a model, with their digests. */
import { DigestState, type Model, type ModelFile } from "@modelkeep/client/gen/modelkeep/model/v1/model_pb";
import { suite } from "../../api/suite";
import { useAnswer } from "../../lib/answer";
import { bytes, counted } from "../../lib/format";

/** So many files are listed; the others are counted by the model's size alone. */
const SHOWN = 200;

export function FilesPanel({ model }: { model: Model }) {
  const { answer, error } = useAnswer(
    (signal) => suite.records.listModelFiles({ key: model.key, pageSize: SHOWN }, { signal }),
    `${model.key} ${model.revision}`,
  );
  if (error !== undefined) return <p class="banner warn">{error}</p>;
  if (answer === undefined) return null;
  const more = answer.nextPageToken !== "";
  return (
    <section>
      <h3>{more ? `The first ${counted(answer.files.length, "file")}` : counted(answer.files.length, "file")}</h3>
      <ul class="files">
        {answer.files.map((file) => (
          <li key={file.path}>
            <span class="path">{file.path}</span>
            <span class="size">{bytes(file.sizeBytes)}</span>
            <span class="digest" title={file.sha256 === "" ? undefined : `SHA-256 ${file.sha256}`}>
              {digest(file)}
            </span>
          </li>
        ))}
      </ul>
    </section>
  );
}

function digest({ digestState, sha256 }: ModelFile): string {
  const short = `SHA-256 ${sha256.slice(0, 12)}…`;
  switch (digestState) {
    case DigestState.VERIFIED:
      return `${short}, as its source published`;
    case DigestState.COMPUTED:
      return short;
    case DigestState.FAILED:
      return "could not be read for its digest";
    default:
      return "digest to be computed";
  }
}
