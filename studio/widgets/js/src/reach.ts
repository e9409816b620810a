import type { Grid } from "./grid";
import type { Take, Timeline } from "./types";

/** Frames that the bar under the picture stands for. */
export function seekScale(timeline: Timeline, grid: Grid, made: number): number {
  return Math.max(1, made, timeline.length === null ? 0 : grid.start(timeline.length));
}

/** The prompts of what was made, as shares of it: from, to, colour. */
export function stripes(timeline: Timeline, grid: Grid, made: number): [number, number, number | string][] {
  const found: [number, number, number | string][] = [];
  timeline.segments.forEach((segment, i) => {
    const next = timeline.segments[i + 1];
    const from = grid.start(segment.start);
    const to = Math.min(made, next === undefined ? made : grid.start(next.start));
    if (to > from) found.push([from / made, to / made, segment.colour]);
  });
  return found;
}

export interface Branch {
  take: Take;
  depth: number;
  /** Share of the longest take at which it leaves its parent, and at which it ends. */
  from: number;
  to: number;
}

/** The takes as a tree, each after its parent, with its place beside the longest one. */
export function branches(takes: Take[]): Branch[] {
  const longest = Math.max(1, ...takes.map((take) => take.blocks));
  const known = new Set(takes.map((take) => take.number));
  const found: Branch[] = [];
  const add = (parent: number | null, depth: number) => {
    for (const take of takes) {
      const mine = take.parent !== null && known.has(take.parent) ? take.parent : null;
      if (mine !== parent) continue;
      found.push({ take, depth, from: take.parent === null ? 0 : take.forked_at / longest, to: take.blocks / longest });
      add(take.number, depth + 1);
    }
  };
  add(null, 0);
  return found;
}

/** Where a fork at a frame begins: the block that holds it is the first of its own. */
export function forkBlock(grid: Grid, frame: number, made: number): number {
  if (made === 0) return 0;
  return Math.min(grid.blockAt(frame), grid.blockAt(made - 1) + 1);
}
