/**
 * A question in front of the page: the browser's own dialog keeps the focus in it, and gives it back.
 *
 * What goes wrong with its answer is told in it, too: nothing behind it can be read or clicked.
 */
import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef } from "preact/hooks";
import { Notices } from "./notices";

interface Props {
  readonly title: string;
  readonly onClose: () => void;
  readonly children: ComponentChildren;
}

export function Dialog({ title, onClose, children }: Props) {
  const box = useRef<HTMLDialogElement>(null);
  const heading = useId();
  useEffect(() => box.current?.showModal(), []);
  return (
    <dialog ref={box} aria-labelledby={heading} onClose={onClose}>
      <header>
        <h2 id={heading}>{title}</h2>
        <button type="button" class="quiet" aria-label="Close" onClick={() => box.current?.close()}>
          ×
        </button>
      </header>
      {children}
      <Notices />
    </dialog>
  );
}
