/**
 * What a service tells of, kept up to date by its watch.
 *
 * A feed runs while somebody looks at it (`hold`) and the tab is visible, in turns with those of other tabs. Its items
 * stay when it rests.
 */
import { type ReadonlySignal, signal } from "@preact/signals";
import { Collection, ModelkeepError, reopened, type StreamOptions, type WatchFrame } from "@modelkeep/client";
import { inTurns } from "./turns";

/** How a feed does. */
export type FeedState =
  /** Nobody looks, or nothing has come yet. */
  | { readonly kind: "waiting" }
  | { readonly kind: "live" }
  /** The service does not answer; it is asked again and again. `since` is in milliseconds. */
  | { readonly kind: "away"; readonly since: number }
  /** The service answers that this caller may not look. */
  | { readonly kind: "refused"; readonly message: string };

/** A part of a list. */
export interface Page<Item> {
  readonly items: ReadonlyArray<readonly [id: string, item: Item]>;
  /** Where to watch from once all pages are there; of one page at least. */
  readonly resumeToken: string;
}

/** How a feed asks its service. */
export interface Source<Item> {
  /**
   * Lists what there is. Then the watch begins where the list was read, and goes on from its last place after a rest;
   * without a list it begins with a snapshot each time.
   */
  readonly pages?: (signal: AbortSignal | undefined) => AsyncIterable<Page<Item>>;
  readonly watch: (resumeToken: string, options: StreamOptions) => AsyncIterable<WatchFrame<Item>>;
}

/** How long a tab may be hidden before its watches rest. */
const HIDDEN_MS = 5_000;
/** However much comes in so long, the page is drawn once. */
const DRAW_MS = 100;

export class Feed<Item> {
  readonly #collection = new Collection<Item>();
  readonly #version = signal(0);
  readonly #state = signal<FeedState>({ kind: "waiting" });
  readonly #loaded = signal(false);
  #resumeToken = "";
  #holders = 0;
  #running: AbortController | undefined;
  #drawing = false;
  /** Whether all that there is has been told of in this turn, or that the service is away. */
  #caughtUp = false;

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

  /** The items by key or id. The map is one and the same: who reads it is told when it changes. */
  get items(): ReadonlyMap<string, Item> {
    void this.#version.value;
    return this.#collection.items;
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
    void inTurns(this.#running.signal, (turn) => this.#follow(turn), () => this.#caughtUp);
  }

  #rest(): void {
    this.#running?.abort();
    this.#running = undefined;
    this.#state.value = { kind: "waiting" };
  }

  async #follow(signal: AbortSignal): Promise<void> {
    // A page waits for as long as it is open: what is away comes back.
    const options = { signal, patienceMs: Number.POSITIVE_INFINITY };
    this.#caughtUp = false;
    try {
      if (this.source.pages !== undefined && this.#resumeToken === "") await this.#list(this.source.pages, options);
      // A snapshot that a rest has cut off counts for nothing: what it named may be gone since.
      let restarted = this.#resumeToken === "";
      for await (const frame of this.source.watch(this.#resumeToken, options)) {
        if (frame.awayMs !== undefined) this.#tellAway(frame.awayMs);
        else {
          this.#take(restarted ? { ...frame, restarted } : frame);
          restarted = false;
        }
      }
    } catch (thrown) {
      if (!signal.aborted) this.#state.value = { kind: "refused", message: ModelkeepError.from(thrown).rawMessage };
    }
  }

  /** Reads every page; what is not in any of them is no more. */
  async #list(pages: NonNullable<Source<Item>["pages"]>, options: StreamOptions): Promise<void> {
    const { items } = this.#collection;
    let seen = new Set<string>();
    let resumeToken = "";
    const open = (call: { signal?: AbortSignal | undefined }) => {
      seen = new Set();
      resumeToken = "";
      return pages(call.signal);
    };
    for await (const page of reopened(open, options, undefined, true)) {
      if ("awayMs" in page) {
        this.#tellAway(page.awayMs);
        continue;
      }
      resumeToken ||= page.resumeToken;
      for (const [id, item] of page.items) {
        seen.add(id);
        items.set(id, item);
      }
      this.#redraw();
    }
    if (options.signal?.aborted) return;
    for (const id of items.keys()) if (!seen.has(id)) items.delete(id);
    this.#resumeToken = resumeToken;
    this.#loaded.value = true;
    this.#redraw();
  }

  #take(frame: WatchFrame<Item>): void {
    this.#collection.apply(frame);
    if (this.source.pages !== undefined) this.#resumeToken = frame.resumeToken;
    if (this.#collection.complete) this.#loaded.value = true;
    if (frame.phase === "live" || frame.snapshotComplete) this.#caughtUp = true;
    if (this.#state.peek().kind !== "live") this.#state.value = { kind: "live" };
    if (frame.events.length > 0 || frame.snapshotComplete) this.#redraw();
  }

  #tellAway(awayMs: number): void {
    this.#caughtUp = true;
    // A turn counts from its own beginning: the service was away in the one before as well.
    if (this.#state.peek().kind !== "away") this.#state.value = { kind: "away", since: Date.now() - awayMs };
  }

  #redraw(): void {
    if (this.#drawing) return;
    this.#drawing = true;
    setTimeout(() => {
      this.#drawing = false;
      this.#version.value += 1;
    }, DRAW_MS);
  }
}
