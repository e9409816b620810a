import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Link, pageName } from "../src/link";
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

  describe("past a model that is only late", () => {
    type Listener = (message: CommMessage) => unknown;
    const custom = (content: Message): CommMessage => ({ content: { data: { method: "custom", content } } });
    const update: CommMessage = { content: { data: { method: "update" } } };

    /** A connection with one listener, as JupyterLab's; `model` says what the model does with a message. */
    async function mended(model: Listener) {
      const comm = { onMsg: model, on_msg: (heard: Listener) => void (comm.onMsg = heard) };
      Object.assign(kernel, { get: () => "key", hears: false, widget_manager: { get_model: async () => ({ comm }) } });
      await pass(4);
      expect(comm.onMsg).not.toBe(model);
      return comm;
    }

    it("leaves the model every other message, and gives the connection back", async () => {
      const updates: CommMessage[] = [];
      let late: Message[] = [];
      const comm = await mended(({ content: { data } }) => {
        if (data.method === "custom") late.push(data.content as Message);
        else updates.push({ content: { data } });
      });
      await comm.onMsg(update);
      expect(updates).toEqual([update]);
      await comm.onMsg(custom({ type: "beat" }));
      expect(received).toEqual([{ type: "beat" }]);
      // The model comes round: what it passes on now was heard already, and it has the connection again.
      for (const message of late) kernel.say(message);
      expect(received).toHaveLength(1);
      late = [];
      await comm.onMsg(custom({ type: "beat" }));
      expect(received).toHaveLength(1);
      for (const message of late) kernel.say(message);
      expect(received).toHaveLength(2);
      await comm.onMsg(update);
      expect(updates).toHaveLength(2);
    });

    it("hears what a model refuses that was given up", async () => {
      const comm = await mended(() => Promise.reject(new Error("[anywidget] Failed to initialize model.")));
      await comm.onMsg(custom({ type: "beat" }));
      await comm.onMsg(update);
      expect(received).toEqual([{ type: "beat" }]);
    });

    it("touches nothing when the kernel speaks in the meantime", async () => {
      const on_msg = vi.fn();
      const get_model = async () => {
        kernel.say({ type: "beat" });
        return { comm: { on_msg } };
      };
      Object.assign(kernel, { get: () => "key", hears: false, widget_manager: { get_model } });
      await pass(4);
      expect(received).toEqual([{ type: "beat" }]);
      expect(on_msg).not.toHaveBeenCalled();
    });
  });

  it("survives a connection that throws", () => {
    kernel.send = () => {
      throw new Error("closed");
    };
    expect(() => link.tell("ack", { serial: 1 })).not.toThrow();
  });
});

describe("the name of a page", () => {
  /** A tab: its storage stays when it is reloaded, and is copied when it is duplicated. */
  function open(kept: Map<string, string>) {
    const heard = new Map<string, () => void>();
    const sessionStorage = {
      getItem: (key: string) => kept.get(key) ?? null,
      setItem: (key: string, value: string) => void kept.set(key, value),
      removeItem: (key: string) => void kept.delete(key),
    };
    const page = { sessionStorage, addEventListener: (name: string, act: () => void) => heard.set(name, act) } as never;
    return { page, kept, fire: (name: string) => heard.get(name)?.() };
  }

  it("is that of all its widgets, and stays over a reload", () => {
    const tab = open(new Map());
    const name = pageName(tab.page);
    expect(pageName(tab.page)).toBe(name);
    tab.fire("pagehide");
    expect(pageName(open(tab.kept).page)).toBe(name);
  });

  it("is another one in a tab that was duplicated", () => {
    const tab = open(new Map());
    const name = pageName(tab.page);
    expect(pageName(open(new Map(tab.kept)).page)).not.toBe(name);
    // Gone back to, a page is alive again.
    tab.fire("pagehide");
    tab.fire("pageshow");
    expect(pageName(open(new Map(tab.kept)).page)).not.toBe(name);
  });

  it("is a new one where nothing is kept", () => {
    expect(pageName({} as never)).not.toBe(pageName({} as never));
  });
});
