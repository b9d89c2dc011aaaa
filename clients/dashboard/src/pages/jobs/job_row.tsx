/** One install or download. */
import { useState } from "preact/hooks";
import type { Progress } from "@modelkeep/client/gen/modelkeep/server/v1/job_pb";
import { canAct } from "../../api/token";
import { bytes, duration } from "../../lib/format";
import { address } from "../../lib/route";
import { Action } from "../../ui/action";
import { Bar } from "../../ui/bar";
import { attempt } from "../../ui/notices";
import { type Job, secondsLeft } from "./job";
import { Reason } from "./reason";
import { needsSecrets, SecretsDialog } from "./secrets_dialog";

export function JobRow({ job }: { job: Job }) {
  const { title, source, state, progress, error, group } = job;
  const total = progress?.bytesTotal;
  return (
    <li class={`job ${job.tone}`}>
      <div class="heading">
        <span class="name">
          {job.modelKey === "" ? title : <a href={address("models", job.modelKey)}>{title}</a>}
        </span>
        <span class={`tag ${job.tone}`}>{state}</span>
      </div>
      <p class="hint path">{source}</p>
      {group !== "ended" && (
        <>
          <Bar
            label={`Progress of ${title}`}
            done={Number(progress?.bytesDone ?? 0n)}
            total={total === undefined ? undefined : Number(total)}
            tone={job.tone}
          />
          <p class="hint numbers">{numbers(progress, group === "going")}</p>
        </>
      )}
      {error !== undefined && <Reason error={error} />}
      <JobButtons job={job} />
    </li>
  );
}

/** "1.2 GiB of 4.0 GiB · 30.1 MiB/s · 1 min 35 s left" */
function numbers(progress: Progress | undefined, moves: boolean): string {
  if (progress === undefined) return "";
  const { bytesDone, bytesTotal, bytesPerSecond } = progress;
  const parts = [bytesTotal === undefined ? bytes(bytesDone) : `${bytes(bytesDone)} of ${bytes(bytesTotal)}`];
  const left = secondsLeft(progress);
  if (moves && bytesPerSecond > 0n) parts.push(`${bytes(bytesPerSecond)}/s`);
  if (moves && left !== undefined) parts.push(`${duration(left)} left`);
  return parts.join(" · ");
}

function JobButtons({ job }: { job: Job }) {
  const [asks, setAsks] = useState<"resume" | "retry" | undefined>();
  const { pause, resume, retry, cancel, forget } = job.actions;
  const again = (name: "resume" | "retry", run: NonNullable<typeof resume>) =>
    needsSecrets(job.error) ? (
      <button type="button" disabled={!canAct()} onClick={() => setAsks(name)}>
        {name === "resume" ? "Resume …" : "Retry …"}
      </button>
    ) : (
      <Action run={() => run({})} label={`${name === "resume" ? "Resume" : "Retry"} ${job.title}`}>
        {name === "resume" ? "Resume" : "Retry"}
      </Action>
    );
  const secretly = asks === "resume" ? resume : asks === "retry" ? retry : undefined;
  return (
    <div class="actions">
      {pause && <Action run={pause} label={`Pause ${job.title}`}>Pause</Action>}
      {resume && again("resume", resume)}
      {retry && again("retry", retry)}
      {cancel && <Action run={cancel} kind="danger" label={`Cancel ${job.title}`}>Cancel</Action>}
      {forget && <Action run={forget} label={`Forget ${job.title}`}>Forget</Action>}
      <Priority job={job} />
      {secretly && <SecretsDialog job={job} run={secretly} onClose={() => setAsks(undefined)} />}
    </div>
  );
}

const PRIORITIES = [
  { priority: 1, text: "first" },
  { priority: 10, text: "normal" },
  { priority: 20, text: "later" },
];

function Priority({ job }: { job: Job }) {
  const { setPriority } = job.actions;
  const { priority } = job;
  if (setPriority === undefined || priority === undefined) return null;
  const known = PRIORITIES.some((choice) => choice.priority === priority);
  return (
    <select
      aria-label={`Priority of ${job.title}`}
      disabled={!canAct()}
      value={priority}
      onChange={(event) => void attempt(() => setPriority(Number(event.currentTarget.value)))}
    >
      {!known && <option value={priority}>priority {priority}</option>}
      {PRIORITIES.map((choice) => (
        <option key={choice.priority} value={choice.priority}>
          {choice.text}
        </option>
      ))}
    </select>
  );
}
