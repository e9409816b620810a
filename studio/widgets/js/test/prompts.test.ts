import { expect, it } from "vitest";
import { segmentOf, textOf, tintOf } from "../src/prompts";
import type { Reading } from "../src/readings";
import { timeline } from "./helpers";

// Three segments, of which the second is a mere cut: the third is the prompt with number 1.
const line = { ...timeline([0, 2, 4]), turns: [0, 2] };

it("a cut is no prompt of its own", () => {
  expect(segmentOf(line, 1)?.start).toBe(4);
  expect([0, 1].map((number) => tintOf(line, number))).toEqual(["var(--ls-p1)", "var(--ls-p3)"]);
  expect(segmentOf(line, 2)).toBeUndefined();
  expect(tintOf(line, 2)).toBe("var(--ls-p3)");
});

it("the text of a prompt is what was read, and else the segment's", () => {
  const reading = (prompts: Record<string, string>) => ({ prompts }) as unknown as Reading;
  expect(textOf([reading({ 1: "old" }), reading({ 1: "new" }), reading({ 0: "a" })], line, 1)).toBe("new");
  expect(textOf([], line, 1)).toBe("p2");
  expect(textOf([], line, 7)).toBe("prompt 7");
});
