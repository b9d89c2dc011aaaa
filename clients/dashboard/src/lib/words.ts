/** Enums in words: the proto's own names, without the prefix that all values share. */
import type { DescEnum } from "@bufbuild/protobuf";

/** `word(ModelTypeSchema, ModelType.CONTROL_LORA)` is "control lora"; of an unset value "". */
export function word(schema: DescEnum, number: number): string {
  if (number === 0) return "";
  const value = schema.value[number];
  return value === undefined ? `${number}` : value.localName.toLowerCase().replaceAll("_", " ");
}

/** Number and word of every value but the unset one, in the proto's order. */
export function words(schema: DescEnum): Array<{ number: number; word: string }> {
  return schema.values.filter(({ number }) => number !== 0).map(({ number }) => ({ number, word: word(schema, number) }));
}

/** "CHECKSUM_MISMATCH" → "checksum mismatch". */
export function reasonWord(reason: string): string {
  return reason.toLowerCase().replaceAll("_", " ");
}
