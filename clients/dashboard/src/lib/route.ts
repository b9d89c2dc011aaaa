/** Which page is shown: `#/models`, `#/models/<key>`, `#/jobs`, `#/loader`, `#/health`. */
import { signal } from "@preact/signals";

export const PAGES = ["models", "jobs", "loader", "health"] as const;
export type PageName = (typeof PAGES)[number];

export interface Route {
  readonly page: PageName;
  /** What stands behind the page's name: the key of a model; "" for none. */
  readonly item: string;
}

function read(): Route {
  const [, name, item = ""] = /^#\/(\w+)(?:\/([\w-]+))?$/.exec(location.hash) ?? [];
  const page = PAGES.find((known) => known === name);
  return page === undefined ? { page: "models", item: "" } : { page, item };
}

export const route = signal<Route>(read());
addEventListener("hashchange", () => (route.value = read()));

export function address(page: PageName, item = ""): string {
  return item === "" ? `#/${page}` : `#/${page}/${item}`;
}

export function go(page: PageName, item = ""): void {
  location.hash = address(page, item);
}
