/** What a reader fills in, with its name. */
import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";

interface Props {
  readonly label: string;
  readonly value: string;
  readonly onInput: (value: string) => void;
  readonly hint?: string;
  /** More than one line. */
  readonly rows?: number;
  /** Whether nobody shall read it over the writer's shoulder. */
  readonly secret?: boolean;
}

export function Field({ label, value, onInput, hint, rows, secret = false }: Props) {
  const id = useId();
  const shared = {
    id,
    value,
    spellcheck: false,
    autocomplete: "off",
    "aria-describedby": hint === undefined ? undefined : `${id}-hint`,
    onInput: (event: { currentTarget: { value: string } }) => onInput(event.currentTarget.value),
  };
  return (
    <div class="field">
      <label for={id}>{label}</label>
      {rows !== undefined && <textarea rows={rows} {...shared} />}
      {rows === undefined && (secret ? <input type="password" {...shared} /> : <input type="text" {...shared} />)}
      {hint !== undefined && (
        <span class="hint" id={`${id}-hint`}>
          {hint}
        </span>
      )}
    </div>
  );
}

interface CheckProps {
  readonly checked: boolean;
  readonly onChange: (checked: boolean) => void;
  readonly children: ComponentChildren;
}

/** Something to say yes to. */
export function Check({ checked, onChange, children }: CheckProps) {
  return (
    <label class="check">
      <input type="checkbox" checked={checked} onChange={(event) => onChange(event.currentTarget.checked)} />
      {children}
    </label>
  );
}
