import { expect, it, vi } from "vitest";
import type { Reading } from "../src/readings";
import { isScened, Scening, type Scened } from "../src/scening";
import type { Reply } from "../src/types";

const reading = (block: number, words = ["a", "fox", "runs"]) => ({ take: 0, block, point: null, words }) as unknown as Reading;
const at = (block: number) => reading(block);

/** A kernel that answers when it is told to. */
function kernel() {
  const asked: [number | null, number][] = [];
  const answers: ((reply: Reply) => void)[] = [];
  const changed = vi.fn();
  const scening = new Scening((word, block) => {
    asked.push([word, block]);
    return new Promise((resolve) => answers.push(resolve));
  }, changed);
  const answer = async (error: string | null = null) => {
    answers.shift()?.({ type: "reply", client: "", id: 0, error });
    await Promise.resolve();
    await Promise.resolve();
  };
  return { scening, asked, answer, changed };
}

it("two views that show the same ask once", async () => {
  const { scening, asked, answer, changed } = kernel();
  for (let view = 0; view < 2; view++) scening.ask(reading(3), 1);
  expect(asked).toEqual([[1, 3]]);
  expect(scening.busy).toBe(true);
  await answer();
  expect([scening.busy, changed.mock.calls.length]).toEqual([false, 1]);
  scening.ask(reading(4), 1);
  scening.ask(reading(4), 0);
  await answer("too late to matter");
  expect(scening.problem).toBeNull();
  await answer("no such word");
  expect(scening.problem).toBe("no such word");
  expect(asked).toEqual([[1, 3], [1, 4], [0, 4]]);
});

it("what somebody else had made is followed, and stays until something else is wanted here", async () => {
  const { scening, asked, answer } = kernel();
  const none: Scened = {};
  expect(scening.follow(none, at)).toBeUndefined();
  scening.ask(reading(5), 1);
  // Meanwhile what changes is the answer, or older than it.
  expect(scening.follow({ block: 5, word: 1 }, at)).toBeUndefined();
  await answer();
  const theirs: Scened = { block: 2, word: 2 };
  expect(scening.follow(theirs, at)).toBe("runs");
  expect(scening.follow(theirs, at)).toBeUndefined();
  scening.ask(reading(5), 2);
  expect(asked).toHaveLength(1);
  scening.ask(reading(6), 2);
  expect(asked.at(-1)).toEqual([2, 6]);
  await answer();
  expect(scening.follow({ block: 6, word: "fox" }, at)).toBe("fox");
  expect(scening.follow({ block: 6, word: null }, at)).toBeNull();
  expect(scening.follow({ block: 6, word: 9 }, at)).toBeUndefined();
});

it("what is there when a page opens says which word, not which block", () => {
  const { scening, asked } = kernel();
  expect(scening.follow({ block: 1, word: 2 }, at)).toBe("runs");
  scening.ask(reading(5), 2);
  expect(asked).toEqual([[2, 5]]);
});

it("the figure shows a block and a word", () => {
  expect(isScened({ block: 3, word: 1 }, reading(3), 1)).toBe(true);
  expect(isScened({ block: 3, word: "fox" }, reading(3), 1)).toBe(true);
  expect(isScened({ block: 3, word: 0 }, reading(3), 1)).toBe(false);
  expect(isScened({ block: 3, word: "runs" }, reading(3), 1)).toBe(false);
  expect(isScened({ block: 2, word: 1 }, reading(3), 1)).toBe(false);
  expect(isScened({ block: 3, word: null }, reading(3), null)).toBe(true);
  expect(isScened({}, reading(3), null)).toBe(false);
});
