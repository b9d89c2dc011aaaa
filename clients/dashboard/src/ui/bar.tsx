/** How far something is. */

interface Props {
  readonly label: string;
  readonly done: number;
  /** Undefined while nobody knows. */
  readonly total: number | undefined;
  readonly tone: "going" | "still" | "good" | "bad";
}

export function Bar({ label, done, total, tone }: Props) {
  const share = total === undefined ? 0 : total === 0 ? 1 : Math.min(1, done / total);
  const percent = Math.floor(share * 100);
  const known = total === undefined ? {} : { "aria-valuenow": percent };
  return (
    <div
      class={`bar ${tone}${total === undefined ? " unknown" : ""}`}
      role="progressbar"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={100}
      {...known}
    >
      <span style={{ width: `${share * 100}%` }} />
    </div>
  );
}
