import { expect, it } from "vitest";
import { Grid } from "../src/grid";
import type { Store } from "../src/store";
import { situation } from "../src/views/player";

/** A film of three blocks whose model is done, as far as the page has it. */
function finished(end: number, playhead: number, running: boolean, starved = false): string {
  const store = {
    link: { contact: "live" }, hello: {}, source: "finished", film: { size: 1, end }, playhead, scrubbing: false,
    playback: { running, starved }, timeline: { length: 3 }, grid: new Grid({ first: 9, rest: 12 }, 16),
  };
  return situation(store as unknown as Store).label;
}

it("calls a film finished when its last frame is shown", () => {
  expect(finished(33, 32, false)).toBe("finished");
  expect(finished(33, 20, true)).toBe("playing");
  expect(finished(33, 20, false)).toBe("paused");
});

it("waits for the last frames when they are still under way", () => {
  expect(finished(18, 17, true, true)).toBe("waiting for frames");
  expect(finished(18, 17, true)).toBe("playing");
  // It was stopped short of them by hand, and stays so.
  expect(finished(18, 17, false)).toBe("finished");
});
