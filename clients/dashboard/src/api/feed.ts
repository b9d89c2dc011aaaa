/**
 * What a service tells of, kept up to date: a list first, then its watch from where the list ended.
 *
 * A feed runs while somebody looks at it (`hold`) and the tab is visible: a browser has six connections for one
 * origin, and each watch takes one. Its items and its place stay when it rests, so that it goes on from there.
 */
import { type ReadonlySignal, signal } from "@preact/signals";
import { Backoff, ModelkeepError, sleep } from "@modelkeep/client";
import { Code } from "@connectrpc/connect";

/** How a feed does. */
export type FeedState =
  /** Nobody looks, or nothing has come yet. */
  | { readonly kind: "waiting" }
  | { readonly kind: "live" }
  /** The service does not answer; it is asked again and again. `since` is in milliseconds. */
  | { readonly kind: "away"; readonly since: number; readonly message: string }
  /** The service answers that this caller may not look. */
  | { readonly kind: "refused"; readonly message: string };

/** One change of one item. A function makes the new item of the old one, where there is one. */
export type Change<Item> =
  | { readonly key: string; readonly put: Item }
  | { readonly key: string; readonly progress: (before: Item) => Item }
  | { readonly key: string; readonly removed: true };

export interface Frame<Item> {
  readonly resumeToken: string;
  readonly snapshotComplete: boolean;
  readonly changes: ReadonlyArray<Change<Item>>;
}

export interface Page<Item> {
  readonly items: ReadonlyArray<readonly [key: string, item: Item]>;
  readonly nextPageToken: string;
  /** On the first page: where to watch from once all pages are there. */
  readonly resumeToken: string;
}

/** How a feed asks its service. */
export interface Source<Item> {
  page(pageToken: string, signal: AbortSignal): Promise<Page<Item>>;
  watch(resumeToken: string, signal: AbortSignal): AsyncIterable<Frame<Item>>;
}

const LOST_PLACE: ReadonlySet<string> = new Set(["RESUME_TOKEN_EXPIRED", "RESUME_TOKEN_FOREIGN"]);
/** Longest silence of a watch that is believed: bookmarks come every 15 s. */
const SILENCE_MS = 40_000;
const DRAW_MS = 100;
/** How long a tab may be hidden before its watches rest. */
const HIDDEN_MS = 5_000;

export class Feed<Item> {
  readonly #items = new Map<string, Item>();
  readonly #version = signal(0);
  readonly #state = signal<FeedState>({ kind: "waiting" });
  readonly #loaded = signal(false);
  #resumeToken: string | undefined;
  #holders = 0;
  #running: AbortController | undefined;
  #drawing = false;

  constructor(private readonly source: Source<Item>) {
    let timer = 0;
    document.addEventListener("visibilitychange", () => {
      clearTimeout(timer);
      if (document.hidden) timer = window.setTimeout(() => this.#rest(), HIDDEN_MS);
      else this.#run();
    });
  }

  get state(): ReadonlySignal<FeedState> {
    return this.#state;
  }

  /** Whether all that there was has come at least once. */
  get loaded(): ReadonlySignal<boolean> {
    return this.#loaded;
  }

  /** The items by key. The map is one and the same: who reads it is told when it changes. */
  get items(): ReadonlyMap<string, Item> {
    void this.#version.value;
    return this.#items;
  }

  /** Moves on with every change of the items. */
  get version(): number {
    return this.#version.value;
  }

  /** Keeps the feed running until the function that is answered is called. */
  hold(): () => void {
    this.#holders += 1;
    this.#run();
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      this.#holders -= 1;
      if (this.#holders === 0) this.#rest();
    };
  }

  #run(): void {
    if (this.#holders === 0 || this.#running !== undefined || document.hidden) return;
    this.#running = new AbortController();
    void this.#follow(this.#running.signal);
  }

  #rest(): void {
    this.#running?.abort();
    this.#running = undefined;
    this.#state.value = { kind: "waiting" };
  }

  async #follow(signal: AbortSignal): Promise<void> {
    const backoff = new Backoff(300, 5_000);
    while (!signal.aborted) {
      let wait = 0;
      try {
        this.#resumeToken ??= await this.#list(signal);
        await this.#watch(this.#resumeToken, signal, () => backoff.reset());
        wait = backoff.next();
      } catch (thrown) {
        if (signal.aborted) return;
        const error = ModelkeepError.from(thrown);
        if (error.code === Code.Unauthenticated || error.code === Code.PermissionDenied) {
          this.#state.value = { kind: "refused", message: error.rawMessage };
          return;
        }
        wait = backoff.next(error.retryAfterMs);
        // The history does not reach back so far, or is another one since a restart: all is read anew.
        if (LOST_PLACE.has(error.reason)) this.#resumeToken = undefined;
        else if (error.reason !== "WATCHER_TOO_SLOW") this.#away(error.rawMessage);
      }
      await sleep(wait, signal).catch(() => undefined);
    }
  }

  #away(message: string): void {
    const before = this.#state.peek();
    const since = before.kind === "away" ? before.since : Date.now();
    this.#state.value = { kind: "away", since, message };
  }

  /** Reads every page; what is not in any of them is no more. */
  async #list(signal: AbortSignal): Promise<string> {
    const seen = new Set<string>();
    let token = "";
    let resumeToken = "";
    do {
      const page = await this.source.page(token, signal);
      resumeToken ||= page.resumeToken;
      for (const [key, item] of page.items) {
        seen.add(key);
        this.#items.set(key, item);
      }
      this.#redraw();
      token = page.nextPageToken;
    } while (token !== "");
    for (const key of this.#items.keys()) if (!seen.has(key)) this.#items.delete(key);
    this.#loaded.value = true;
    this.#redraw();
    return resumeToken;
  }

  async #watch(resumeToken: string, signal: AbortSignal, onFrame: () => void): Promise<void> {
    const stop = new AbortController();
    const both = AbortSignal.any([signal, stop.signal]);
    let silence = window.setTimeout(() => stop.abort(), SILENCE_MS);
    try {
      for await (const frame of this.source.watch(resumeToken, both)) {
        clearTimeout(silence);
        silence = window.setTimeout(() => stop.abort(), SILENCE_MS);
        onFrame();
        this.#apply(frame);
      }
    } finally {
      clearTimeout(silence);
    }
  }

  #apply(frame: Frame<Item>): void {
    for (const change of frame.changes) {
      if ("put" in change) this.#items.set(change.key, change.put);
      else if ("removed" in change) this.#items.delete(change.key);
      else {
        const before = this.#items.get(change.key);
        if (before !== undefined) this.#items.set(change.key, change.progress(before));
      }
    }
    if (frame.resumeToken !== "") this.#resumeToken = frame.resumeToken;
    if (frame.snapshotComplete) this.#loaded.value = true;
    if (this.#state.peek().kind !== "live") this.#state.value = { kind: "live" };
    if (frame.changes.length > 0) this.#redraw();
  }

  /** However much comes in a tenth of a second, the page is drawn once. */
  #redraw(): void {
    if (this.#drawing) return;
    this.#drawing = true;
    setTimeout(() => {
      this.#drawing = false;
      this.#version.value += 1;
    }, DRAW_MS);
  }
}
