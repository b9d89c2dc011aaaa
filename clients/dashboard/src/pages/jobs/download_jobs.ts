/** Downloads as jobs. */
import {
  type Download,
  DownloadStageSchema,
  DownloadState,
  DownloadStateSchema,
} from "@modelkeep/client/gen/modelkeep/download/v1/download_pb";
import { suite } from "../../api/suite";
import { word } from "../../lib/words";
import type { Job, JobActions } from "./job";

/** The label that InstallService gives the downloads of its jobs: they are shown with those. */
const OF_INSTALL = "modelkeep.dev/install";

export function isOfInstall(download: Download): boolean {
  return OF_INSTALL in download.labels;
}

export function downloadJob(download: Download): Job {
  const { id, state, stage, path, destination, progress, error, priority, ended } = download;
  const going = state === DownloadState.RUNNING && error === undefined;
  return {
    id,
    title: (path || destination).split("/").filter(Boolean).at(-1) ?? destination,
    source: sourceOf(download),
    group: ended ? "ended" : going ? "going" : "waiting",
    tone: toneOf(state, going),
    state: [word(DownloadStateSchema, state), word(DownloadStageSchema, stage)].filter(Boolean).join(", "),
    progress,
    error,
    modelKey: "",
    priority: ended ? undefined : priority,
    actions: actionsOf(download),
  };
}

export function setPriority(id: string): (priority: number) => Promise<unknown> {
  return (priority) =>
    suite.downloads.updateDownload({ download: { id, priority }, updateMask: { paths: ["priority"] } });
}

function sourceOf({ source }: Download): string {
  const named = source?.source;
  switch (named?.case) {
    case "url":
      return named.value;
    case "localPath":
      return named.value.path;
    case "files":
      return named.value.files[0]?.url ?? "";
    case "remote":
      return named.value.source;
    default:
      return "";
  }
}

function toneOf(state: DownloadState, going: boolean): Job["tone"] {
  if (state === DownloadState.COMPLETED) return "good";
  if (state === DownloadState.ERROR) return "bad";
  return going ? "going" : "still";
}

function actionsOf({ id, state, ended }: Download): JobActions {
  const calls = suite.downloads;
  if (ended) {
    const forget = () => calls.pruneDownloads({ ids: [id] });
    if (state === DownloadState.COMPLETED) return { forget };
    return { forget, retry: (secrets) => calls.retryDownload({ id, ...secrets }) };
  }
  const common = { cancel: () => calls.cancelDownload({ id }), setPriority: setPriority(id) };
  if (state === DownloadState.PAUSED || state === DownloadState.IDLE) {
    return { resume: (secrets) => calls.startDownload({ id, ...secrets }), ...common };
  }
  return { pause: () => calls.pauseDownload({ id }), ...common };
}
