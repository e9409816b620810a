import { afterEach, beforeEach, expect, it, vi } from "vitest";
import type { Store } from "../src/store";
import type { Model } from "../src/types";
import { VolumeView } from "../src/views/volume";
import { WordsView } from "../src/views/words";

let observed: number;

beforeEach(() => {
  observed = 0;
  const element = () => ({ addEventListener() {}, setAttribute() {}, append() {}, getContext: () => null, children: [] });
  vi.stubGlobal("document", { createElement: element });
  vi.stubGlobal("Node", class {});
  vi.stubGlobal("ResizeObserver", class {
    observe() {
      observed++;
    }
    disconnect() {
      observed--;
    }
  });
});

afterEach(() => vi.unstubAllGlobals());

it("a view that is gone hears no more of the model and shows no figure", () => {
  const heard: unknown[] = [];
  const model = {
    get: () => "", on: (name: string, listener: unknown) => void heard.push([name, listener]),
    off: (name: string, listener: unknown) => void heard.splice(heard.findIndex((each) => String(each) === String([name, listener])), 1),
  };
  const store = { link: {} } as unknown as Store;
  const views = [0, 1].map(() => new VolumeView(store, model as unknown as Model));
  expect([heard.length, observed]).toEqual([4, 2]);
  const remove = vi.fn();
  Object.assign(views[0] as object, { mounted: { view: { remove } } });
  for (const view of views) view.dispose();
  expect([heard.length, observed, remove.mock.calls.length]).toEqual([0, 0, 1]);
});

it("words that are gone watch no size", () => {
  const view = new WordsView({} as Store);
  expect(observed).toBe(1);
  view.dispose();
  expect(observed).toBe(0);
});
