import type { Grid } from "../grid";
import type { Timeline } from "../types";

/** Seconds that may be shown at once. */
export const SHORTEST = 1;
export const LONGEST = 600;
/** Seconds of an endless video that are always there to plan in. */
const ROOM = 20;
/** Where the playhead stays while the axis follows it, as a share of what is shown. */
const FOLLOW = 0.72;
const EASE_MS = 70;
const STEPS = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600];

/** The stretch of time that is shown, in seconds. */
export interface Axis {
  readonly from: number;
  readonly seconds: number;
}

/** Seconds that there are to look at: the whole video, or of an endless one what is planned or made and room to come. */
export function extent(timeline: Timeline, grid: Grid, made: number): number {
  if (timeline.length !== null) return Math.max(grid.blockSeconds(timeline.length), SHORTEST);
  const last = Math.max(timeline.segments.at(-1)?.start ?? 0, timeline.markers.at(-1)?.block ?? 0);
  const needed = Math.max(made, grid.blockSeconds(last)) / 0.8;
  let span = ROOM;
  while (span < needed) span *= 2;
  return span;
}

/** The same axis within what there is to look at. */
export function within(axis: Axis, whole: number): Axis {
  const seconds = Math.min(Math.max(axis.seconds, SHORTEST), Math.max(SHORTEST, Math.min(LONGEST, whole)));
  const from = Math.max(0, Math.min(axis.from, whole - seconds));
  return { from, seconds };
}

/** All of it, as far as that is allowed. */
export function fitted(whole: number): Axis {
  return within({ from: 0, seconds: whole }, whole);
}

/** Show `factor` times as many seconds, leaving the one at `anchor` where it is. */
export function zoomed(axis: Axis, factor: number, anchor: number, whole: number): Axis {
  const seconds = Math.min(Math.max(axis.seconds * factor, SHORTEST), LONGEST, Math.max(whole, SHORTEST));
  const share = (anchor - axis.from) / axis.seconds;
  return within({ from: anchor - share * seconds, seconds }, whole);
}

export function panned(axis: Axis, by: number, whole: number): Axis {
  return within({ from: axis.from + by, seconds: axis.seconds }, whole);
}

export function sees(axis: Axis, seconds: number): boolean {
  return seconds >= axis.from && seconds <= axis.from + axis.seconds;
}

/** Move on with a playhead, without jumps: it runs to its place, and then the axis runs under it. */
export function following(axis: Axis, at: number, whole: number): Axis {
  const from = at - FOLLOW * axis.seconds;
  return from > axis.from ? within({ from, seconds: axis.seconds }, whole) : axis;
}

/** Move as little as needed to show a time. */
export function showing(axis: Axis, at: number, whole: number): Axis {
  const margin = 0.08 * axis.seconds;
  if (at < axis.from + margin) return within({ from: at - margin, seconds: axis.seconds }, whole);
  if (at > axis.from + axis.seconds - margin) return within({ from: at - axis.seconds + margin, seconds: axis.seconds }, whole);
  return axis;
}

/** A step from one axis towards another, so that nothing jumps; the other one itself when it is nearly reached. */
export function eased(axis: Axis, goal: Axis, ms: number): Axis {
  const share = 1 - Math.exp(-ms / EASE_MS);
  const seconds = axis.seconds + (goal.seconds - axis.seconds) * share;
  const from = axis.from + (goal.from - axis.from) * share;
  const near = Math.abs(goal.seconds - seconds) + Math.abs(goal.from - from) < 0.004 * goal.seconds;
  return near ? goal : { from, seconds };
}

/** Labelled seconds that are shown, at least `room` pixels apart. */
export function ticks(axis: Axis, width: number, room = 72): number[] {
  const step = STEPS.find((candidate) => (candidate / axis.seconds) * width >= room) ?? 600;
  const found: number[] = [];
  for (let at = Math.ceil((axis.from - 1e-6) / step) * step; at <= axis.from + axis.seconds + 1e-6; at += step) found.push(at);
  return found;
}

/** Between times, blocks and pixels of one drawing. */
export class Scale {
  constructor(readonly axis: Axis, readonly width: number, readonly grid: Grid) {}

  /** Pixels from the left edge to a time; outside of it for what is not shown. */
  x(seconds: number): number {
    return ((seconds - this.axis.from) / this.axis.seconds) * this.width;
  }

  blockX(block: number): number {
    return this.x(this.grid.blockSeconds(block));
  }

  seconds(x: number): number {
    return this.axis.from + (x / Math.max(1, this.width)) * this.axis.seconds;
  }

  /** The block that lies under a pixel. */
  blockAt(x: number): number {
    return this.grid.blockAt(Math.floor(Math.max(0, this.seconds(x)) * this.grid.fps + 1e-6));
  }

  /** The start of a block that lies nearest to a pixel. */
  nearest(x: number): number {
    return this.grid.nearestBlock(Math.max(0, this.seconds(x)));
  }

  /** Pixels that a block takes; the first is a little shorter. */
  get blockWidth(): number {
    return (this.grid.size.rest / this.grid.fps / this.axis.seconds) * this.width;
  }

  /** First and last block of which something is shown. */
  get blocks(): [number, number] {
    return [this.blockAt(0), this.blockAt(this.width)];
  }
}

/** The block to which a dragged edge goes: the nearest, or a magnet within reach. */
export function snapped(scale: Scale, x: number, magnets: readonly number[], reach = 9): number {
  let best: number | null = null;
  for (const block of magnets) {
    const away = Math.abs(scale.blockX(block) - x);
    if (away <= reach && (best === null || away < Math.abs(scale.blockX(best) - x))) best = block;
  }
  return best ?? scale.nearest(x);
}
