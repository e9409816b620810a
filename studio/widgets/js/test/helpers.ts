import type { Timeline } from "../src/types";
import { Film } from "../src/film";
import { Grid } from "../src/grid";

export const grid = new Grid({ first: 9, rest: 12 }, 16);

export function timeline(starts: number[], length: number | null = null): Timeline {
  return { segments: starts.map((start, i) => ({ prompt: `p${i}`, start, colour: i })), turns: starts.map((_, i) => i), length, markers: [], shades: {}, history: null };
}

/** A film that holds some frames, one byte each. */
export function film(from: number, to: number): Film {
  const made = new Film(grid);
  made.clear(0);
  for (let at = from; at < to; at++) made.put(grid.blockAt(at), at, [1], new Uint8Array([at % 256]));
  return made;
}
