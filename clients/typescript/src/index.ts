/** What Node and browsers share: the services' clients, errors, watches, jobs and leases. */

export { Backoff, sleep } from "./backoff.js";
export type { Token } from "./calls.js";
export { type FieldViolation, isReason, ModelkeepError, type Reason } from "./errors.js";
export { Modelkeep, type ServiceName, SERVICES } from "./modelkeep.js";
