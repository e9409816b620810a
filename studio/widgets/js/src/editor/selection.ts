import type { Timeline } from "../types";

/** Which segments are chosen, by their indices in order, and the one that keys act on first. */
export interface Selection {
  readonly chosen: readonly number[];
  /** Where a range begins. */
  readonly anchor: number;
  /** The segment that has the focus. */
  readonly focus: number;
}

export const NOTHING: Selection = { chosen: [], anchor: 0, focus: 0 };

export type Pick = "only" | "toggle" | "range";

/** Choose a segment: alone, in or out, or all as far as it. */
export function pick(selection: Selection, index: number, how: Pick): Selection {
  if (how === "range" && selection.chosen.length > 0) {
    const [low, high] = [Math.min(selection.anchor, index), Math.max(selection.anchor, index)];
    return { chosen: between(low, high), anchor: selection.anchor, focus: index };
  }
  if (how === "toggle") {
    const out = selection.chosen.includes(index);
    const chosen = out ? selection.chosen.filter((i) => i !== index) : [...selection.chosen, index].sort((a, b) => a - b);
    return { chosen, anchor: index, focus: index };
  }
  return { chosen: [index], anchor: index, focus: index };
}

export function pickAll(count: number, focus: number): Selection {
  return { chosen: between(0, count - 1), anchor: 0, focus };
}

/** Go to the segment before or after; with `extend` those on the way stay chosen. */
export function step(selection: Selection, by: number, count: number, extend: boolean): Selection {
  const to = Math.max(0, Math.min(count - 1, selection.focus + by));
  return pick(selection, to, extend ? "range" : "only");
}

/**
 * Carry a selection over to another state of the timeline: a segment is known again by what it is, nearest to where it
 * was.
 */
export function carried(selection: Selection, before: Timeline, after: Timeline): Selection {
  if (before === after) return selection;
  const taken = new Set<number>();
  const find = (index: number): number => {
    const was = before.segments[index];
    if (was === undefined) return -1;
    let best = -1;
    after.segments.forEach((segment, i) => {
      if (taken.has(i) || segment.prompt !== was.prompt) return;
      if (best < 0 || away(segment.start, was.start) < away(after.segments[best]?.start ?? 0, was.start)) best = i;
    });
    if (best < 0) best = after.segments.findIndex((segment, i) => segment.start === was.start && !taken.has(i));
    taken.add(best);
    return best;
  };
  const chosen = selection.chosen.map(find).filter((i) => i >= 0).sort((a, b) => a - b);
  const last = Math.max(0, after.segments.length - 1);
  const focus = chosen.includes(selection.focus) ? selection.focus : (chosen[0] ?? Math.min(selection.focus, last));
  return { chosen, anchor: chosen[0] ?? focus, focus };
}

/** Maximal runs of neighbours among indices in order. */
export function runsOf(chosen: readonly number[]): [number, number][] {
  const found: [number, number][] = [];
  for (const i of chosen) {
    const last = found.at(-1);
    if (last !== undefined && last[1] === i - 1) last[1] = i;
    else found.push([i, i]);
  }
  return found;
}

function between(low: number, high: number): number[] {
  return Array.from({ length: Math.max(0, high - low + 1) }, (_, i) => low + i);
}

function away(a: number, b: number): number {
  return Math.abs(a - b);
}
