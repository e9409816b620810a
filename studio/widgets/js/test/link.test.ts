import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Link } from "../src/link";
import type { CommMessage, Message } from "../src/types";

/** The kernel's end: answers pings while it can hear, and may talk while it cannot. */
class Kernel {
  sent: { type: string; id?: number; client: string }[] = [];
  hears = true;
  private handlers = new Map<string, (...args: never[]) => void>();

  get() {}
  off() {}
  on(name: string, handler: (...args: never[]) => void) {
    this.handlers.set(name, handler);
  }
  send(content: unknown) {
    const message = content as { type: string; id: number; client: string };
    this.sent.push(message);
    if (this.hears && message.type === "ping") queueMicrotask(() => this.say({ type: "pong", client: message.client, id: message.id }));
  }
  say(message: Message) {
    (this.handlers.get("msg:custom") as ((message: Message, buffers: DataView[]) => void) | undefined)?.(message, []);
  }
  disconnect() {
    (this.handlers.get("comm_live_update") as (() => void) | undefined)?.();
  }
}

let now = 0;
let kernel: Kernel;
let link: Link;
let received: Message[];

beforeEach(() => {
  vi.useFakeTimers();
  vi.stubGlobal("document", { hidden: false });
  now = 0;
  kernel = new Kernel();
  received = [];
  link = new Link(kernel, (message) => received.push(message), () => {}, () => now);
  link.open();
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

async function pass(seconds: number, each: () => void = () => {}) {
  for (let i = 0; i < seconds * 2; i++) {
    now += 500;
    each();
    await vi.advanceTimersByTimeAsync(500);
  }
}

describe("link", () => {
  it("says hello and goodbye", () => {
    link.leave();
    expect(kernel.sent.map((message) => message.type)).toEqual(["ready", "bye"]);
    kernel.say({ type: "beat" });
    expect(received).toEqual([]);
  });

  it("is good while the kernel answers", async () => {
    await pass(20);
    expect(link.contact).toBe("good");
    expect(kernel.sent.filter((message) => message.type === "ping").length).toBeGreaterThan(4);
  });

  it("notices a busy kernel that cannot be reached but goes on talking", async () => {
    await pass(4);
    kernel.hears = false;
    await pass(8, () => kernel.say({ type: "beat" }));
    expect(link.contact).toBe("deaf");
    kernel.hears = true;
    await pass(12, () => kernel.say({ type: "beat" }));
    expect(link.contact).toBe("good");
  });

  it("notices a kernel that is gone, and that it came back", async () => {
    kernel.hears = false;
    await pass(11);
    expect(link.contact).toBe("lost");
    kernel.hears = true;
    await pass(12);
    expect(link.contact).toBe("good");
  });

  it("tells a restart from a hiccup", async () => {
    await pass(4);
    kernel.disconnect();
    await pass(1);
    expect(link.contact).toBe("good");
    kernel.hears = false;
    kernel.disconnect();
    await pass(7);
    expect(link.contact).toBe("restarted");
  });

  it("does not judge while hidden", async () => {
    await pass(4);
    vi.stubGlobal("document", { hidden: true });
    kernel.hears = false;
    await pass(60);
    expect(link.contact).toBe("good");
  });

  it("gives each answer to its question, and not to other pages", async () => {
    const answer = link.ask("switch", { prompt: "a" });
    const id = kernel.sent.at(-1)?.id ?? -1;
    kernel.say({ type: "reply", client: "another page", id, error: "not yours" });
    kernel.say({ type: "reply", client: link.client, id, error: null, effective_block: 4 });
    expect((await answer).effective_block).toBe(4);
    expect(received).toEqual([]);
  });

  it("finds a way past a model that was given up while loading", async () => {
    let direct: ((message: CommMessage) => void) | undefined;
    Object.assign(kernel, {
      get: () => "key",
      hears: false,
      widget_manager: { get_model: async () => ({ comm: { on_msg: (heard: typeof direct) => (direct = heard) } }) },
    });
    await pass(4);
    expect(kernel.sent.filter((message) => message.type === "ready")).toHaveLength(2);
    direct?.({ content: { data: { method: "custom", content: { type: "beat" } } } });
    direct?.({ content: { data: { method: "update" } } });
    expect(received).toEqual([{ type: "beat" }]);
    expect(link.contact).toBe("good");
  });

  it("survives a connection that throws", () => {
    kernel.send = () => {
      throw new Error("closed");
    };
    expect(() => link.tell("ack", { serial: 1 })).not.toThrow();
  });
});
