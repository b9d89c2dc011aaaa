/** Installs as jobs. */
import type { Download } from "@modelkeep/client/gen/modelkeep/download/v1/download_pb";
import {
  type Install,
  InstallStageSchema,
  InstallState,
  InstallStateSchema,
} from "@modelkeep/client/gen/modelkeep/install/v1/install_pb";
import { suite } from "../../api/suite";
import { word } from "../../lib/words";
import { setPriority } from "./download_jobs";
import type { Job, JobActions } from "./job";

/** @param download the job of DownloadService that fetches its files, where it is known */
export function installJob(install: Install, download: Download | undefined): Job {
  const { id, state, model, overrides, plan, error, ended } = install;
  const source = sourceOf(install);
  const going = state === InstallState.RUNNING && error === undefined;
  return {
    id,
    title: model?.name || overrides?.name || plan?.name || lastPart(source),
    source,
    group: ended ? "ended" : going ? "going" : "waiting",
    tone: toneOf(state, going),
    state: stateOf(install),
    progress: install.progress,
    error,
    modelKey: state === InstallState.COMPLETED ? install.modelKey : "",
    priority: ended ? undefined : download?.priority,
    actions: actionsOf(install, download),
  };
}

function sourceOf({ source }: Install): string {
  const named = source?.source;
  if (named?.case === "remote") return named.value.source;
  return named?.case === undefined ? "" : named.value;
}

function lastPart(source: string): string {
  return source.replace(/[?#].*$/, "").split("/").filter(Boolean).at(-1) ?? source;
}

function stateOf({ state, stage, installedAlready }: Install): string {
  if (installedAlready) return "was installed already";
  const words = [word(InstallStateSchema, state)];
  if (state === InstallState.RUNNING) words.push(word(InstallStageSchema, stage));
  return words.filter(Boolean).join(", ");
}

function toneOf(state: InstallState, going: boolean): Job["tone"] {
  if (state === InstallState.COMPLETED) return "good";
  if (state === InstallState.ERROR) return "bad";
  return going ? "going" : "still";
}

function actionsOf({ id, state, ended }: Install, download: Download | undefined): JobActions {
  const calls = suite.installs;
  if (ended) {
    const forget = () => calls.deleteInstall({ id });
    if (state === InstallState.COMPLETED) return { forget };
    return { forget, retry: (secrets) => calls.retryInstall({ ids: [id], ...secrets }) };
  }
  const cancel = () => calls.cancelInstall({ id });
  const priority = download === undefined || download.ended ? {} : { setPriority: setPriority(download.id) };
  if (state === InstallState.PAUSED) {
    return { resume: (secrets) => calls.resumeInstall({ id, ...secrets }), cancel, ...priority };
  }
  return { pause: () => calls.pauseInstall({ id }), cancel, ...priority };
}
