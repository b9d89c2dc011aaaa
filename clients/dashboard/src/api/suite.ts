/** The services, and what the page watches of them. */
import { connect, reopened, type ServiceName, watch, type WatchFrame } from "@modelkeep/client/web";
import { HealthCheckResponse_ServingStatus } from "@modelkeep/client/gen/grpc/health/v1/health_pb";
import type { Download } from "@modelkeep/client/gen/modelkeep/download/v1/download_pb";
import type { Install } from "@modelkeep/client/gen/modelkeep/install/v1/install_pb";
import type { GetCapacityResponse } from "@modelkeep/client/gen/modelkeep/loader/v1/capacity_pb";
import type { Lease, Resident } from "@modelkeep/client/gen/modelkeep/loader/v1/resident_pb";
import type { Model } from "@modelkeep/client/gen/modelkeep/model/v1/model_pb";
import { ModelOrder, ModelView } from "@modelkeep/client/gen/modelkeep/record/v1/record_service_pb";
import type { GetServerInfoResponse } from "@modelkeep/client/gen/modelkeep/server/v1/server_service_pb";
import { Feed } from "./feed";
import { token } from "./token";

const access = { token: () => token() ?? undefined };
export const suite = connect(access);

/** All four services serve ServerService: the gateway tells by a folder before the method's name which one is meant. */
export function serverInfo(service: ServiceName, signal: AbortSignal): Promise<GetServerInfoResponse> {
  return suite.servers[service].getServerInfo({}, { signal });
}

/** Whether a process takes calls; that it does not answer is an error. */
export async function takesCalls(service: ServiceName, signal: AbortSignal): Promise<boolean> {
  const { status } = await suite.health[service].check({}, { signal, timeoutMs: 3_000 });
  return status === HealthCheckResponse_ServingStatus.SERVING;
}

/** Of ten thousand records a list has less to tell than a snapshot, which has every field. */
export const models = new Feed<Model>({
  async *pages(signal) {
    let pageToken = "";
    do {
      const request = { view: ModelView.BASIC, order: ModelOrder.NAME, pageSize: 1000, pageToken };
      const answer = await suite.records.listModels(request, signal === undefined ? {} : { signal });
      yield { items: answer.models.map((model) => [model.key, model] as const), resumeToken: answer.resumeToken };
      pageToken = answer.nextPageToken;
    } while (pageToken !== "");
  },
  watch: (resumeToken, options) => watch(suite.records.watchModels, { resumeToken }, options),
});

export const installs = new Feed<Install>({
  watch: (resumeToken, options) => watch(suite.installs.watchInstalls, { resumeToken }, options),
});

export const downloads = new Feed<Download>({
  watch: (resumeToken, options) => watch(suite.downloads.watchDownloads, { resumeToken, allQueues: true }, options),
});

export const residents = new Feed<Resident>({
  watch: (resumeToken, options) => watch(suite.loader.watchResidents, { resumeToken }, options),
});

export const leases = new Feed<Lease>({
  watch: (resumeToken, options) => watch(suite.loader.watchLeases, { resumeToken }, options),
});

/** Id of the only item of `capacity`. */
export const CAPACITY = "capacity";

/** The loader's memory; its watch has no history, and each frame is all there is. */
export const capacity = new Feed<GetCapacityResponse>({
  async *watch(_, options): AsyncIterable<WatchFrame<GetCapacityResponse>> {
    const frame = { phase: "snapshot", snapshotComplete: true, resumeToken: "", restarted: false } as const;
    for await (const answer of reopened((call) => suite.loader.watchCapacity({}, call), options)) {
      if ("awayMs" in answer) yield { ...frame, events: [], awayMs: answer.awayMs };
      else if (answer.capacity !== undefined) {
        const event = { id: CAPACITY, put: answer.capacity, progress: false, revision: 0n };
        yield { ...frame, events: [event], awayMs: undefined };
      }
    }
  },
});
