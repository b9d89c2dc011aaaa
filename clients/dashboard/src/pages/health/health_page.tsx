/** How the four services do, as each says itself; asked every few seconds. */
import { useEffect, useState } from "preact/hooks";
import { SERVICES, type ServiceName } from "@modelkeep/client/web";
import type { GetServerInfoResponse } from "@modelkeep/client/gen/modelkeep/server/v1/server_service_pb";
import { serverInfo, suite } from "../../api/suite";
import { useAnswer } from "../../lib/answer";
import { now } from "../../lib/clock";
import { bytes, count, duration, secondsSince } from "../../lib/format";
import { Facts } from "../../ui/facts";

const EVERY_MS = 5_000;

const TITLES: Readonly<Record<ServiceName, string>> = {
  record: "RecordService",
  download: "DownloadService",
  install: "InstallService",
  loader: "LoaderService",
};

export function HealthPage() {
  const [round, setRound] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => document.hidden || setRound((last) => last + 1), EVERY_MS);
    return () => clearInterval(timer);
  }, []);
  return (
    <div class="page">
      <h2 class="title">Health</h2>
      <div class="services">
        {SERVICES.map((name) => (
          <ServiceCard key={name} name={name} round={round} />
        ))}
      </div>
    </div>
  );
}

function ServiceCard({ name, round }: { name: ServiceName; round: number }) {
  const { answer, error } = useAnswer((signal) => serverInfo(name, signal), `${round}`);
  const state = error !== undefined ? "away" : answer === undefined ? "asking" : "serving";
  return (
    <section class="service" aria-label={TITLES[name]}>
      <div class="section-head">
        <h2>{TITLES[name]}</h2>
        <span class={`tag ${state === "serving" ? "good" : state === "away" ? "bad" : ""}`} role="status">
          {state}
        </span>
      </div>
      {error !== undefined && <p class="reason">{error}</p>}
      {answer !== undefined && <ServerFacts info={answer} />}
      {name === "record" && <StoreFacts round={round} />}
    </section>
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

function StoreFacts({ round }: { round: number }) {
  const { answer } = useAnswer((signal) => suite.records.getStoreInfo({}, { signal }), `${round}`);
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
