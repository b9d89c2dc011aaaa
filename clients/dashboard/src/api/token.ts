/**
 * The token that calls are made with.
 *
 * `modelkeep up` prints the page's address with `#token=…`. What stands behind the # is never sent to a server; it is
 * taken out of the address at once, so that it is in no history and no screenshot, and kept for this tab alone.
 */
const KEY = "modelkeep.token";

/** Takes the token out of the address, and keeps it until the tab is closed; answers whether there was one. */
export function takeToken(): boolean {
  const given = /^#token=([\x21-\x7e]+)$/.exec(location.hash)?.[1];
  if (given === undefined) return false;
  sessionStorage.setItem(KEY, decodeURIComponent(given));
  history.replaceState(null, "", `${location.pathname}${location.search}`);
  return true;
}

/** The token, or null where the page may only look. */
export function token(): string | null {
  return sessionStorage.getItem(KEY);
}

/** Whether the page may do more than look, as far as it can know by itself. */
export function canAct(): boolean {
  return token() !== null;
}
