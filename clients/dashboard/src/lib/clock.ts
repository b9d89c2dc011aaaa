/** The time, for what shows ages and waits: moves on once a second. */
import { signal } from "@preact/signals";

export const now = signal(Date.now());
setInterval(() => (now.value = Date.now()), 1000);
