/** The four services as one object, whatever carries the calls. */

import type { DescService } from "@bufbuild/protobuf";
import type { Client, Transport } from "@connectrpc/connect";

import { clientOf, DEFAULT_TIMEOUT_MS, withTypedErrors } from "./calls.js";
import { Health } from "./gen/grpc/health/v1/health_pb.js";
import { DownloadService } from "./gen/modelkeep/download/v1/download_service_pb.js";
import { InstallService } from "./gen/modelkeep/install/v1/install_service_pb.js";
import { LoaderService } from "./gen/modelkeep/loader/v1/loader_service_pb.js";
import { RecordService } from "./gen/modelkeep/record/v1/record_service_pb.js";
import { ServerService } from "./gen/modelkeep/server/v1/server_service_pb.js";

/** Short name of a service. */
export type ServiceName = "record" | "download" | "install" | "loader";

/** The services of a suite, in the order in which they are told about. */
export const SERVICES: readonly ServiceName[] = ["record", "download", "install", "loader"];

/** What carries the calls to each service. */
export type Transports = Readonly<Record<ServiceName, Transport>>;

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
  /** Whether each process takes calls: gRPC's own service for that. */
  readonly health: Readonly<Record<ServiceName, Client<typeof Health>>>;

  /**
   * @param transports one for each service; they may be the same
   * @param timeoutMs how long a unary call may take with its repetitions, unless it says otherwise
   * @param servers those for ServerService, and for Health, where a gateway tells the four apart
   */
  constructor(transports: Transports, timeoutMs = DEFAULT_TIMEOUT_MS, servers = transports) {
    const to = <S extends DescService>(service: S, transport: Transport): Client<S> =>
      clientOf(service, withTypedErrors(transport, timeoutMs));
    this.records = to(RecordService, transports.record);
    this.downloads = to(DownloadService, transports.download);
    this.installs = to(InstallService, transports.install);
    this.loader = to(LoaderService, transports.loader);
    const toEach = <S extends DescService>(service: S): Record<ServiceName, Client<S>> => ({
      record: to(service, servers.record),
      download: to(service, servers.download),
      install: to(service, servers.install),
      loader: to(service, servers.loader),
    });
    this.servers = toEach(ServerService);
    this.health = toEach(Health);
  }
}
