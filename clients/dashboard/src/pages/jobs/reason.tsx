/** Why something waits, failed, or was not done. */
import type { JobError } from "@modelkeep/client/gen/modelkeep/server/v1/job_pb";
import { now } from "../../lib/clock";
import { duration, secondsSince } from "../../lib/format";
import { reasonWord } from "../../lib/words";

export function Reason({ error }: { error: JobError }) {
  const wait = error.retryTime === undefined ? 0 : -secondsSince(error.retryTime, now.value);
  return (
    <p class="reason">
      <b>{reasonWord(error.reason || error.code)}</b>: {error.message}
      {wait > 0 && <span class="hint"> Again in {duration(wait)}.</span>}
    </p>
  );
}
