/** Asks for what a job needs to go on: a token, or its address with what was secret in it. Neither is kept here. */
import { useState } from "preact/hooks";
import type { JobError } from "@modelkeep/client/gen/modelkeep/server/v1/job_pb";
import { Action } from "../../ui/action";
import { Dialog } from "../../ui/dialog";
import { Field } from "../../ui/field";
import type { Job, Secrets } from "./job";

const REASONS: ReadonlySet<string> = new Set(["TOKEN_REQUIRED", "TOKEN_REJECTED", "ADDRESS_EXPIRED"]);

export function needsSecrets(error: JobError | undefined): boolean {
  return error !== undefined && REASONS.has(error.reason);
}

interface Props {
  readonly job: Job;
  readonly run: (secrets: Secrets) => Promise<unknown>;
  readonly onClose: () => void;
}

export function SecretsDialog({ job, run, onClose }: Props) {
  const [accessToken, setAccessToken] = useState("");
  const [sourceUrl, setSourceUrl] = useState("");
  const go = async () => {
    await run({ accessToken, sourceUrl });
    onClose();
  };
  return (
    <Dialog title={`Go on with ${job.title}`} onClose={onClose}>
      <p>{job.error?.message}</p>
      <form class="fields" onSubmit={(event) => event.preventDefault()}>
        <Field label="Access token" secret value={accessToken} onInput={setAccessToken} />
        <Field label="Its address anew" hint="Where the address itself had the secret, or has run out." value={sourceUrl} onInput={setSourceUrl} />
      </form>
      <footer>
        <button type="button" onClick={onClose}>
          Cancel
        </button>
        <Action kind="primary" run={go} disabled={accessToken === "" && sourceUrl === ""}>
          Go on
        </Action>
      </footer>
    </Dialog>
  );
}
