/** Keys that do something on the page that is shown. */
import { signal } from "@preact/signals";
import { useLayoutEffect } from "preact/hooks";

interface Shortcut {
  readonly key: string;
  /** What it does, for the list that `?` shows. */
  readonly does: string;
  readonly run: () => void;
}

/** Those that work now; the ones of the page that came last go first. */
export const shortcuts = signal<readonly Shortcut[]>([]);

/** A key works for as long as the component is there. */
export function useShortcut(key: string, does: string, run: () => void): void {
  useLayoutEffect(() => {
    const shortcut = { key, does, run };
    shortcuts.value = [shortcut, ...shortcuts.peek()];
    return () => {
      shortcuts.value = shortcuts.peek().filter((other) => other !== shortcut);
    };
  }, [key]);
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const target = event.target as HTMLElement;
  // Who writes means the letter, and who answers a question the question.
  if (target.matches("input:not([type=checkbox], [type=radio]), textarea, select") || target.closest("dialog")) return;
  const shortcut = shortcuts.peek().find(({ key }) => key === event.key);
  if (shortcut === undefined) return;
  event.preventDefault();
  shortcut.run();
});
