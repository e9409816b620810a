import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Store } from "../src/store";
import type { Hello, Message, Model } from "../src/types";
import { grid, timeline } from "./helpers";

const MADE = 5;
const STATS = {
  take: 0, generated_fps: 20, denoise_ms: 1, commit_ms: 1, recache_ms: 1, vae_ms: 1, switch_latency_s: 1, lead_s: 1, played_fps: 16,
  next_frame_s: 1, generated_blocks: MADE, generated_frames: grid.start(MADE), dropped_frames: 0, device_state: "", seed: 1, device: "cpu",
};

function hello(more: Partial<Hello> = {}): Message {
  return {
    type: "hello", version: 2, name: "fake", fps: 16, width: 16, height: 16, grid: { first: 9, rest: 12 }, take: 0, playhead: 0, live: 0, made: grid.start(MADE),
    forkable: true, startable: true, exportable: true, export: null, frames: true, watchable: false, watching: false, measuring: false, trouble: null, rereads: true,
    looks_back: true, again: { busy: false, error: null }, origin: "", editable: true, takes: [], quick: [], state: "paused", timeline: timeline([0]),
    switches: [], stats: STATS, error: null, ...more,
  } as unknown as Message;
}

/** The kernel's end of a store that somebody looks at. */
class Kernel {
  sent: { type: string; client: string; id: number }[] = [];
  refuses: string | null = null;
  private heard: (message: Message, buffers: DataView[]) => void = () => {};

  get() {}
  off() {}
  on(name: string, handler: (message: Message, buffers: DataView[]) => void) {
    if (name === "msg:custom") this.heard = handler;
  }
  send(content: unknown) {
    const message = content as { type: string; client: string; id: number };
    this.sent.push(message);
    if (message.type === "restart") queueMicrotask(() => this.say({ type: "reply", client: message.client, id: message.id, error: this.refuses }));
  }
  say(message: Message, buffers: DataView[] = []) {
    this.heard(message, buffers);
  }
  get asked() {
    return this.sent.map((message) => message.type);
  }
  /** Send all blocks, one byte a frame. */
  blocks() {
    for (let index = 0; index < MADE; index++) {
      const [first, end] = [grid.start(index), grid.start(index + 1)];
      const block = { type: "block", take: 0, index, first, end, sizes: new Array(end - first).fill(1), reduced: null, prompt: "p", switch: null, serial: index + 1 };
      this.say(block as unknown as Message, [new DataView(new ArrayBuffer(end - first))]);
    }
  }
}

let kernel: Kernel;
let store: Store;
const view = { update() {}, draw() {} };

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setInterval", "clearInterval", "requestAnimationFrame", "performance"] });
  vi.stubGlobal("document", { hidden: false, addEventListener() {}, removeEventListener() {} });
  for (const name of ["addEventListener", "removeEventListener"]) vi.stubGlobal(name, () => {});
  vi.stubGlobal("requestAnimationFrame", (turn: (now: number) => void) => setTimeout(() => turn(performance.now()), 0));
  vi.stubGlobal("createImageBitmap", async () => ({ close() {} }));
  kernel = new Kernel();
  store = new Store(kernel as unknown as Model);
  store.attach(view);
});

afterEach(() => {
  store.detach(view);
  store.destroy();
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

describe("a page that opens after an error", () => {
  const error = { message: "it broke", traceback: "where" };

  it("says what went wrong, and what was switched", () => {
    const item = { prompt: "p", policy: "keep", requested_frame: 1, requested_block: 0, effective_block: 1, effective_frame: 9, latency_s: null };
    kernel.say(hello({ state: "error", error, switches: [item] }));
    expect([store.source, store.error, store.switches]).toEqual(["error", error, [item]]);
    kernel.say({ type: "state", state: "playing" } as Message);
    expect(store.error).toBeNull();
  });
});

describe("what is paused stays so when another page opens", () => {
  it.each(["closed", "error"] as const)("in a session that is %s", (state) => {
    kernel.say(hello({ state }));
    kernel.blocks();
    expect(store.paused).toBe(false); // What was made is shown to its end.
    store.pause();
    store.seek(0);
    kernel.say(hello({ state }));
    expect([store.paused, store.playhead]).toEqual([true, 0]);
  });

  it("but plays to its end when it ends", () => {
    kernel.say(hello({ state: "paused" }));
    kernel.blocks();
    kernel.say({ type: "state", state: "closed" } as Message);
    expect([store.paused, store.playback.until]).toEqual([false, grid.start(MADE) - 1]);
  });
});

describe("starting again", () => {
  it.each([["a closed session cannot start again", []], [null, ["play"]]])("refused with %s", async (refusal, then) => {
    kernel.say(hello());
    kernel.refuses = refusal;
    store.restart(3);
    for (let i = 0; i < 20; i++) await Promise.resolve();
    expect(kernel.asked.filter((type) => ["play"].includes(type))).toEqual(then);
    if (refusal !== null) expect(store.refusal).toBe(refusal);
  });
});

describe("readings of the cache", () => {
  /** A reading of one slot and nothing more. */
  function read(block: number, take: number, serial?: number): void {
    const message = {
      type: "cache", take, block, prompt: "p", policy: null, prompts: { 0: "p" }, slots: [[block, "window", 0, "commit", block]], before: null, own: [block], layers: [0], heads: 1,
      tokens: [1, 1], point: null, words: null, grid: [0, 0], counts: [1], sizes: [0], residue: {}, left: [], alignment: {}, trace: null, warnings: [], ...(serial === undefined ? {} : { serial }),
    };
    kernel.say(message as unknown as Message, [new DataView(new ArrayBuffer(4)), new DataView(new ArrayBuffer(0))]);
  }
  const turn = (take: number, former: number, shared: number) =>
    kernel.say({ type: "restart", take, former, shared, seed: 1, start: 0, live: MADE, made: grid.start(MADE) });

  it("of shared blocks stay when the take changes, and late ones of the other do no harm", () => {
    kernel.say(hello());
    for (let block = 0; block < 4; block++) read(block, 0);
    turn(1, 0, 2);
    expect(store.readings.blocks).toEqual([0, 1]);
    read(3, 0);
    read(2, 1);
    expect(store.readings.blocks).toEqual([0, 1, 2]);
    turn(0, 1, 2);
    read(5, 1);
    read(2, 0);
    expect(store.readings.all.map(({ take, block }) => [take, block])).toEqual([[0, 0], [0, 1], [0, 2]]);
    // What is shared with a take that this page never showed says nothing of what it has.
    turn(4, 3, 9);
    expect(store.readings.blocks).toEqual([]);
  });

  it("are confirmed where the kernel waits for that", () => {
    kernel.say(hello());
    read(0, 0);
    expect(kernel.asked).not.toContain("ack");
    read(1, 0, 7);
    expect(kernel.sent.at(-1)).toMatchObject({ type: "ack", serial: 7 });
    read(2, 5, 8); // of another take, but it arrived
    expect(kernel.sent.at(-1)).toMatchObject({ type: "ack", serial: 8 });
  });
});
