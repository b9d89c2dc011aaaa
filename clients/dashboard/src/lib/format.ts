/** Numbers as people read them. Wire integers of 64 bits come as bigint; sizes stay below 2^53. */

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** 1536 → "1.5 KiB". */
export function bytes(count: bigint | number): string {
  let value = Number(count);
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 ? 0 : 1;
  return `${value.toFixed(digits)} ${UNITS[unit] ?? ""}`;
}

/** 12345 → "12,345". */
export function count(number: bigint | number): string {
  return number.toLocaleString("en-GB");
}

/** "1 file", "2 files". */
export function counted(number: bigint | number, one: string, many = `${one}s`): string {
  return `${count(number)} ${Number(number) === 1 ? one : many}`;
}

/** 3725 → "1 h 2 min"; the two greatest units. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3600)} h`;
}

interface Timestamp {
  readonly seconds: bigint;
  readonly nanos: number;
}

/** Milliseconds since 1970 of a wire time. */
export function milliseconds(time: Timestamp): number {
  return Number(time.seconds) * 1000 + time.nanos / 1e6;
}

/** A wire time in the reader's own zone, to the second; "–" where there is none. */
export function moment(time: Timestamp | undefined): string {
  if (time === undefined) return "–";
  return new Date(milliseconds(time)).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });
}

/** Seconds from `time` to `now`; negative for what is still to come. */
export function secondsSince(time: Timestamp, now: number): number {
  return (now - milliseconds(time)) / 1000;
}
