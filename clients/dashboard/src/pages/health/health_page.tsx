/** How the four services do, as each says itself. */
import type { ComponentChildren } from "preact";
import { SERVICES, type ServiceName } from "@modelkeep/client/web";
import type { GetServerInfoResponse } from "@modelkeep/client/gen/modelkeep/server/v1/server_service_pb";
import { CAPACITY, capacity, serverInfo, suite, takesCalls } from "../../api/suite";
import { usePolled } from "../../lib/answer";
import { now } from "../../lib/clock";
import { bytes, count, counted, duration, secondsSince } from "../../lib/format";
import { Facts } from "../../ui/facts";
import { useFeeds } from "../../ui/feed_notice";

/** Whether it takes calls is asked so often; a watch of each service would take four of the browser's connections. */
const HEALTH_MS = 1_000;
/** What changes with a restart only. */
const INFO_MS = 5_000;

const TITLES: Readonly<Record<ServiceName, string>> = {
  record: "RecordService",
  download: "DownloadService",
  install: "InstallService",
  loader: "LoaderService",
};

export function HealthPage() {
  return (
    <div class="page">
      <h2 class="title">Health</h2>
      <div class="services">
        {SERVICES.map((name) =>
          name === "loader" ? (
            <LoaderCard key={name} />
          ) : (
            <ServiceCard key={name} name={name}>
              {name === "record" && <StoreFacts />}
            </ServiceCard>
          ),
        )}
      </div>
    </div>
  );
}

interface CardProps {
  readonly name: ServiceName;
  /** Why it gives nothing new although it takes calls. */
  readonly held?: string | undefined;
  readonly children?: ComponentChildren;
}

function ServiceCard({ name, held, children }: CardProps) {
  const health = usePolled((signal) => takesCalls(name, signal), HEALTH_MS);
  const [word, tone] = stateOf(health, held);
  const { answer } = usePolled((signal) => serverInfo(name, signal), INFO_MS, word);
  return (
    <section class="service" aria-label={TITLES[name]}>
      <div class="section-head">
        <h2>{TITLES[name]}</h2>
        <span class={`tag ${tone}`} role="status">
          {word}
        </span>
      </div>
      {health.error !== undefined && <p class="reason">{health.error}</p>}
      {word === "not serving" && <p class="reason">It takes nothing new: it finishes what it has begun, or is starting.</p>}
      {word === "out of service" && <p class="reason">{held}</p>}
      {children}
      {answer !== undefined && <ServerFacts info={answer} />}
    </section>
  );
}

function stateOf({ answer, error }: { answer: boolean | undefined; error: string | undefined }, held: string | undefined) {
  if (error !== undefined) return ["away", "bad"] as const;
  if (answer === undefined) return ["asking", ""] as const;
  if (!answer) return ["not serving", "bad"] as const;
  return held === undefined ? (["serving", "good"] as const) : (["out of service", "bad"] as const);
}

/** The loader may be taken out of service while it runs on, which its health does not say. */
function LoaderCard() {
  useFeeds(capacity);
  const host = capacity.items.get(CAPACITY);
  const held = host?.draining ? ["It gives no new leases.", host.drainReason].filter(Boolean).join(" ") : undefined;
  return (
    <ServiceCard name="loader" held={held}>
      {host !== undefined && (
        <Facts
          facts={{
            Leases: count(host.leaseCount),
            Waiting: host.queuedCount === 0 ? "" : counted(host.queuedCount, "request"),
            Unused: host.accelerators.filter(({ refusal }) => refusal !== "").map(({ name, refusal }) => `${name}: ${refusal}`).join(", "),
          }}
        />
      )}
    </ServiceCard>
  );
}

function ServerFacts({ info }: { info: GetServerInfoResponse }) {
  const { version, startTime, pid, instanceId, features, devices, roots, limits } = info;
  return (
    <>
      <Facts
        facts={{
          Version: version,
          "Up for": startTime === undefined ? "" : duration(secondsSince(startTime, now.value)),
          Process: pid,
          Instance: instanceId.slice(0, 12),
          Devices: devices.join(", "),
          Features: features.join(", "),
        }}
      />
      {roots.length > 0 && (
        <details>
          <summary>Folders</summary>
          <ul class="paths">
            {roots.map(({ purpose, path }) => (
              <li key={`${purpose} ${path}`}>
                {purpose}: {path}
              </li>
            ))}
          </ul>
        </details>
      )}
      <details>
        <summary>Limits</summary>
        <Facts facts={Object.fromEntries(Object.entries(limits).sort().map(([name, value]) => [name, limit(name, value)]))} />
      </details>
    </>
  );
}

/** The name of a limit ends with its unit. */
function limit(name: string, value: bigint): string {
  return name.endsWith("_bytes") ? bytes(value) : count(value);
}

function StoreFacts() {
  const { answer } = usePolled((signal) => suite.records.getStoreInfo({}, { signal }), INFO_MS);
  if (answer === undefined) return null;
  const { backend, modelCount, missingCount, unreadableCount, sizeBytes } = answer;
  return (
    <Facts
      facts={{
        Store: backend,
        Models: `${count(modelCount)}, ${bytes(sizeBytes)}`,
        Missing: missingCount === 0n ? "" : count(missingCount),
        Unreadable: unreadableCount === 0n ? "" : count(unreadableCount),
      }}
    />
  );
}
