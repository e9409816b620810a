import type { Grid } from "./grid";
import type { Segment, Switch, Timeline } from "./types";

/** Seconds that the axis may show in all; it grows from one to the next, so that it moves rarely. */
const SPANS = [20, 40, 80, 160, 320, 640, 1280, 2560, 5120];
const TICKS = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600];

/** Seconds shown by the axis. */
export function span(timeline: Timeline, grid: Grid, live: number): number {
  const last = timeline.segments.at(-1);
  const needed = Math.max(live / 0.8, last === undefined ? 0 : grid.blockSeconds(last.start) / 0.8);
  if (timeline.length !== null) return Math.max(grid.blockSeconds(timeline.length), 1);
  return SPANS.find((seconds) => seconds >= needed) ?? Math.ceil(needed / 600) * 600;
}

/** Labelled seconds along the axis, at least `room` pixels apart. */
export function ticks(seconds: number, width: number, room = 72): number[] {
  const step = TICKS.find((candidate) => (candidate / seconds) * width >= room) ?? 600;
  const found: number[] = [];
  for (let at = 0; at <= seconds + 1e-6; at += step) found.push(at);
  return found;
}

export type Phase = "past" | "current" | "next";

export interface Piece {
  index: number;
  segment: Segment;
  /** Share of the axis, 0 to 1. */
  left: number;
  width: number;
  phase: Phase;
}

/** Where each segment lies on the axis, and whether it is over, in force or still to come. */
export function pieces(timeline: Timeline, grid: Grid, seconds: number, playhead: number): Piece[] {
  const at = grid.blockAt(Math.max(0, playhead));
  return timeline.segments.map((segment, index) => {
    const next = timeline.segments[index + 1]?.start ?? timeline.length;
    const left = Math.min(1, grid.blockSeconds(segment.start) / seconds);
    const right = next === null ? 1 : Math.min(1, grid.blockSeconds(next) / seconds);
    const phase = segment.start > at ? "next" : next !== null && next <= at ? "past" : "current";
    return { index, segment, left, width: Math.max(0, right - left), phase };
  });
}

export interface Mark {
  requested: number;
  effective: number;
  switch: Switch;
}

/** A switch asked for more blocks ahead than this was planned: its line would tell nothing and hide others. */
const PLANNED_BLOCKS = 4;

/** Switches on the axis: where each was asked for and where it took effect. */
export function marks(switches: Switch[], grid: Grid, seconds: number): Mark[] {
  const share = (frame: number) => Math.min(1, grid.seconds(frame) / seconds);
  return switches.map((item) => {
    const planned = item.effective_block - item.requested_block > PLANNED_BLOCKS;
    const effective = share(item.effective_frame);
    return { requested: planned ? effective : share(item.requested_frame), effective, switch: item };
  });
}

/** Where a new segment at the end would start: some seconds after the last, and not in what is made already. */
export function appendAt(timeline: Timeline, nextBlock: number, gap: number): number {
  const last = timeline.segments.at(-1)?.start ?? 0;
  return Math.max(last + gap, nextBlock + 1, timeline.length ?? 0);
}
