/** What went wrong or well with what the reader did last, at the bottom of the page. */
import { signal } from "@preact/signals";
import { ModelkeepError } from "@modelkeep/client";

interface Notice {
  readonly id: number;
  readonly kind: "error" | "done";
  readonly text: string;
  readonly remedy: string;
}

const notices = signal<readonly Notice[]>([]);
let last = 0;

function show(kind: Notice["kind"], text: string, remedy = ""): void {
  const id = ++last;
  notices.value = [...notices.value.slice(-2), { id, kind, text, remedy }];
  if (kind === "done") setTimeout(() => dismiss(id), 4000);
}

function dismiss(id: number): void {
  notices.value = notices.value.filter((notice) => notice.id !== id);
}

export function tellDone(text: string): void {
  show("done", text);
}

export function tellError(thrown: unknown): void {
  const error = ModelkeepError.from(thrown);
  // The remedy is for whoever calls by hand; a page without a token has one way only.
  show("error", error.rawMessage, error.remedy);
}

/** Does something that may fail, and tells of it; answers whether it went well. */
export async function attempt(work: () => Promise<unknown>, done?: string): Promise<boolean> {
  try {
    await work();
  } catch (error) {
    tellError(error);
    return false;
  }
  if (done !== undefined) tellDone(done);
  return true;
}

export function Notices() {
  return (
    <div class="notices" role="status" aria-live="polite">
      {notices.value.map(({ id, kind, text, remedy }) => (
        <div key={id} class={`notice ${kind}`}>
          <p>
            {text}
            {remedy !== "" && <span class="remedy">{remedy}</span>}
          </p>
          <button type="button" class="quiet" aria-label="Dismiss" onClick={() => dismiss(id)}>
            ×
          </button>
        </div>
      ))}
    </div>
  );
}
