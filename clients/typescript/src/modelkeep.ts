/** The four services as one object, whatever carries the calls. */

import { type Client, createClient, type Transport } from "@connectrpc/connect";

import { DEFAULT_TIMEOUT_MS, withTimeout } from "./calls.js";
import { DownloadService } from "./gen/modelkeep/download/v1/download_service_pb.js";
import { InstallService } from "./gen/modelkeep/install/v1/install_service_pb.js";
import { LoaderService } from "./gen/modelkeep/loader/v1/loader_service_pb.js";
import { RecordService } from "./gen/modelkeep/record/v1/record_service_pb.js";
import { ServerService } from "./gen/modelkeep/server/v1/server_service_pb.js";

/** Short name of a service. */
export type ServiceName = "record" | "download" | "install" | "loader";

/** The services of a suite, in the order in which they are told about. */
export const SERVICES: readonly ServiceName[] = ["record", "download", "install", "loader"];

/** Clients of the services, made by `connect` of `@modelkeep/client/node` or `@modelkeep/client/web`. */
export class Modelkeep {
  /** What is known of models: RecordService. */
  readonly records: Client<typeof RecordService>;
  /** Downloads: DownloadService. */
  readonly downloads: Client<typeof DownloadService>;
  /** Installs, scans, removals: InstallService. */
  readonly installs: Client<typeof InstallService>;
  /** Models in memory, and leases on them: LoaderService. */
  readonly loader: Client<typeof LoaderService>;
  /** What each process says about itself: ServerService, which all four serve. */
  readonly servers: Readonly<Record<ServiceName, Client<typeof ServerService>>>;

  /**
   * @param transports one for each service; they may be the same
   * @param timeoutMs how long a unary call may take with its repetitions, unless it says otherwise
   */
  constructor(transports: Readonly<Record<ServiceName, Transport>>, timeoutMs = DEFAULT_TIMEOUT_MS) {
    const to = (service: ServiceName) => withTimeout(transports[service], timeoutMs);
    const [record, download, install, loader] = [to("record"), to("download"), to("install"), to("loader")];
    this.records = createClient(RecordService, record);
    this.downloads = createClient(DownloadService, download);
    this.installs = createClient(InstallService, install);
    this.loader = createClient(LoaderService, loader);
    const server = (transport: Transport) => createClient(ServerService, transport);
    this.servers = {
      record: server(record),
      download: server(download),
      install: server(install),
      loader: server(loader),
    };
  }
}
