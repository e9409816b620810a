import { describe, expect, it } from "vitest";
import { appendAt, marks, pieces, span, ticks } from "../src/lane";
import { grid, timeline } from "./helpers";

describe("axis", () => {
  it("grows in steps and keeps room to come", () => {
    expect(span(timeline([0]), grid, 0)).toBe(20);
    expect(span(timeline([0]), grid, 15.9)).toBe(20);
    expect(span(timeline([0]), grid, 16.1)).toBe(40);
    expect(span(timeline([0, 30]), grid, 1)).toBe(40);
    expect(span(timeline([0], 27), grid, 1)).toBeCloseTo(grid.blockSeconds(27));
    expect(span(timeline([0]), grid, 9000)).toBeGreaterThan(9000);
  });

  it("labels it without crowding", () => {
    expect(ticks(20, 1000)).toHaveLength(11);
    expect(ticks(20, 400, 56)).toEqual([0, 5, 10, 15, 20]);
    expect(ticks(5120, 600).length).toBeLessThan(12);
  });
});

describe("segments", () => {
  it("cover the axis without gaps", () => {
    const all = pieces(timeline([0, 4, 9]), grid, 20, 60);
    expect(all[0]?.left).toBe(0);
    all.slice(1).forEach((piece, i) => expect(piece.left).toBeCloseTo((all[i]?.left ?? 0) + (all[i]?.width ?? 0)));
    expect((all[2]?.left ?? 0) + (all[2]?.width ?? 0)).toBeCloseTo(1);
  });

  it("are past, in force or to come", () => {
    const phases = (frame: number) => pieces(timeline([0, 4, 9]), grid, 20, frame).map((piece) => piece.phase);
    expect(phases(-1)).toEqual(["current", "next", "next"]);
    expect(phases(grid.start(4) - 1)).toEqual(["current", "next", "next"]);
    expect(phases(grid.start(4))).toEqual(["past", "current", "next"]);
    expect(phases(grid.start(50))).toEqual(["past", "past", "current"]);
  });

  it("never leave the axis", () => {
    const [, far] = pieces(timeline([0, 900]), grid, 20, 0);
    expect([far?.left, far?.width]).toEqual([1, 0]);
  });

  it("are added where nothing is made yet", () => {
    expect(appendAt(timeline([0]), 0, 4)).toBe(4);
    expect(appendAt(timeline([0, 6]), 3, 4)).toBe(10);
    expect(appendAt(timeline([0]), 20, 4)).toBe(21);
    expect(appendAt(timeline([0], 14), 2, 4)).toBe(14);
  });
});

it("switches show where they were asked for and where they took effect", () => {
  const item = {
    prompt: "p", policy: "recache", requested_frame: 80, requested_block: 6, effective_block: 8, effective_frame: 93, latency_s: 0.4,
  };
  const [mark, planned] = marks([item, { ...item, effective_block: 20, effective_frame: 237 }], grid, 20);
  expect(planned?.requested).toBe(planned?.effective);
  expect(mark?.requested).toBeCloseTo(0.25);
  expect(mark?.effective).toBeCloseTo(93 / 320);
});
