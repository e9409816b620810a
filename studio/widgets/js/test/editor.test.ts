import { describe, expect, it } from "vitest";
import { SHORTEST, Scale, extent, fitted, following, panned, sees, showing, snapped, ticks, within, zoomed } from "../src/editor/axis";
import { copied } from "../src/editor/clip";
import { appendAt, mark, placeFor, reorder, resize, shift, split, swap, type Edit } from "../src/editor/edits";
import { endOf, indexAt, preview } from "../src/editor/line";
import { NOTHING, carried, pick, pickAll, runsOf, step } from "../src/editor/selection";
import { partsOf, runs, sharesAt, spelled } from "../src/editor/shares";
import type { Operation, Timeline } from "../src/types";
import cases from "./cases.json";
import { grid, timeline } from "./helpers";

interface Case {
  before: Timeline;
  operation: Operation;
  after: { starts: [string, number][]; length: number | null; markers: number[] } | null;
  weights: Record<string, number>[];
}
const all = cases as unknown as Case[];

function done(edit: Edit, line: Timeline): Timeline {
  if ("why" in edit) throw new Error(edit.why);
  const after = preview(line, edit.operation);
  if (after === null) throw new Error(`impossible: ${JSON.stringify(edit.operation)}`);
  return after;
}

const starts = (line: Timeline) => line.segments.map((segment) => segment.start);

describe("the page and the kernel agree", () => {
  it("on what an edit that is dragged gives", () => {
    for (const { before, operation, after } of all) {
      const got = preview(before, operation);
      if (after === null) continue; // The kernel refuses it with a sentence; the page never offers it.
      expect(got?.segments.map(({ prompt, start }) => [prompt, start]), JSON.stringify(operation)).toEqual(after.starts);
      expect(got?.length).toBe(after.length);
      expect(got?.markers.map((marker) => marker.block)).toEqual(after.markers);
    }
  });

  it("on the weights in force at every block", () => {
    for (const { before, weights } of all) {
      weights.forEach((expected, block) => {
        const got = sharesAt(before, block);
        expect([...got.keys()].sort()).toEqual(Object.keys(expected).sort());
        for (const [prompt, share] of got) expect(share).toBeCloseTo(expected[prompt] ?? -1, 6);
      });
    }
  });

  it("on the same weights drawn as runs", () => {
    for (const { before } of all) {
      const found = runs(before, 0, 40);
      for (let block = 0; block < Math.min(40, before.length ?? 40); block++) {
        const run = found.find(({ from, to }) => from <= block && (to === null || to > block));
        expect(run?.shares, `block ${block}`).toEqual(sharesAt(before, block));
      }
      found.slice(1).forEach((run, i) => expect(run.from).toBe(found[i]?.to));
    }
  });
});

describe("the axis", () => {
  it("goes from one second to ten minutes", () => {
    const whole = 3600;
    let axis = fitted(whole);
    expect(axis.seconds).toBe(600);
    for (let i = 0; i < 100; i++) axis = zoomed(axis, 0.8, 5, whole);
    expect(axis.seconds).toBe(SHORTEST);
    expect(sees(axis, 5)).toBe(true);
    for (let i = 0; i < 100; i++) axis = zoomed(axis, 1.3, 5, whole);
    expect(axis.seconds).toBe(600);
    expect(axis.from).toBeCloseTo(0);
  });

  it("keeps what is under the pointer where it is", () => {
    const before = { from: 40, seconds: 60 };
    const after = zoomed(before, 0.5, 55, 600);
    expect((55 - after.from) / after.seconds).toBeCloseTo((55 - before.from) / before.seconds);
  });

  it("never leaves the video", () => {
    expect(panned({ from: 10, seconds: 20 }, -50, 100).from).toBe(0);
    expect(panned({ from: 10, seconds: 20 }, 500, 100).from).toBe(80);
    expect(within({ from: -3, seconds: 1e9 }, 30)).toEqual({ from: 0, seconds: 30 });
    expect(within({ from: 9, seconds: 5 }, 0.4)).toEqual({ from: 0, seconds: 1 });
  });

  it("keeps room to plan in and grows rarely", () => {
    expect(extent(timeline([0]), grid, 0)).toBe(20);
    expect(extent(timeline([0]), grid, 15.9)).toBe(20);
    expect(extent(timeline([0]), grid, 16.1)).toBe(40);
    expect(extent(timeline([0, 60]), grid, 0)).toBe(80);
    expect(extent(timeline([0], 9), grid, 400)).toBeCloseTo(grid.blockSeconds(9));
  });

  it("runs under the playhead without a jump", () => {
    let axis = { from: 0, seconds: 10 };
    let before = 0;
    for (let at = 0; at < 40; at += 1 / 16) {
      axis = following(axis, at, 60);
      expect(axis.from - before).toBeLessThan(0.1);
      expect(sees(axis, at)).toBe(true);
      before = axis.from;
    }
    expect(showing(axis, 2, 60).from).toBeLessThan(2);
    expect(showing(axis, 55, 60).from).toBeGreaterThan(45);
    expect(showing({ from: 10, seconds: 10 }, 15, 60).from).toBe(10);
  });

  it("labels what it shows without crowding", () => {
    expect(ticks({ from: 0, seconds: 20 }, 1000)).toHaveLength(11);
    expect(ticks({ from: 7, seconds: 20 }, 400)).toEqual([10, 15, 20, 25]);
    expect(ticks({ from: 0, seconds: 600 }, 500).length).toBeLessThan(8);
    expect(ticks({ from: 4.2, seconds: 1 }, 900)).toEqual([5]);
  });

  it("turns pixels into blocks and back", () => {
    const scale = new Scale({ from: 3, seconds: 12 }, 900, grid);
    for (let block = 5; block < 18; block++) {
      expect(scale.nearest(scale.blockX(block))).toBe(block);
      expect(scale.blockAt(scale.blockX(block) + 1)).toBe(block);
    }
    expect(scale.blocks[0]).toBe(grid.blockAt(48));
  });

  it("snaps to blocks, and to magnets within reach", () => {
    const scale = new Scale({ from: 0, seconds: 600 }, 900, grid);
    const x = scale.blockX(100);
    expect(snapped(scale, x + 4, [103, 90])).toBe(103);
    expect(snapped(scale, x + 4, [])).toBe(scale.nearest(x + 4));
    expect(snapped(scale, x, [130], 9)).toBe(100);
  });
});

describe("edits", () => {
  const line = timeline([0, 4, 9, 20], 26);

  it("find the segment at a block", () => {
    expect([0, 3, 4, 8, 9, 19, 20, 500].map((block) => indexAt(line, block))).toEqual([0, 0, 1, 1, 2, 2, 3, 3]);
    expect(endOf(line, 3)).toBe(26);
  });

  it("move segments as far as there is room", () => {
    expect(starts(done(shift(line, [1], 2), line))).toEqual([0, 6, 11, 20]);
    expect(starts(done(shift(line, [1], -9), line))).toEqual([0, 1, 6, 20]);
    expect(starts(done(shift(line, [1], 90), line))).toEqual([0, 14, 19, 20]);
    expect(starts(done(shift(line, [1, 2], 1), line))).toEqual([0, 5, 10, 21]);
    const moved = done(shift(line, [3], 5), line);
    expect([starts(moved), moved.length]).toEqual([[0, 4, 9, 25], 31]);
    const back = done(shift(line, [3], -5), line);
    expect([starts(back), back.length]).toEqual([[0, 4, 9, 15], 21]);
    expect(starts(done(shift(timeline([0, 4]), [1], 50), timeline([0, 4])))).toEqual([0, 54]);
    expect(starts(done(shift(line, [1, 3], 1), line))).toEqual([0, 5, 10, 21]);
    expect(shift(line, [0], 1)).toHaveProperty("why");
    expect(shift(line, [], 1)).toHaveProperty("why");
    expect(shift(timeline([0, 1]), [1], -1)).toHaveProperty("why");
  });

  it("move an edge, rolling or rippling, and never past a neighbour", () => {
    expect(starts(done(resize(line, 1, "start", 2, false), line))).toEqual([0, 2, 9, 20]);
    expect(starts(done(resize(line, 1, "start", -40, false), line))).toEqual([0, 1, 9, 20]);
    expect(starts(done(resize(line, 1, "end", 40, false), line))).toEqual([0, 4, 19, 20]);
    expect(starts(done(resize(line, 1, "end", 12, true), line))).toEqual([0, 4, 12, 23]);
    expect(starts(done(resize(line, 1, "end", -3, true), line))).toEqual([0, 4, 5, 16]);
    expect(starts(done(resize(line, 1, "start", 6, true), line))).toEqual([0, 4, 7, 18]);
    expect(done(resize(line, 3, "end", 40, false), line).length).toBe(40);
    expect(resize(line, 0, "start", 3, false)).toHaveProperty("why");
    expect(resize(line, 1, "start", 4, false)).toHaveProperty("why");
    expect(resize(timeline([0, 4]), 1, "start", 5, true)).toHaveProperty("why");
    expect(resize(line, 9, "end", 5, true)).toHaveProperty("why");
  });

  it("give another place in the order", () => {
    expect(done(reorder(line, [0], 2), line).segments.map((s) => s.prompt)).toEqual(["p1", "p0", "p2", "p3"]);
    expect(done(swap(line, [2], -1), line).segments.map((s) => s.prompt)).toEqual(["p0", "p2", "p1", "p3"]);
    expect(done(swap(line, [1, 2], 1), line).segments.map((s) => s.prompt)).toEqual(["p0", "p3", "p1", "p2"]);
    expect(swap(line, [0], -1)).toHaveProperty("why");
    expect(swap(line, [3], 1)).toHaveProperty("why");
    expect([1, 3, 7, 16, 90].map((middle) => placeFor(line, [3], middle))).toEqual([0, 1, 2, 4, 4]);
  });

  it("split where there is something to split", () => {
    expect(split(line, 6)).toEqual({ operation: { op: "split", at: 6 } });
    for (const at of [0, 4, 26, 90]) expect(split(line, at)).toHaveProperty("why");
    const soft = { ...line, segments: line.segments.map((s) => ({ ...s, transition: { blocks: 3, kind: "linear" as const } })) };
    expect(split(soft, 6)).toHaveProperty("why");
    expect(split(soft, 7)).toHaveProperty("operation");
    expect(split(soft, 1)).toHaveProperty("operation"); // Before the first nothing is mixed in.
  });

  it("add where nothing is made yet", () => {
    expect(appendAt(timeline([0]), 0, 4)).toBe(4);
    expect(appendAt(timeline([0, 6]), 3, 4)).toBe(10);
    expect(appendAt(timeline([0]), 20, 4)).toBe(21);
    expect(appendAt(timeline([0], 14), 2, 4)).toBe(14);
  });

  it("set and take away markers", () => {
    const marked = { ...line, markers: [{ block: 3, name: "marker 4" }] };
    expect(mark(marked, 8)).toEqual({ operation: { op: "mark", marker: { block: 8, name: "marker 5" } } });
    expect(mark(marked, 3)).toEqual({ operation: { op: "unmark", at: 3 } });
  });
});

describe("choosing", () => {
  it("takes one, several, a range, all", () => {
    let now = pick(NOTHING, 2, "only");
    now = pick(now, 5, "toggle");
    expect(now.chosen).toEqual([2, 5]);
    expect(pick(now, 2, "toggle").chosen).toEqual([5]);
    expect(pick(now, 7, "range").chosen).toEqual([5, 6, 7]);
    expect(pickAll(3, 1).chosen).toEqual([0, 1, 2]);
    expect(step(pick(NOTHING, 2, "only"), -1, 9, true).chosen).toEqual([1, 2]);
    expect(step(pick(NOTHING, 0, "only"), -1, 9, false).chosen).toEqual([0]);
    expect(pick(NOTHING, 3, "range").chosen).toEqual([3]);
    expect(runsOf([0, 1, 4, 6, 7])).toEqual([[0, 1], [4, 4], [6, 7]]);
  });

  it("stays with a segment that moves, and lets go of one that is removed", () => {
    const before = timeline([0, 4, 9, 20]);
    const chosen = pick(NOTHING, 2, "only");
    expect(carried(chosen, before, timeline([0, 4, 7, 20])).chosen).toEqual([2]);
    const swapped = done(reorder(before, [2], 1), before);
    expect(carried(chosen, before, swapped).chosen).toEqual([1]);
    const removed = { ...before, segments: before.segments.filter((_, i) => i !== 2) };
    expect(carried(chosen, before, removed).chosen).toEqual([]);
    const edited = { ...before, segments: before.segments.map((s, i) => (i === 2 ? { ...s, prompt: "new" } : s)) };
    expect(carried(chosen, before, edited).chosen).toEqual([2]);
  });
});

describe("shares", () => {
  it("are read as sentences", () => {
    expect(spelled(new Map([["a fox", 1]]))).toBe("a fox");
    expect(spelled(new Map([["a", 0.25], ["b", 0.75]]))).toBe("75 % b, 25 % a");
    expect(spelled(new Map([["a", 0.4], ["b", 0.3], ["c", 0.2], ["d", 0.1]]))).toBe("40 % a, 30 % b, 20 % c, and 1 more");
  });

  it("add up and leave out what has no weight", () => {
    const parts = partsOf({ prompt: "a", start: 0, colour: 0, weight: 0, blend: [{ prompt: "b", weight: 1 }, { prompt: "b", weight: 2 }] });
    expect([...parts]).toEqual([["b", 1]]);
  });
});

it("a copy leaves the gaps out and has no colour of the palette", () => {
  const line = timeline([0, 4, 9]);
  (line.segments[2] as { colour: string | number }).colour = "#112233";
  const clip = JSON.parse(copied(line, [0, 2]));
  expect(clip.length_blocks).toBe(11);
  expect(clip.segments).toEqual([{ start_block: 0, prompt: "p0" }, { start_block: 4, prompt: "p2", colour: "#112233" }]);
});
