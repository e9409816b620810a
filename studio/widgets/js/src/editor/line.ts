import type { Operation, Segment, Timeline } from "../types";

/** Blocks of a segment that nobody gave a length. */
export const SEGMENT_BLOCKS = 7;

/** The block just past a segment; null where the video has no end. */
export function endOf(line: Timeline, i: number): number | null {
  return line.segments[i + 1]?.start ?? line.length;
}

/** Index of the segment in force at a block. */
export function indexAt(line: Timeline, block: number): number {
  let low = 0;
  let high = line.segments.length;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if ((line.segments[middle]?.start ?? 0) <= block) low = middle;
    else high = middle;
  }
  return low;
}

interface Span {
  segment: Segment;
  /** Null for one that goes on for ever. */
  blocks: number | null;
}

function spansOf(line: Timeline): Span[] {
  return line.segments.map((segment, i) => {
    const end = endOf(line, i);
    return { segment, blocks: end === null ? null : end - segment.start };
  });
}

function lay(line: Timeline, spans: Span[], markers = line.markers): Timeline {
  let start = 0;
  const segments = spans.map(({ segment, blocks }) => {
    const placed = { ...segment, start };
    start += blocks ?? SEGMENT_BLOCKS;
    return placed;
  });
  return { ...line, segments, length: line.length === null ? null : start, markers };
}

/**
 * What a drag shows before it ends: the timeline after an operation, or null where that makes no sense.
 *
 * The kernel applies every operation itself; this covers those that are dragged, so that they follow the pointer.
 */
export function preview(line: Timeline, operation: Operation): Timeline | null {
  switch (operation.op) {
    case "resize":
      return resized(line, operation.segment_index as number, operation.edge as Edge, operation.to as number, operation.ripple === true);
    case "reorder":
      return reordered(line, operation.segments as number[], operation.to as number);
    case "move mark":
      return remarked(line, operation.at as number, operation.to as number);
    case "length":
      return (operation.length as number) > (line.segments.at(-1)?.start ?? 0) ? { ...line, length: operation.length as number } : null;
    case "batch":
      return (operation.operations as Operation[]).reduce<Timeline | null>((after, each) => after && preview(after, each), line);
    default:
      return null;
  }
}

export type Edge = "start" | "end";

function moved(line: Timeline, i: number, start: number): Timeline | null {
  const end = endOf(line, i);
  const low = (line.segments[i - 1]?.start ?? -1) + 1;
  if (i === 0 ? start !== 0 : start < low || (end !== null && start >= end)) return null;
  return { ...line, segments: line.segments.map((segment, at) => (at === i ? { ...segment, start } : segment)) };
}

function resized(line: Timeline, i: number, edge: Edge, to: number, ripple: boolean): Timeline | null {
  const start = line.segments[i]?.start;
  if (start === undefined) return null;
  const end = endOf(line, i);
  const ends = (length: number) => (length > start ? { ...line, length } : null);
  if (!ripple) {
    if (edge === "start") return moved(line, i, to);
    return i + 1 < line.segments.length ? moved(line, i + 1, to) : ends(to);
  }
  if (end === null) return edge === "end" ? ends(to) : null;
  const by = edge === "end" ? to - end : start - to;
  const spans = spansOf(line);
  const span = spans[i] as Span;
  if ((span.blocks ?? 0) + by < 1) return null;
  spans[i] = { ...span, blocks: (span.blocks ?? 0) + by };
  return lay(line, spans, shifted(line, (block) => (block >= end ? block + by : Math.min(block, end + by))));
}

function shifted(line: Timeline, move: (block: number) => number): Timeline["markers"] {
  const found = new Map<number, Timeline["markers"][number]>();
  for (const marker of line.markers) {
    const block = move(marker.block);
    if (!found.has(block)) found.set(block, { ...marker, block });
  }
  return [...found.values()].sort((a, b) => a.block - b.block);
}

function reordered(line: Timeline, segments: number[], to: number): Timeline {
  const spans = spansOf(line);
  const chosen = new Set(segments);
  const rest = (from: number, until: number) => spans.filter((_, i) => i >= from && i < until && !chosen.has(i));
  return lay(line, [...rest(0, to), ...spans.filter((_, i) => chosen.has(i)), ...rest(to, spans.length)]);
}

/** Where the segments stand that an operation gives another place in the order; null for any other operation. */
export function places(line: Timeline, operation: Operation): number[] | null {
  if (operation.op !== "reorder") return null;
  const chosen = operation.segments as number[];
  const before = line.segments.filter((_, i) => i < (operation.to as number) && !chosen.includes(i)).length;
  return chosen.map((_, i) => before + i);
}

function remarked(line: Timeline, at: number, to: number): Timeline | null {
  if (to < 0 || (to !== at && line.markers.some((marker) => marker.block === to))) return null;
  const markers = line.markers.map((marker) => (marker.block === at ? { ...marker, block: to } : marker));
  return { ...line, markers: markers.sort((a, b) => a.block - b.block) };
}
