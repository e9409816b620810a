import { afterEach, describe, expect, it, vi } from "vitest";
import { eased } from "../src/editor/axis";
import { Desk } from "../src/editor/desk";
import { places, preview } from "../src/editor/line";
import type { Store } from "../src/store";
import { Thumbs } from "../src/thumbs";
import type { Operation, Reply, Timeline } from "../src/types";
import { grid, timeline } from "./helpers";

const GOOD: Reply = { type: "reply", client: "a", id: 1, error: null };

/** A store whose kernel answers when it is told to. */
class Kernel {
  asked: Operation[] = [];
  answers: (() => void)[] = [];
  refuses = false;
  seeked: number[] = [];
  timeline: Timeline = timeline([0, 4, 9, 20], 26);
  made = 3;
  playhead = 20;
  held = null;
  hello = { editable: true };
  link = { contact: "good" };
  playback = { frame: 20, running: false };
  film = { end: 33, first: 0 };
  readonly grid = grid;

  get store(): Store {
    return this as unknown as Store;
  }

  seek(frame: number): void {
    this.seeked.push(frame);
    this.playhead = frame;
  }

  edit(operation: Operation): Promise<Reply> {
    this.asked.push(operation);
    return new Promise((resolve) => this.answers.push(() => {
      if (!this.refuses) this.timeline = preview(this.timeline, operation) ?? this.timeline;
      resolve(this.refuses ? { ...GOOD, error: "no" } : GOOD);
    }));
  }

  async answer(): Promise<void> {
    this.answers.shift()?.();
    for (let i = 0; i < 12; i++) await Promise.resolve();
  }
}

function desk(): [Desk, Kernel, (key: string, extra?: Partial<KeyboardEvent>) => boolean] {
  const kernel = new Kernel();
  const made = new Desk(kernel.store, () => made.update());
  const press = (key: string, extra: Partial<KeyboardEvent> = {}) =>
    made.key({ key, ctrlKey: false, metaKey: false, altKey: false, shiftKey: false, ...extra } as KeyboardEvent);
  return [made, kernel, press];
}

const settle = async () => {
  for (let i = 0; i < 12; i++) await Promise.resolve();
};

describe("edits by keys", () => {
  it("follow each other, each worked out on what the one before has left", async () => {
    const [, kernel, press] = desk();
    press("ArrowDown");
    press("ArrowDown");
    press("ArrowRight", { altKey: true });
    press("ArrowRight", { altKey: true });
    await settle();
    expect(kernel.asked).toHaveLength(1);
    await kernel.answer();
    await kernel.answer();
    expect(kernel.timeline.segments.map((segment) => segment.start)).toEqual([0, 6, 11, 20]);
  });

  it("show their outcome while the answer is under way", async () => {
    const [made, kernel, press] = desk();
    made.pick(2, "only");
    press(">");
    await settle();
    expect(made.line.segments[2]?.start).toBe(10);
    expect(kernel.timeline.segments[2]?.start).toBe(9);
    await kernel.answer();
    expect(made.draft).toBeNull();
    expect(made.line.segments[2]?.start).toBe(10);
  });

  it("end where one is refused, and go on with the next press", async () => {
    const [made, kernel, press] = desk();
    made.pick(1, "only");
    press("}");
    press("}");
    kernel.refuses = true;
    await settle();
    await kernel.answer();
    expect(kernel.asked).toHaveLength(1);
    expect(made.told).toBe("no");
    kernel.refuses = false;
    press("}");
    await settle();
    expect(kernel.asked).toHaveLength(2);
  });

  it("say why nothing happens", async () => {
    const [made, kernel, press] = desk();
    press("d");
    await settle();
    expect(made.told).toMatch(/choose a prompt first/);
    made.pickAll();
    press("Delete");
    await settle();
    expect(made.told).toMatch(/at least one prompt/);
    kernel.hello.editable = false;
    press("m");
    await settle();
    expect(made.told).toMatch(/not edited/);
    expect(kernel.asked).toEqual([]);
  });

  it("leave every other key alone", () => {
    const [, , press] = desk();
    for (const key of ["x", "q", "Tab", "Enter", "Escape", "ArrowLeft", "F5", "1"]) expect(press(key), key).toBe(false);
    expect(press("s", { ctrlKey: true })).toBe(false);
    expect(press("c", { ctrlKey: true })).toBe(false);
    expect(press("ArrowUp", { altKey: true })).toBe(false);
  });

  it("mark the dragged segments at their new places", () => {
    const [made, kernel] = desk();
    made.pick(3, "only");
    made.sketch({ op: "reorder", segments: [3], to: 1 });
    expect(made.marked).toEqual([1]);
    expect(made.line.segments[1]?.prompt).toBe("p3");
    made.sketch(null);
    expect(made.marked).toEqual([3]);
    expect(places(kernel.timeline, { op: "reorder", segments: [0, 2], to: 4 })).toEqual([2, 3]);
    expect(places(kernel.timeline, { op: "split", at: 2 })).toBeNull();
  });
});

it("an edit that fails does not hold up those that follow", async () => {
  const [made, kernel, press] = desk();
  const failed: unknown[] = [];
  Object.assign(kernel, { fail: (error: unknown) => failed.push(error) });
  const lost = made.do(() => {
    throw new Error("what nobody thought of");
  });
  expect(await lost).toBeNull();
  expect(String(failed[0])).toMatch(/nobody thought of/);
  expect(made.told).toMatch(/failed/);
  made.pick(1, "only");
  press("}");
  await settle();
  expect(kernel.asked).toHaveLength(1);
});

it("knows while it waits for an answer that it was this view that asked", async () => {
  const [made, kernel] = desk();
  const [other] = [new Desk(kernel.store, () => {})];
  made.mark();
  await settle();
  expect([made.asking, other.asking]).toEqual([true, false]);
  await kernel.answer();
  expect(made.asking).toBe(false);
});

describe("what the pointer holds", () => {
  afterEach(() => vi.restoreAllMocks());

  /** A desk that is drawn sixty times a second. */
  function drawn(line: Timeline): [Desk, Kernel, (turns?: number) => void] {
    const kernel = new Kernel();
    kernel.timeline = line;
    const made = new Desk(kernel.store, () => {});
    let now = 1000;
    vi.spyOn(performance, "now").mockImplementation(() => now);
    const draw = (turns = 60) => {
      for (let i = 0; i < turns; i++) {
        now += 16;
        made.update();
      }
    };
    draw();
    return [made, kernel, draw];
  }

  it.each([
    ["the end of a film is taken to the left", timeline([0, 8], 40), { op: "length", length: 20 }, 14.8125],
    ["the last prompt of an endless one to the right", timeline([0, 11]), { op: "resize", segment_index: 1, edge: "start", to: 23 }, 40],
    ["a marker beyond what was planned", { ...timeline([0, 11]), markers: [{ block: 5 }] }, { op: "move mark", at: 5, to: 25 }, 40],
  ])("stays under it where %s", (_, line, operation, seconds) => {
    const [made, , draw] = drawn(line);
    const { axis, extent } = made;
    expect(axis).toEqual({ from: 0, seconds: extent });
    made.hold();
    made.sketch(operation);
    draw();
    expect(made.axis).toEqual(axis);
    // Let go of, all of it is fitted once, and seen again.
    made.release();
    draw();
    expect(made.axis).toEqual({ from: 0, seconds });
    expect(made.fits).toBe(true);
  });

  it("stays under it where a part is looked at, and while the playhead runs", () => {
    const [made, kernel, draw] = drawn(timeline([0, 8], 40));
    made.look({ from: 19.8125, seconds: 10 });
    made.hold();
    made.sketch({ op: "length", length: 34 });
    draw();
    expect(made.axis).toEqual({ from: 19.8125, seconds: 10 });
    made.sketch(null);
    made.release();
    made.look({ from: 15, seconds: 10 });
    kernel.playback.running = true;
    kernel.playhead = 24 * 16;
    made.hold();
    draw();
    made.follow();
    expect(made.axis.from).toBe(15);
    made.release();
    draw(1);
    expect(made.axis.from).toBeCloseTo(24 - 0.72 * 10);
  });

  it("can be taken out of sight, and what was seen before is seen again", () => {
    const [made, , draw] = drawn(timeline([0, 8], 40));
    made.hold();
    made.sketch({ op: "length", length: 60 });
    made.reach(3);
    expect(made.axis).toEqual({ from: 3, seconds: 29.8125 });
    draw();
    expect(made.axis.from).toBe(3);
    made.sketch(null);
    made.release();
    draw();
    expect(made.axis).toEqual({ from: 0, seconds: 29.8125 });
  });
});

describe("more than can be shown at once", () => {
  afterEach(() => vi.restoreAllMocks());

  it("is followed, stays where it is when paused, and is drawn again only when it moves", () => {
    const kernel = new Kernel();
    kernel.timeline = timeline([0, 4, 9]);
    let changes = 0;
    let now = 1000;
    vi.spyOn(performance, "now").mockImplementation(() => now);
    const made = new Desk(kernel.store, () => changes++);
    const play = (seconds: number, running: boolean) => {
      kernel.playback.running = running;
      kernel.playhead = seconds * 16;
      kernel.made = grid.blockAt(kernel.playhead) + 4;
      changes = 0;
      for (let i = 0; i < 120; i++) {
        now += 16;
        made.update();
      }
    };
    play(250, true);
    expect(made.axis).toEqual({ from: 0, seconds: 320 });
    // Past what can be shown it first becomes as long as it can, without a jump of its beginning.
    play(256, true);
    expect([made.extent, made.axis]).toEqual([640, { from: 0, seconds: 600 }]);
    play(510, true);
    const { axis } = made;
    expect(axis.from).toBeCloseTo(510 - 0.72 * 600);
    play(510, true);
    expect(changes).toBe(0);
    play(510, false);
    expect([made.axis, changes]).toEqual([axis, 0]);
    expect(made.fits).toBe(true);
  });
});

describe("the cursor", () => {
  it("stands for the playhead beyond what was made, and comes back", () => {
    const [made, kernel, press] = desk();
    made.go(grid.blockSeconds(10));
    expect([made.cursor, made.at, kernel.seeked]).toEqual([10, 10, []]);
    expect(press("ArrowRight")).toBe(true);
    expect(made.cursor).toBe(11);
    made.go(1);
    expect([made.cursor, kernel.seeked]).toEqual([null, [16]]);
    made.go(grid.blockSeconds(3));
    for (let i = 0; i < 2; i++) made.stepCursor(-1);
    expect(made.cursor).toBeNull();
    made.go(999);
    expect(made.cursor).toBe(26); // The video ends there.
    kernel.made = 27;
    made.update();
    expect(made.cursor).toBeNull();
  });
});

it("an axis that grows does so without a jump, and arrives", () => {
  let axis = { from: 0, seconds: 20 };
  const goal = { from: 0, seconds: 40 };
  let steps = 0;
  for (; axis !== goal && steps < 200; steps++) {
    const next = eased(axis, goal, 16);
    expect(next.seconds - axis.seconds).toBeLessThan(5);
    expect(next.seconds).toBeGreaterThan(axis.seconds);
    axis = next;
  }
  expect(steps).toBeLessThan(40);
});

describe("small pictures", () => {
  const picture = (closed: number[], i: number) => ({ close: () => closed.push(i) }) as unknown as ImageBitmap;

  it("are asked for once, together, and again only after a while", async () => {
    const asked: number[][] = [];
    let now = 0;
    const thumbs = new Thumbs((blocks) => asked.push(blocks), () => {}, async () => picture([], 0), () => now);
    for (const block of [1, 2, 1]) thumbs.get(block);
    await new Promise((resolve) => setTimeout(resolve, 120));
    expect(asked).toEqual([[1, 2]]);
    thumbs.get(1);
    await new Promise((resolve) => setTimeout(resolve, 120));
    expect(asked).toHaveLength(1);
    now = 5000;
    thumbs.get(1);
    await new Promise((resolve) => setTimeout(resolve, 120));
    expect(asked[1]).toEqual([1]);
  });

  it("are let go of, those looked at longest ago first, and all of them with their take", async () => {
    const closed: number[] = [];
    let made = 0;
    const thumbs = new Thumbs(() => {}, () => {}, async () => picture(closed, made++), () => 0, 3);
    const data = new DataView(new ArrayBuffer(8));
    thumbs.put([0, 1, 2], [1, 1, 1], data);
    await settle();
    expect(thumbs.get(0)).toBeDefined();
    thumbs.put([3], [1], data);
    await settle();
    expect([thumbs.size, closed]).toEqual([3, [1]]);
    thumbs.put([4], [1], data);
    thumbs.clear();
    await settle();
    expect([thumbs.size, closed.length]).toEqual([0, 5]);
  });
});
