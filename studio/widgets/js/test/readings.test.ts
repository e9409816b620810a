import { describe, expect, it } from "vitest";
import { gazeOf, kinds, parts, percentage, type Reading, Readings, readingOf, scaleTop, shares, telling, wordShares } from "../src/readings";
import type { CacheMessage, SlotFields } from "../src/types";

const sink: SlotFields = [0, "sink", 0, "commit", 0];
const window: SlotFields = [5, "window", 1, "recache", 3];
const own: SlotFields = [6, "window", 1, "commit", 3];

function message(block: number, take = 0, extra: Partial<CacheMessage> = {}): CacheMessage {
  return {
    type: "cache", take, block, prompt: "p", policy: null, prompts: { 0: "o", 1: "p" }, slots: [sink, window, own], before: null,
    own: [6], tokens: [1, 1], point: null, layers: [0, 4], heads: 2, words: ["red", "fox"], grid: [1, 2], counts: [12, 8, 4, 4], sizes: [2], residue: {}, left: [], alignment: {}, trace: null, warnings: [], ...extra,
  };
}

// Layer 0 head 0 looks at the sink, head 1 at itself; layer 4 at the window between, and evenly.
const MASS = [0.8, 0.1, 0.1, 0, 0.25, 0.75, 0.25, 0.5, 0.25, 0.4, 0.3, 0.3];
const WORDS = [0.5, 0.25, 0.25, 0.5, 0, 1, 0.25, 0.25];
const REST = [0.25, 0.25, 0, 0.5];
const HEAT = [0.5, 0.25, 0, 0.75];

/** The numbers as they arrive: somewhere in a larger buffer, not at a multiple of four. */
function numbers(values = [...MASS, ...WORDS, ...REST, ...HEAT]): DataView {
  const bytes = new Uint8Array(3 + 4 * values.length);
  bytes.set(new Uint8Array(new Float32Array(values).buffer), 3);
  return new DataView(bytes.buffer, 3);
}

const jpeg = () => new DataView(new Uint8Array([1, 2]).buffer);
const near = (found: number[], wanted: number[]) => found.forEach((value, i) => expect(value).toBeCloseTo(wanted[i] as number, 5));

describe("a reading", () => {
  const reading = readingOf(message(3), numbers());

  it("takes its numbers apart", () => {
    expect(reading.slots[1]).toEqual({ frame: 5, role: "window", prompt: 1, written: "recache", block: 3 });
    near([...reading.rest], REST);
    near([...reading.heat], HEAT);
  });

  it("refuses numbers that were not announced", () => {
    expect(() => readingOf(message(3), numbers([1, 2]))).toThrow("2 numbers came");
  });

  it("means over all, one layer, one head", () => {
    near(shares(reading), [0.3625, 0.2875, 0.35]);
    near(shares(reading, { layer: 4, head: null }), [0.325, 0.4, 0.275]);
    near(shares(reading, { layer: 0, head: 1 }), [0, 0.25, 0.75]);
    near(shares(reading, { layer: null, head: 0 }), [0.525, 0.3, 0.175]);
    near(wordShares(reading, { layer: 4, head: 0 }), [0, 1]);
  });

  it("sorts heads by what they look at", () => {
    near(parts(reading)[1] as number[], [0, 0.25, 0.75]);
    expect(telling(reading)).toBe(true);
    expect(kinds([reading])).toEqual(["sink", "own", "dynamic", "dynamic"]);
  });

  it("tells nothing of heads where there is nothing between", () => {
    const early = readingOf(message(0, 0, { slots: [sink, [6, "sink", 0, "commit", 0], own] }), numbers());
    expect(telling(early)).toBe(false);
    expect(kinds([early])).toBeNull();
  });

  it("leaves out what is out of sight", () => {
    const some = readingOf(message(3), numbers([NaN, 0.5, 0.5, ...MASS.slice(3), ...WORDS, ...REST, ...HEAT]));
    expect(shares(some, { layer: 0, head: 0 })[0]).toBeNaN();
    near(parts(some)[0] as number[], [0, 0.5, 0.5]);
    expect(percentage(NaN)).toBe("–");
  });
});

function of(take: number, limit?: number): Readings {
  const held = new Readings(limit);
  held.turn(take, 0);
  return held;
}

describe("the readings held", () => {
  it("are those of the take that is shown, whatever its number", () => {
    const held = of(1);
    expect(held.put(message(0, 1), numbers(), jpeg())).toBe(true);
    expect(held.put(message(0, 1), numbers(), jpeg())).toBe(false);
    held.turn(0, 0);
    expect(held.put(message(2), numbers(), jpeg())).toBe(true);
    // Late ones of another take, a newer one too, are nothing to this one.
    expect(held.put(message(5, 1), numbers(), jpeg())).toBe(false);
    expect(held.put(message(6, 2), numbers(), jpeg())).toBe(false);
    expect(held.put(message(3), numbers(), jpeg())).toBe(true);
    expect(held.blocks).toEqual([2, 3]);
    expect(held.picture(6)).toEqual(new Uint8Array([1, 2]));
  });

  it("of shared blocks are those of the other take as well", () => {
    const held = of(0);
    for (let block = 0; block < 4; block++) held.put(message(block, 0, { own: [block] }), numbers(), jpeg());
    const kept = held.at(1);
    held.turn(3, 2);
    expect(held.blocks).toEqual([0, 1]);
    expect(held.at(1)).toBe(kept);
    expect(held.all.map((reading) => reading.take)).toEqual([3, 3]);
    expect([held.picture(1), held.picture(2)].map((picture) => picture !== undefined)).toEqual([true, false]);
    held.turn(3, 0); // it is that take already
    expect(held.blocks).toEqual([0, 1]);
    held.turn(0, 0);
    expect(held.blocks).toEqual([]);
  });

  it("are bounded, and keep the pictures of what the cache holds", () => {
    const held = of(0, 5);
    for (let block = 0; block < 9; block++) held.put(message(block, 0, { own: [block] }), numbers(), jpeg());
    // The newest sees the frames 0, 5 and 6.
    expect(held.blocks).toEqual([0, 5, 6, 7, 8]);
    expect(held.picture(0)).toBeDefined();
    expect(held.picture(3)).toBeUndefined();
    expect(held.at(7)?.block).toBe(7);
    expect(held.at(4)).toBeUndefined();
    expect(held.latest?.block).toBe(8);
  });

  it("do not drop a block that was just read once more", () => {
    const held = of(0, 3);
    for (const block of [10, 11, 12, 3]) held.put(message(block, 0, { own: [block] }), numbers(), jpeg());
    expect(held.at(3)).toBeDefined();
    expect(held.blocks).toHaveLength(3);
  });

  it("take what was read again in place of what was there", () => {
    const held = of(0);
    held.put(message(2), numbers(), jpeg());
    const counts = [12, 8, 4, 4, 3, 12, 3];
    const more = numbers([...MASS, ...WORDS, ...REST, ...HEAT, 0.5, 0.25, 0.25, ...MASS, 0.2, 0.3, 0.5]);
    const trace = { words: [[0, 1, "fox", 0.25]] as [number, number, string, number][], rest: 0.5, unheard: 0.125 };
    expect(held.put(message(2, 0, { counts, point: [0, 0, 0], trace }), more, jpeg())).toBe(false);
    const found = held.at(2) as Reading;
    expect(found.point).toEqual([0, 0, 0]);
    near([...gazeOf(found) as Float32Array], [0.5, 0.25, 0.25]);
    near(gazeOf(found, { layer: 0, head: 0 }) as number[], [0.8, 0.1, 0.1]);
    near(gazeOf(found, { layer: 4, head: null }) as number[], [0.325, 0.4, 0.275]);
    near([...found.positions], [0.2, 0.3, 0.5]);
    expect(found.trace).toEqual([{ prompt: 0, index: 1, word: "fox", share: 0.25 }]);
    expect(found.unheard).toBe(0.125);
    expect(gazeOf(readingOf(message(2), numbers()), { layer: 0, head: 0 })).toHaveLength(0);
  });

  it("collect faults", () => {
    const held = of(0);
    const fault = { kind: "zero_slot", block: 1, layer: 0, slot: 0, message: "m" };
    held.put(message(1, 0, { warnings: [fault] }), numbers(), jpeg());
    held.put(message(2), numbers(), jpeg());
    expect(held.faults).toEqual([fault]);
  });
});

it("scales move rarely", () => {
  expect(scaleTop([0.01, 0.04])).toBe(5);
  expect(scaleTop([0.11, NaN])).toBe(15);
  expect(scaleTop([])).toBe(1);
  expect(scaleTop([0.013, 0.021])).toBe(3);
  expect(percentage(0.5)).toBe("50 %");
  expect(percentage(0.0312)).toBe("3.1 %");
});
