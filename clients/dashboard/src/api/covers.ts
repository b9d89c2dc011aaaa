/**
 * Pictures that stand for models.
 *
 * Ten thousand models may have ten thousand pictures of a megabyte: lists show small ones, made here, of which the last
 * few are kept; two at a time are fetched, those asked for last first, since a reader who scrolls is past the others.
 */
import { suite } from "./suite";

const AT_ONCE = 2;
const KEPT = 200;
/** Pixels of a small picture, either way; enough for 44 on a fine screen. */
const SIDE = 96;
/** The largest picture that RecordService takes. */
const MOST_BYTES = 1 << 20;
/** A larger one is made so small that it should be one. */
const MOST_PIXELS = 1024;

/** Addresses of small pictures by SHA-256, the one that was asked for last at the end. */
const kept = new Map<string, string>();
const waiting: Array<() => void> = [];
let fetching = 0;

/** Address of a model's picture, made small. What is drawn by it stays when the address is no longer kept. */
export async function smallCover(key: string, sha256: string, signal: AbortSignal): Promise<string> {
  const known = kept.get(sha256);
  if (known !== undefined) return renewed(sha256, known);
  await turn(signal);
  try {
    // Two models may have one picture, and the other was first.
    const made = kept.get(sha256);
    if (made !== undefined) return renewed(sha256, made);
    const small = await drawn(await cover(key, signal), (width, height) => {
      const part = Math.min(width, height);
      return { part: [(width - part) / 2, (height - part) / 2, part, part], size: [SIDE, SIDE] };
    });
    return renewed(sha256, URL.createObjectURL(small));
  } finally {
    fetching -= 1;
    waiting.pop()?.();
  }
}

/** A model's picture as it is. */
export async function cover(key: string, signal: AbortSignal): Promise<Blob> {
  const { image, coverImage } = await suite.records.getCoverImage({ key }, { signal });
  return new Blob([new Uint8Array(image)], { type: coverImage?.mediaType ?? "" });
}

/** Gives a model a picture; one that is too large for the service is made smaller. */
export async function setCover(key: string, file: Blob): Promise<void> {
  const fits = file.size <= MOST_BYTES;
  const picture = fits ? file : await drawn(file, (width, height) => {
    const scale = Math.min(1, MOST_PIXELS / Math.max(width, height));
    const size = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))] as const;
    return { part: [0, 0, width, height], size };
  });
  await suite.records.setCoverImage({ key, image: new Uint8Array(await picture.arrayBuffer()) });
}

/** Waits until fewer than `AT_ONCE` are fetched. */
async function turn(signal: AbortSignal): Promise<void> {
  while (fetching >= AT_ONCE) {
    await new Promise<void>((resolve) => waiting.push(resolve));
    if (signal.aborted) {
      waiting.pop()?.();
      signal.throwIfAborted();
    }
  }
  fetching += 1;
}

function renewed(sha256: string, url: string): string {
  kept.delete(sha256);
  kept.set(sha256, url);
  for (const [oldest, address] of kept) {
    if (kept.size <= KEPT) break;
    kept.delete(oldest);
    URL.revokeObjectURL(address);
  }
  return url;
}

interface Drawing {
  /** Left, top, width and height of what is taken of the picture. */
  readonly part: readonly [number, number, number, number];
  readonly size: readonly [width: number, height: number];
}

/** A part of a picture in another size. */
async function drawn(picture: Blob, how: (width: number, height: number) => Drawing): Promise<Blob> {
  const bitmap = await createImageBitmap(picture);
  try {
    const { part, size } = how(bitmap.width, bitmap.height);
    const canvas = new OffscreenCanvas(...size);
    canvas.getContext("2d")?.drawImage(bitmap, ...part, 0, 0, ...size);
    return await canvas.convertToBlob({ type: "image/webp", quality: 0.85 });
  } finally {
    bitmap.close();
  }
}
