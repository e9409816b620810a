import { describe, expect, it } from "vitest";
import { clock, figure, shortClock } from "../src/grid";
import { grid } from "./helpers";

describe("grid", () => {
  it("counts as the model does", () => {
    expect([0, 1, 2, 12].map((block) => grid.start(block))).toEqual([0, 9, 21, 141]);
    for (let frame = 0; frame < 300; frame++) {
      const block = grid.blockAt(frame);
      expect(grid.start(block)).toBeLessThanOrEqual(frame);
      expect(grid.start(block + 1)).toBeGreaterThan(frame);
    }
    expect(grid.blockSeconds(12)).toBeCloseTo(8.8125);
  });

  it("finds the nearest block", () => {
    expect(grid.nearestBlock(0)).toBe(0);
    expect(grid.nearestBlock(0.3)).toBe(1);
    expect(grid.nearestBlock(8.8)).toBe(12);
    expect(grid.nearestBlock(-5)).toBe(0);
  });
});

describe("figures", () => {
  it.each([[0, "0:00.0"], [8.8125, "0:08.8"], [59.96, "0:59.9"], [60, "1:00.0"], [605.25, "10:05.2"], [-1, "0:00.0"]])(
    "%d s is %s", (seconds, text) => expect(clock(seconds)).toBe(text),
  );
  it.each([[0, "0:00"], [62, "1:02"]])("%d s is %s in short", (seconds, text) => expect(shortClock(seconds)).toBe(text));
  it.each([[null, "–"], [undefined, "–"], [NaN, "–"], [0, "0.0"], [0.634, "0.63"], [21.62, "21.6"], [318.4, "318"], [9.96, "10.0"]])(
    "%s reads %s", (value, text) => expect(figure(value)).toBe(text),
  );
});
