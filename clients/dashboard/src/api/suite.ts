/** The services, and what the page watches of them. */
import type { Message } from "@bufbuild/protobuf";
import { connect, type ServiceName } from "@modelkeep/client/web";
import type { Download } from "@modelkeep/client/gen/modelkeep/download/v1/download_pb";
import type { Install } from "@modelkeep/client/gen/modelkeep/install/v1/install_pb";
import type { GetCapacityResponse } from "@modelkeep/client/gen/modelkeep/loader/v1/capacity_pb";
import type { Lease, Resident } from "@modelkeep/client/gen/modelkeep/loader/v1/resident_pb";
import type { Model } from "@modelkeep/client/gen/modelkeep/model/v1/model_pb";
import { ModelOrder, ModelView } from "@modelkeep/client/gen/modelkeep/record/v1/record_service_pb";
import type { JobProgress, Progress } from "@modelkeep/client/gen/modelkeep/server/v1/job_pb";
import type { GetServerInfoResponse } from "@modelkeep/client/gen/modelkeep/server/v1/server_service_pb";
import { type Change, Feed, type Frame } from "./feed";
import { token } from "./token";

const access = { token: () => token() ?? undefined };
export const suite = connect(access);

const PAGE_SIZE = 1000;

/** All four services serve ServerService: the gateway tells by a folder before the method's name which one is meant. */
export function serverInfo(service: ServiceName, signal: AbortSignal): Promise<GetServerInfoResponse> {
  const baseUrl = `${location.origin}/${service}`;
  return connect({ ...access, baseUrl }).servers[service].getServerInfo({}, { signal });
}

/** What frames of every Watch RPC have in common. */
interface WireFrame<Event> {
  readonly resumeToken: string;
  readonly snapshotComplete: boolean;
  readonly events: readonly Event[];
}

async function* frames<Event, Item>(
  stream: AsyncIterable<WireFrame<Event>>,
  changes: (event: Event) => Array<Change<Item>>,
): AsyncIterable<Frame<Item>> {
  for await (const { resumeToken, snapshotComplete, events } of stream) {
    yield { resumeToken, snapshotComplete, changes: events.flatMap(changes) };
  }
}

/** Progress of before a change that has been told already is out of date. */
function moved<Job extends Message & { revision: bigint; progress?: Progress | undefined }>({ revision, progress }: JobProgress) {
  return (job: Job): Job => (progress === undefined || revision < job.revision ? job : { ...job, progress });
}

export const models = new Feed<Model>({
  async page(pageToken, signal) {
    const request = { view: ModelView.BASIC, order: ModelOrder.NAME, pageSize: PAGE_SIZE, pageToken };
    const answer = await suite.records.listModels(request, { signal });
    return { ...answer, items: answer.models.map((model) => [model.key, model] as const) };
  },
  watch: (resumeToken, signal) =>
    frames(suite.records.watchModels({ resumeToken }, { signal }), ({ change }) => {
      if (change.case === "put") return [{ key: change.value.key, put: change.value }];
      return change.case === "removedKey" ? [{ key: change.value, removed: true }] : [];
    }),
});

export const installs = new Feed<Install>({
  async page(pageToken, signal) {
    const answer = await suite.installs.listInstalls({ pageSize: PAGE_SIZE, pageToken }, { signal });
    return { ...answer, items: answer.installs.map((install) => [install.id, install] as const) };
  },
  watch: (resumeToken, signal) =>
    frames(suite.installs.watchInstalls({ resumeToken }, { signal }), ({ change }) => {
      if (change.case === "put") return [{ key: change.value.id, put: change.value }];
      if (change.case === "progress") return [{ key: change.value.id, progress: moved<Install>(change.value) }];
      return change.case === "removedId" ? [{ key: change.value, removed: true }] : [];
    }),
});

export const downloads = new Feed<Download>({
  async page(pageToken, signal) {
    const request = { allQueues: true, pageSize: PAGE_SIZE, pageToken };
    const answer = await suite.downloads.listDownloads(request, { signal });
    return { ...answer, items: answer.downloads.map((download) => [download.id, download] as const) };
  },
  watch: (resumeToken, signal) =>
    frames(suite.downloads.watchDownloads({ resumeToken, allQueues: true }, { signal }), ({ change }) => {
      if (change.case === "put") return [{ key: change.value.id, put: change.value }];
      if (change.case === "progress") return [{ key: change.value.id, progress: moved<Download>(change.value) }];
      return change.case === "removedId" ? [{ key: change.value, removed: true }] : [];
    }),
});

export const residents = new Feed<Resident>({
  async page(pageToken, signal) {
    const answer = await suite.loader.listResidents({ pageSize: PAGE_SIZE, pageToken }, { signal });
    return { ...answer, items: answer.residents.map((resident) => [resident.id, resident] as const) };
  },
  watch: (resumeToken, signal) =>
    frames(suite.loader.watchResidents({ resumeToken }, { signal }), ({ change }) => {
      if (change.case === "put") return [{ key: change.value.id, put: change.value }];
      if (change.case === "progress") {
        const { id, progress } = change.value;
        return progress === undefined ? [] : [{ key: id, progress: (before) => ({ ...before, progress }) }];
      }
      return change.case === "removedId" ? [{ key: change.value, removed: true }] : [];
    }),
});

export const leases = new Feed<Lease>({
  async page(pageToken, signal) {
    const answer = await suite.loader.listLeases({ pageSize: PAGE_SIZE, pageToken }, { signal });
    return { ...answer, items: answer.leases.map((lease) => [lease.id, lease] as const) };
  },
  watch: (resumeToken, signal) =>
    frames(suite.loader.watchLeases({ resumeToken }, { signal }), ({ change }) => {
      if (change.case === "put") return [{ key: change.value.id, put: change.value }];
      return change.case === "removedId" ? [{ key: change.value, removed: true }] : [];
    }),
});

/** One item, `CAPACITY`; its watch has no history, and each frame is all there is. */
export const capacity = new Feed<GetCapacityResponse>({
  async page() {
    return { items: [], nextPageToken: "", resumeToken: "now" };
  },
  async *watch(_, signal) {
    for await (const { capacity } of suite.loader.watchCapacity({}, { signal })) {
      const changes = capacity === undefined ? [] : [{ key: CAPACITY, put: capacity }];
      yield { resumeToken: "now", snapshotComplete: true, changes };
    }
  },
});
export const CAPACITY = "capacity";
