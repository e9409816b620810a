import { describe, expect, it, vi } from "vitest";
import { alignmentLines, residueLines, topOf } from "../src/curves";
import { Linked, type Channel } from "../src/linked";
import type { Reading } from "../src/readings";

function reading(block: number, prompt: number, extra: Partial<Reading> = {}): Reading {
  const slot = { frame: 3 * block, role: "window" as const, prompt, written: "commit" as const, block };
  return { block, own: [3 * block], slots: [slot], residue: {}, alignment: new Map(), ...extra } as unknown as Reading;
}

describe("curves", () => {
  const readings = [
    reading(0, 0, { alignment: new Map([[0, 0.9]]) }),
    reading(1, 1, { residue: { before: 1, after: 0.4, made: 0.3 }, alignment: new Map([[0, 0.5], [1, 0.6]]) }),
    reading(2, 1, { residue: { made: 0.2 } }),
    reading(3, 2, { residue: { before: 1, after: null, made: 0.1 } }),
  ];

  it("stand at the end of the block that was judged", () => {
    expect(alignmentLines(readings)).toEqual([
      { kind: "alignment", prompt: 0, points: [{ block: 1, value: 0.9 }, { block: 2, value: 0.5 }] },
      { kind: "alignment", prompt: 1, points: [{ block: 2, value: 0.6 }] },
    ]);
  });

  it("begin anew at each switch, with the prompt that was left", () => {
    const [first, second] = residueLines(readings);
    expect(first?.prompt).toBe(0);
    expect(first?.points).toEqual([{ block: 1, value: 1 }, { block: 1, value: 0.4 }, { block: 2, value: 0.3 }, { block: 3, value: 0.2 }]);
    expect(second?.prompt).toBe(1);
    // An empty cache holds nothing that could be measured.
    expect(second?.points).toEqual([{ block: 3, value: 1 }, { block: 4, value: 0.1 }]);
    expect(residueLines([reading(4, 0, { residue: { made: 0.5 } })])).toEqual([]);
  });

  it("share a scale that moves rarely", () => {
    expect(topOf([])).toBe(0.25);
    expect(topOf(residueLines(readings))).toBe(1);
    expect(topOf([{ kind: "alignment", prompt: 0, points: [{ block: 0, value: 0.29 }] }])).toBe(0.5);
    expect(topOf([{ kind: "residue", prompt: 0, points: [{ block: 0, value: 40 }] }])).toBe(40);
  });
});

describe("linked widgets", () => {
  class Wire implements Channel {
    listeners: ((event: { data: unknown }) => void)[] = [];
    others: Wire[] = [];
    closed = false;
    postMessage(data: unknown): void {
      for (const other of this.others) for (const listener of other.listeners) listener({ data });
    }
    addEventListener(_: "message", listener: (event: { data: unknown }) => void): void {
      this.listeners.push(listener);
    }
    close(): void {
      this.closed = true;
    }
  }

  function pair(): [Wire, Wire] {
    const [one, other] = [new Wire(), new Wire()];
    one.others = [other];
    other.others = [one];
    return [one, other];
  }

  it("hear those of the same source only", () => {
    const [one, other] = pair();
    const heard = vi.fn();
    const mine = new Linked(heard, () => one);
    const yours = new Linked(vi.fn(), () => other);
    mine.join("a");
    yours.join("a");
    yours.tell({ pointed: 4 });
    expect(heard).toHaveBeenCalledWith({ origin: "a", pointed: 4 });
    yours.join("b");
    yours.tell({ pointed: 5 });
    other.postMessage("noise");
    other.postMessage(null);
    expect(heard).toHaveBeenCalledTimes(1);
    mine.close();
    expect(one.closed).toBe(true);
  });

  it("tell those that come late what was chosen", () => {
    for (const [origin, expected] of [["a", 1], ["b", 0]] as const) {
      const [one, other] = pair();
      const heard = vi.fn();
      const early = new Linked(vi.fn(), () => one, () => ({ chosen: 6 }));
      const late = new Linked(heard, () => other);
      early.join("a");
      late.join(origin);
      expect(heard).toHaveBeenCalledTimes(expected);
      if (expected > 0) expect(heard).toHaveBeenCalledWith({ origin: "a", chosen: 6 });
    }
    const [one, other] = pair();
    const heard = vi.fn();
    new Linked(vi.fn(), () => one).join("a");
    new Linked(heard, () => other).join("a");
    expect(heard).not.toHaveBeenCalled();
  });

  it("are by themselves where there is no channel", () => {
    const alone = new Linked(vi.fn(), () => {
      throw new Error("no channels here");
    });
    alone.join("a");
    alone.tell({ pin: { layer: 1, head: null } });
    alone.close();
  });
});
