import type { Range } from "./playback";

/** Ending and label of what can be written; pictures go into a folder, without an ending. */
export const FORMATS: readonly [string, string][] = [
  ["mp4", "MP4 film"],
  ["webm", "WebM film"],
  ["gif", "GIF animation"],
  ["png", "PNG frames, a folder"],
  ["safetensors", "latents, safetensors"],
];

const ENDINGS = /\.(mp4|webm|gif|safetensors)$/i;

/** A name with the ending of a format in the place of another's. */
export function withEnding(name: string, format: string): string {
  const stem = name.trim().replace(ENDINGS, "") || "video";
  return format === "png" ? stem : `${stem}.${format}`;
}

/** A file name made of the first words of a prompt. */
export function fileName(prompt: string): string {
  const words = prompt.toLowerCase().normalize("NFKD").match(/[\p{L}\p{N}]+/gu) ?? [];
  return words.slice(0, 5).join("_").slice(0, 60) || "video";
}

/** First frame and the one just past the last of a part. */
export function partOf(part: string, range: Range | null, made: number): [number, number] {
  if (part !== "range" || range === null) return [0, made];
  return [Math.min(range.from, Math.max(0, made - 1)), Math.min(range.to, made)];
}

/** A file cut into parts that fit a message. */
export function pieces(size: number, part: number): [number, number][] {
  const count = Math.max(1, Math.ceil(size / part));
  return Array.from({ length: count }, (_, i) => [i * part, Math.min(size, (i + 1) * part)]);
}

/** Why a file cannot be started from; null if it may be tried. */
export function unfit(file: { name: string; size: number; type: string }, most: number): string | null {
  if (file.size === 0) return `“${file.name}” is empty`;
  if (file.size > most) return `“${file.name}” is larger than ${Math.round(most / 2 ** 20)} MiB; cut the clip first`;
  if (file.type !== "" && !/^(image|video)\//.test(file.type)) return `“${file.name}” is no image or clip`;
  return null;
}
