import { colour } from "./dom";
import type { Reading } from "./readings";
import type { Segment, Timeline } from "./types";

/** The segment that the number of a prompt stands for: mere cuts, as a split leaves them, do not count. */
export function segmentOf(timeline: Timeline, number: number): Segment | undefined {
  const index = timeline.turns[number];
  return index === undefined ? undefined : timeline.segments[index];
}

/** The colour of a prompt by its number, as a CSS value. */
export function tintOf(timeline: Timeline, number: number): string {
  return colour(segmentOf(timeline, number)?.colour ?? number);
}

/** The text of a prompt by its number: as the newest of the readings says that knows it. */
export function textOf(readings: Reading[], timeline: Timeline, number: number): string {
  const told = readings.findLast((reading) => reading.prompts[String(number)] !== undefined);
  return told?.prompts[String(number)] ?? segmentOf(timeline, number)?.prompt ?? `prompt ${number}`;
}
