import { describe, expect, it } from "vitest";
import { Film } from "../src/film";
import { film } from "./helpers";

describe("film", () => {
  it("takes frames that came back to back", () => {
    const held = new Film();
    held.clear(0);
    expect(held.put(0, 0, [2, 1], new Uint8Array([1, 2, 3]))).toBe(true);
    expect([...(held.get(0)?.jpeg ?? [])]).toEqual([1, 2]);
    expect([...(held.get(1)?.jpeg ?? [])]).toEqual([3]);
    expect(held.put(0, 0, [2, 1], new Uint8Array([1, 2, 3]))).toBe(false);
    expect([held.first, held.end, held.size]).toEqual([0, 2, 2]);
  });

  it("copies what it keeps, so that a large message can go", () => {
    const held = new Film();
    const message = new Uint8Array(new ArrayBuffer(100), 10, 4);
    held.put(0, 0, [4], message);
    expect(held.get(0)?.jpeg.buffer.byteLength).toBe(4);
  });

  it("stays within its limit and drops the oldest", () => {
    const held = new Film(1000);
    held.clear(0);
    for (let at = 0; at < 500; at++) held.put(at, at, [10], new Uint8Array(10));
    expect(held.size).toBe(100);
    expect([held.first, held.end]).toEqual([400, 500]);
    expect(held.has(399)).toBe(false);
  });

  it("knows holes", () => {
    const held = film(0, 10);
    held.put(3, 33, [1, 1], new Uint8Array(2));
    expect(held.atOrAfter(10)).toBe(33);
    expect(held.atOrAfter(35)).toBe(-1);
    expect(held.runEnd(2)).toBe(9);
  });

  it("forgets all for a new take", () => {
    const held = film(0, 30);
    held.clear(1);
    expect([held.size, held.end, held.take, held.atOrAfter(0)]).toEqual([0, 0, 1, -1]);
  });
});
