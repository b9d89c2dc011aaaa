/** A button that calls a service: off while the call is under way, and where there is no token. */
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { canAct } from "../api/token";
import { attempt } from "./notices";

interface Props {
  readonly run: () => Promise<unknown>;
  /** What is said when it went well. */
  readonly done?: string;
  readonly kind?: "primary" | "danger" | "quiet";
  /** What the button does, where its text alone does not say of what. */
  readonly label?: string;
  readonly disabled?: boolean;
  readonly children: ComponentChildren;
}

export function Action({ run, done, kind, label, disabled = false, children }: Props) {
  const [busy, setBusy] = useState(false);
  const click = async () => {
    setBusy(true);
    await attempt(run, done);
    setBusy(false);
  };
  return (
    <button
      type="button"
      class={kind}
      aria-label={label}
      disabled={busy || disabled || !canAct()}
      onClick={() => void click()}
    >
      {children}
    </button>
  );
}
