import { describe, expect, it } from "vitest";
import { Film } from "../src/film";
import { film, grid } from "./helpers";

/** A film of whole blocks, so many bytes a frame. */
function blocks(from: number, to: number, bytes: number, limit?: number, around?: number): Film {
  const held = new Film(grid, limit);
  held.clear(0);
  for (let block = from; block < to; block++) {
    const sizes = new Array<number>(block === 0 ? 9 : 12).fill(bytes);
    held.put(block, grid.start(block), sizes, new Uint8Array(sizes.length * bytes), around ?? grid.start(block));
  }
  return held;
}

describe("film", () => {
  it("takes frames that came back to back", () => {
    const held = new Film(grid);
    held.clear(0);
    expect(held.put(0, 0, [2, 1], new Uint8Array([1, 2, 3]))).toBe(true);
    expect([...(held.get(0)?.jpeg ?? [])]).toEqual([1, 2]);
    expect([...(held.get(1)?.jpeg ?? [])]).toEqual([3]);
    expect(held.put(0, 0, [2, 1], new Uint8Array([1, 2, 3]))).toBe(false);
    expect([held.first, held.end, held.size, held.weight]).toEqual([0, 2, 2, 3]);
  });

  it("copies what it keeps, so that a large message can go", () => {
    const held = new Film(grid);
    const message = new Uint8Array(new ArrayBuffer(100), 10, 4);
    held.put(0, 0, [4], message);
    expect(held.get(0)?.jpeg.buffer.byteLength).toBe(4);
    expect(held.get(0)?.jpeg.buffer).not.toBe(message.buffer);
  });

  it("stays within its limit and lets go of what is far from the playhead", () => {
    const live = blocks(0, 50, 10, 1200);
    expect(live.weight).toBeLessThanOrEqual(1200);
    expect(live.stretches()).toEqual([[grid.start(40), grid.start(50)]]);
    const back = blocks(0, 50, 10, 1200, 20);
    expect(back.weight).toBeLessThanOrEqual(1200);
    expect(back.has(20)).toBe(true);
    expect(back.has(grid.start(49))).toBe(false);
    expect(back.end).toBe(grid.start(50));
  });

  it("lacks what was made and let go of, but not what is still to come by itself", () => {
    const held = new Film(grid);
    held.clear(3, 5, grid.start(6));
    expect([0, 4, 5, 6, 99].map((block) => held.lacks(block))).toEqual([true, true, false, false, false]);
    held.put(6, grid.start(6), [1], new Uint8Array(1));
    expect(held.lacks(5)).toBe(true);
    expect(held.lacks(6)).toBe(false);
    held.put(4, grid.start(4), new Array(12).fill(1), new Uint8Array(12));
    expect(held.lacks(4)).toBe(false);
    held.put(3, grid.start(3), [1, 1], new Uint8Array(2));
    expect(held.lacks(3)).toBe(true);
  });

  it("goes past what is gone for good, and waits for what is not", () => {
    const held = blocks(3, 5, 1);
    expect(held.next(0)).toBe(-1);
    held.miss(0, 3);
    expect([held.next(0), held.first, held.lacks(1)]).toEqual([grid.start(3), grid.start(3), false]);
    expect(held.next(grid.start(5))).toBe(-1);
    held.put(1, grid.start(1), [1], new Uint8Array(1));
    expect(held.next(0)).toBe(grid.start(1));
  });

  it("forgets all for another take", () => {
    const held = film(0, 30);
    held.miss(9, 12);
    held.clear(1);
    expect([held.size, held.end, held.take, held.next(0), held.weight]).toEqual([0, 0, 1, -1, 0]);
    held.clear(0, 2, 21);
    expect([held.end, held.live, held.lacks(0), held.lacks(2)]).toEqual([21, 2, true, false]);
  });
});
