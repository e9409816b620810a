import type { Scale } from "../../editor/axis";
import type { Desk } from "../../editor/desk";
import { colour } from "../../dom";
import type { Paints } from "../../paint";
import type { Timeline } from "../../types";

/** What a lane is drawn from. */
export interface Scene {
  desk: Desk;
  line: Timeline;
  scale: Scale;
  paints: Paints;
}

/** The colour of each prompt of a timeline, as the style sheet names it. */
export function shades(line: Timeline): Map<string, string> {
  const found = new Map(Object.entries(line.shades).map(([prompt, place]) => [prompt, colour(place)]));
  for (const segment of line.segments) found.set(segment.prompt, colour(segment.colour));
  return found;
}
