/** What Node and browsers share: the services' clients, errors, watches, jobs and leases. */

export { Backoff, sleep } from "./backoff.js";
export type { Token } from "./calls.js";
export { Collection } from "./collection.js";
export { type FieldViolation, isReason, ModelkeepError, type Reason, type Told } from "./errors.js";
export { jobEnd, type JobOptions } from "./jobs.js";
export { hold, Lease, type LeaseOptions } from "./leases.js";
export { Modelkeep, type ServiceName, SERVICES } from "./modelkeep.js";
export { type Away, reopened, type StreamOptions } from "./streams.js";
export { watch, type WatchEvent, type WatchFrame, type WatchMethod } from "./watch.js";
