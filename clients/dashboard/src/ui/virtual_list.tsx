/**
 * A list of any length: only the rows in sight, and some around them, are in the document.
 *
 * Rows have one height. Arrow keys, Page Up and Down, Home and End move the focus from row to row; the focused row is
 * always in the document.
 */
import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";

interface Props<Item> {
  readonly items: readonly Item[];
  readonly rowHeight: number;
  readonly label: string;
  readonly keyOf: (item: Item) => string;
  /** The row; its link or button is what the keys move to. */
  readonly row: (item: Item) => ComponentChildren;
}

/** Rows beyond the visible ones, either way. */
const MARGIN = 8;

export function VirtualList<Item>({ items, rowHeight, label, keyOf, row }: Props<Item>) {
  const box = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, height: 800 });
  const measure = () => {
    const element = box.current;
    if (element !== null) setView({ top: element.scrollTop, height: element.clientHeight });
  };
  useLayoutEffect(() => {
    measure();
    const observer = new ResizeObserver(measure);
    if (box.current !== null) observer.observe(box.current);
    return () => observer.disconnect();
  }, []);

  const first = Math.max(0, Math.floor(view.top / rowHeight) - MARGIN);
  const last = Math.min(items.length, Math.ceil((view.top + view.height) / rowHeight) + MARGIN);

  const focus = (index: number) => {
    const element = box.current;
    if (element === null) return;
    const to = Math.max(0, Math.min(items.length - 1, index));
    const [top, bottom] = [to * rowHeight, (to + 1) * rowHeight];
    if (top < element.scrollTop) element.scrollTop = top;
    if (bottom > element.scrollTop + element.clientHeight) element.scrollTop = bottom - element.clientHeight;
    measure();
    requestAnimationFrame(() => element.querySelector<HTMLElement>(`[data-row="${to}"] :is(a, button)`)?.focus());
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const at = (event.target as Element).closest<HTMLElement>("[data-row]");
    if (at === null) return;
    const index = Number(at.dataset["row"]);
    const page = Math.max(1, Math.floor(view.height / rowHeight) - 1);
    const to = { ArrowDown: index + 1, ArrowUp: index - 1, PageDown: index + page, PageUp: index - page, Home: 0, End: items.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    focus(to);
  };

  return (
    <div ref={box} class="virtual" onScroll={measure} onKeyDown={onKeyDown}>
      <ul aria-label={label} style={{ height: `${items.length * rowHeight}px` }}>
        {items.slice(first, last).map((item, offset) => (
          <li
            key={keyOf(item)}
            data-row={first + offset}
            aria-setsize={items.length}
            aria-posinset={first + offset + 1}
            style={{ top: `${(first + offset) * rowHeight}px`, height: `${rowHeight}px` }}
          >
            {row(item)}
          </li>
        ))}
      </ul>
    </div>
  );
}
