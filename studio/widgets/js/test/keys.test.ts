import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { keep, listen, type Doors } from "../src/keys";
import type { Store } from "../src/store";

/** As much of an element as keys need: what it lies in, and the one attribute that other front ends look at. */
class Part extends EventTarget {
  readonly attributes = new Map<string, string>();

  constructor(private readonly selectors: string[] = []) {
    super();
  }

  contains(other: unknown) {
    return other instanceof Part;
  }
  closest(wanted: string) {
    return wanted.split(", ").some((selector) => this.selectors.includes(selector)) ? this : null;
  }
  setAttribute(name: string, value: string) {
    this.attributes.set(name, value);
  }
  removeAttribute(name: string) {
    this.attributes.delete(name);
  }
  get keeps() {
    return this.attributes.has("data-lm-suppress-shortcuts");
  }
}

const DIALOG = '[role="dialog"]';
type Listener = (event: Event) => void;
let listeners: Set<Listener>;
let root: Part;
let done: string[];

/** Press a key on a part; returns what came of it, and whether the notebook gets to see it. */
function press(key: string, more: object = {}, target = new Part()): { done: string[]; notebook: boolean } {
  const event = Object.assign(new Event("keydown", { cancelable: true }), { key, ctrlKey: false, metaKey: false, altKey: false, shiftKey: false, isComposing: false, ...more });
  Object.defineProperty(event, "target", { value: target });
  const stopped = vi.spyOn(event, "stopPropagation");
  done = [];
  // The page hears of it first, and then what lies on the way.
  for (const listener of listeners) listener(event);
  const suppressed = root.keeps;
  root.dispatchEvent(event);
  return { done, notebook: !suppressed && stopped.mock.calls.length === 0 };
}

beforeEach(() => {
  listeners = new Set();
  vi.stubGlobal("addEventListener", (_: string, listener: Listener, capture: boolean) => capture && listeners.add(listener));
  vi.stubGlobal("removeEventListener", (_: string, listener: Listener, capture: boolean) => capture && listeners.delete(listener));
  root = new Part();
});
afterEach(() => vi.unstubAllGlobals());

describe("keys of a view", () => {
  it("stay the notebook's where they are its own, and only those", () => {
    const leave = keep(root as unknown as HTMLElement);
    expect(root.keeps).toBe(true);
    expect(press("s", { ctrlKey: true }).notebook).toBe(true);
    expect(press("f", { metaKey: true }).notebook).toBe(true);
    for (const key of ["ArrowDown", "a", "Enter", "Delete"]) expect(press(key).notebook, key).toBe(false);
    expect(press("z", { ctrlKey: true }).notebook).toBe(false);
    leave();
    root.removeAttribute("data-lm-suppress-shortcuts");
    press("z", { ctrlKey: true });
    expect(root.keeps).toBe(false);
  });
});

describe("keys of the studio", () => {
  const note = (what: string) => () => void done.push(what);
  const store = { toggle: note("play"), stepFrame: note("frame") } as unknown as Store;
  const doors: Doors = {
    prompt: note("prompt"), help: note("help"), start: note("start"), fullscreen: note("full"), loop: note("loop"),
    escape: () => done.push("escape") > 0, timeline: ({ key }) => key === "Delete" && done.push("remove") > 0, quick: () => done.push("quick") > 0,
  };

  it("reach the prompts, but not from an open panel that does not mean them", () => {
    const leave = listen(root as unknown as HTMLElement, store, doors);
    expect(press("Delete").done).toEqual(["remove"]);
    expect(press("1").done).toEqual(["quick"]);
    for (const role of [DIALOG, '[role="alertdialog"]']) {
      const panel = new Part([role]);
      expect(press("Delete", {}, panel)).toEqual({ done: [], notebook: false });
      expect(press("1", {}, panel).done).toEqual([]);
      // It is closed and played from there all the same.
      expect(press("Escape", {}, panel).done).toEqual(["escape"]);
      expect(press(",", {}, panel).done).toEqual(["frame"]);
      expect(press("?", {}, panel).done).toEqual(["help"]);
    }
    leave();
    expect(press("Delete").done).toEqual([]);
  });

  it("are let alone while a word is being composed", () => {
    listen(root as unknown as HTMLElement, store, doors);
    expect(press("Escape", { isComposing: true }).done).toEqual([]);
    expect(press("Delete", { isComposing: true }).done).toEqual([]);
  });
});
