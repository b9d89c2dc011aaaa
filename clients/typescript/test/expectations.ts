// What a conformance case expects, and whether an answer is so.

import type { JsonValue } from "@bufbuild/protobuf";

/** Stands in an expected answer for any value but the default. */
const SET = "${*}";

/** What a case says, with the values of its variables. */
export function fill(value: JsonValue, variables: ReadonlyMap<string, string>): JsonValue {
  if (typeof value === "string") {
    return value.replace(/\$\{([A-Z_]+)\}/g, (_, name: string) => {
      const found = variables.get(name);
      if (found === undefined) throw new Error(`no earlier case has kept ${name}`);
      return found;
    });
  }
  if (Array.isArray(value)) return value.map((inner) => fill(inner, variables));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, fill(inner, variables)]));
}

/** Throws, and says where, if an answer is not as a case says where the case says something. */
export function compare(expected: JsonValue, found: JsonValue | undefined, where: string): void {
  if (expected === SET) {
    const isEmpty = typeof found === "object" && found !== null && Object.keys(found).length === 0;
    if (!found || isEmpty) throw new Error(`${where} is not set`);
  } else if (Array.isArray(expected)) {
    const list = Array.isArray(found) ? found : [];
    if (list.length !== expected.length) throw new Error(`${where} has ${list.length} entries: ${JSON.stringify(list)}`);
    expected.forEach((value, place) => compare(value, list[place], `${where}.${place}`));
  } else if (expected !== null && typeof expected === "object") {
    if (!found || typeof found !== "object" || Array.isArray(found)) throw new Error(`${where} is ${JSON.stringify(found)}`);
    for (const [name, value] of Object.entries(expected)) compare(value, found[name], `${where}.${name}`);
  } else if ((found ?? null) !== expected) {
    throw new Error(`${where} is ${JSON.stringify(found)}, not ${JSON.stringify(expected)}`);
  }
}

/** The text at a path such as "models.0.key". */
export function textAt(answer: JsonValue | undefined, path: string): string {
  for (const step of path.split(".")) answer = (answer as Record<string, JsonValue> | undefined)?.[step];
  if (typeof answer !== "string") throw new Error(`${path} is no text`);
  return answer;
}
