import type { Segment, Timeline } from "../types";
import { SEGMENT_BLOCKS, endOf } from "./line";

/** A segment as files, operations and the clipboard hold it. */
export function plain(segment: Segment, start: number): Record<string, unknown> {
  const { prompt, colour, policy, sink_policy, note, weight, blend, transition } = segment;
  const own = typeof colour === "string" ? colour : undefined;
  const item = { start_block: start, prompt, policy, sink_policy, colour: own, note, weight, blend, transition };
  return Object.fromEntries(Object.entries(item).filter(([, value]) => value !== undefined));
}

/** The chosen segments as text for the clipboard, without the gaps between them. */
export function copied(line: Timeline, chosen: readonly number[]): string {
  let start = 0;
  const segments = chosen.map((i) => {
    const segment = line.segments[i] as Segment;
    const item = plain(segment, start);
    const end = endOf(line, i);
    start += end === null ? SEGMENT_BLOCKS : end - segment.start;
    return item;
  });
  return JSON.stringify({ format: "studio-clip", version: 1, length_blocks: start, segments });
}
