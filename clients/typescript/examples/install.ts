// Install a model and follow the job to its end: node dist/examples/install.js SOURCE
// SOURCE is what a person would name: a path on the services' host, an address, a repository.

import { isReason, jobEnd, ModelkeepError } from "@modelkeep/client";
import { type Install, InstallStage, InstallState } from "@modelkeep/client/gen/modelkeep/install/v1/install_pb";
import { connect } from "@modelkeep/client/node";

const modelkeep = connect();
const [source = ""] = process.argv.slice(2);

function show({ id, state, stage, progress }: Install): void {
  const total = progress?.bytesTotal ?? 0n;
  const share = total > 0n ? ` ${(100n * (progress?.bytesDone ?? 0n)) / total} %` : "";
  console.log(`${id}: ${InstallState[state]}${stage ? ` ${InstallStage[stage]}` : ""}${share}`);
}

try {
  const { install } = await modelkeep.installs.importModel({ source: { source: { case: "remote", value: { source } } } });
  const ended = await jobEnd(modelkeep.installs.watchInstalls, install?.id ?? "", { onChange: show });
  const failure = ModelkeepError.ofJob(ended);
  if (failure) throw failure;
  console.log(`installed as ${ended.model?.key}`);
} catch (error) {
  if (!isReason(error)) throw error;
  console.error(`${error.reason}: ${error.rawMessage}`);
  process.exitCode = 1;
}
