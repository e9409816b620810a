import type { Operation, Timeline } from "../types";
import { endOf, indexAt, type Edge } from "./line";
import { runsOf } from "./selection";
import { mixedBlocks } from "./shares";

/** What a press or a drag would do, or why it cannot be done. */
export type Edit = { operation: Operation } | { why: string };

function one(operations: Operation[], why: string): Edit {
  const [first] = operations;
  if (first === undefined) return { why };
  return { operation: operations.length === 1 ? first : { op: "batch", operations } };
}

/** Move segments in time: those before and after give way; the block by which they can move is the nearest possible. */
export function shift(line: Timeline, chosen: readonly number[], by: number): Edit {
  if (chosen.length === 0) return { why: "choose a prompt first" };
  if (chosen[0] === 0) return { why: "the first prompt begins the video; give it another place in the order instead" };
  const groups = runsOf(chosen);
  const room = Math.min(...groups.map(([low, high]) => roomOf(line, low, high, by)));
  const way = by < 0 ? -Math.min(-by, room) : Math.min(by, room);
  if (way === 0) return { why: "there is no room: the prompt next to it keeps one block" };
  const operations: Operation[] = [];
  // From the side that it moves to, so that starts stay in order at every step.
  for (const [low, high] of way > 0 ? groups.reverse() : groups) operations.push(...shiftRun(line, low, high, way));
  return one(operations, "");
}

function roomOf(line: Timeline, low: number, high: number, by: number): number {
  const start = line.segments[low]?.start ?? 0;
  if (by < 0) return start - (line.segments[low - 1]?.start ?? 0) - 1;
  const next = line.segments[high + 1];
  if (next === undefined) return Infinity;
  const end = endOf(line, high + 1);
  return end === null ? Infinity : end - next.start - 1;
}

function shiftRun(line: Timeline, low: number, high: number, by: number): Operation[] {
  const last = high + 1 === line.segments.length;
  const edges = Array.from({ length: high - low + (last ? 1 : 2) }, (_, i) => low + i);
  const rolls = edges.map((i): Operation => ({ op: "resize", segment_index: i, edge: "start", to: (line.segments[i]?.start ?? 0) + by }));
  const end: Operation[] = last && line.length !== null ? [{ op: "length", length: line.length + by }] : [];
  return by > 0 ? [...end, ...rolls.reverse()] : [...rolls, ...end];
}

/** Move an edge of a segment; where it cannot go as far, it goes as far as it can. */
export function resize(line: Timeline, index: number, edge: Edge, to: number, ripple: boolean): Edit {
  const segment = line.segments[index];
  if (segment === undefined) return { why: "choose a prompt first" };
  const end = endOf(line, index);
  if (edge === "start") {
    if (index === 0 && !ripple) return { why: "the first prompt begins the video" };
    if (ripple && end === null) return { why: "the last prompt has no end, so that nothing can follow its edge" };
    const high = (end ?? Infinity) - 1;
    const low = ripple ? -Infinity : (line.segments[index - 1]?.start ?? 0) + 1;
    to = Math.max(low, Math.min(high, to));
    return to === segment.start ? { why: "it is there already" } : { operation: { op: "resize", segment_index: index, edge, to, ripple } };
  }
  const next = line.segments[index + 1];
  const high = ripple || next === undefined ? Infinity : (endOf(line, index + 1) ?? Infinity) - 1;
  to = Math.max(segment.start + 1, Math.min(high, to));
  return to === end ? { why: "it is there already" } : { operation: { op: "resize", segment_index: index, edge, to, ripple } };
}

/** Give segments another place in the order: before the one that has index `to` now. */
export function reorder(line: Timeline, chosen: readonly number[], to: number): Edit {
  if (chosen.length === 0) return { why: "choose a prompt first" };
  const rest = line.segments.map((_, i) => i).filter((i) => !chosen.includes(i));
  const after = [...rest.filter((i) => i < to), ...chosen, ...rest.filter((i) => i >= to)];
  if (after.every((i, place) => i === place)) return { why: "it is there already" };
  return { operation: { op: "reorder", segments: [...chosen], to } };
}

/** Change places with the segment before or after. */
export function swap(line: Timeline, chosen: readonly number[], by: -1 | 1): Edit {
  const first = chosen[0] ?? 0;
  const last = chosen.at(-1) ?? 0;
  return by < 0 ? reorder(line, chosen, Math.max(0, first - 1)) : reorder(line, chosen, Math.min(line.segments.length, last + 2));
}

/** Where segments would go that are dragged so that their middle lies at a block. */
export function placeFor(line: Timeline, chosen: readonly number[], middle: number): number {
  for (let i = 0; i < line.segments.length; i++) {
    if (chosen.includes(i)) continue;
    const start = line.segments[i]?.start ?? 0;
    const end = endOf(line, i) ?? start + 2 * Math.max(1, middle - start) + 2;
    if (middle < (start + end) / 2) return i;
  }
  return line.segments.length;
}

export function split(line: Timeline, at: number): Edit {
  const i = indexAt(line, at);
  const start = line.segments[i]?.start ?? 0;
  if (at === start) return { why: "a prompt begins here already; move the playhead into one to split it" };
  if (line.length !== null && at >= line.length) return { why: "the video ends before the playhead" };
  if (at < start + mixedBlocks(line, i)) return { why: `the playhead is in a transition; it ends at block ${start + mixedBlocks(line, i)}` };
  return { operation: { op: "split", at } };
}

/** Where a new prompt at the end begins: some blocks after the last, and not in what is made already. */
export function appendAt(line: Timeline, nextBlock: number, gap: number): number {
  const last = line.segments.at(-1)?.start ?? 0;
  return Math.max(last + gap, nextBlock + 1, line.length ?? 0);
}

/** Set a marker, or take the one away that is there. */
export function mark(line: Timeline, block: number): Edit {
  const there = line.markers.some((marker) => marker.block === block);
  if (there) return { operation: { op: "unmark", at: block } };
  const numbers = line.markers.map((marker) => Number(/^\D*(\d+)$/.exec(marker.name ?? "")?.[1] ?? 0));
  return { operation: { op: "mark", marker: { block, name: `marker ${Math.max(0, ...numbers) + 1}` } } };
}
