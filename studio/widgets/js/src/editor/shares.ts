import type { Segment, Timeline } from "../types";
import { endOf, indexAt } from "./line";

/** Prompts and their shares, which add up to 1. */
export type Shares = Map<string, number>;

/** The prompts of a segment and their shares; equal prompts are one, those of weight 0 none. */
export function partsOf(segment: Segment): Shares {
  const found: Shares = new Map();
  let total = 0;
  for (const { prompt, weight } of [{ prompt: segment.prompt, weight: segment.weight ?? 1 }, ...(segment.blend ?? [])]) {
    if (weight <= 0) continue;
    found.set(prompt, (found.get(prompt) ?? 0) + weight);
    total += weight;
  }
  for (const [prompt, weight] of found) found.set(prompt, weight / total);
  return found;
}

/** Blocks at the beginning of a segment in which the one before is still mixed in. */
export function mixedBlocks(line: Timeline, i: number): number {
  return i > 0 ? (line.segments[i]?.transition?.blocks ?? 0) : 0;
}

/** The share of every prompt at a block, through blends and transitions; on a sphere it is the share of the way. */
export function sharesAt(line: Timeline, block: number): Shares {
  let i = indexAt(line, block);
  const folds: [Shares, number][] = [];
  for (;;) {
    const segment = line.segments[i];
    if (segment === undefined) return new Map();
    const mixed = mixedBlocks(line, i);
    const done = block - segment.start;
    if (done >= mixed) return folds.reduceRight((under, [parts, share]) => folded(under, parts, share), partsOf(segment));
    folds.push([partsOf(segment), (done + 1) / (mixed + 1)]);
    block = segment.start - 1;
    i--;
  }
}

function folded(under: Shares, parts: Shares, share: number): Shares {
  const found: Shares = new Map([...under].map(([prompt, weight]) => [prompt, weight * (1 - share)]));
  for (const [prompt, weight] of parts) found.set(prompt, (found.get(prompt) ?? 0) + weight * share);
  return found;
}

/** A stretch of blocks over which the shares stay the same. */
export interface Run {
  from: number;
  /** Block just past it; null for no end. */
  to: number | null;
  shares: Shares;
}

/** The shares over a stretch of blocks: one run a mixed block, one for the rest of a segment. */
export function runs(line: Timeline, from: number, to: number): Run[] {
  const found: Run[] = [];
  for (let i = indexAt(line, from); i < line.segments.length; i++) {
    const start = line.segments[i]?.start ?? 0;
    if (start >= to) break;
    const end = endOf(line, i);
    const settled = Math.min(start + mixedBlocks(line, i), end ?? Infinity);
    for (let block = Math.max(start, from); block < Math.min(settled, to); block++) {
      found.push({ from: block, to: block + 1, shares: sharesAt(line, block) });
    }
    if (settled < (end ?? Infinity) && settled < to && (end === null || end > from)) {
      found.push({ from: settled, to: end, shares: sharesAt(line, settled) });
    }
  }
  return found;
}

/** Shares as people read them: the largest first, as "60 % a fox, 40 % a hare". */
export function spelled(shares: Shares, most = 3): string {
  const sorted = [...shares].sort((a, b) => b[1] - a[1]);
  if (sorted.length === 1) return sorted[0]?.[0] ?? "";
  const shown = sorted.slice(0, most).map(([prompt, share]) => `${Math.round(share * 100)} % ${prompt}`);
  return [...shown, ...(sorted.length > most ? [`and ${sorted.length - most} more`] : [])].join(", ");
}
