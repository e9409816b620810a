import { describe, expect, it } from "vitest";
import { cut, fromCodePoints, replaceWord } from "../src/words";

const word = (text: string, at: number, nearest: string | null = null) => ({ word: text, start: at, end: at + text.length, nearest });

describe("unknown words", () => {
  it("cut a text without losing any of it", () => {
    const text = "a fjord by a fjörd";
    const pieces = cut(text, [word("fjörd", 13), word("fjord", 2, "sea")]);
    expect(pieces.map((piece) => piece.text).join("")).toBe(text);
    expect(pieces.filter((piece) => piece.word).map((piece) => piece.text)).toEqual(["fjord", "fjörd"]);
  });

  it("that no longer stand in the text are left out", () => {
    expect(cut("abc", [word("xyz", 0), word("c", 9)])).toEqual([{ text: "abc", word: null }]);
    expect(replaceWord("abc", word("xyz", 0), "q")).toBeNull();
  });

  it("are replaced in place", () => {
    expect(replaceWord("by the fjord at night", word("fjord", 7), "sea")).toBe("by the sea at night");
  });

  it("keep their place behind an emoji", () => {
    const text = "🦊 by the fjord";
    const [moved] = fromCodePoints(text, [{ word: "fjord", start: 9, end: 14, nearest: null }]);
    expect(text.slice(moved?.start, moved?.end)).toBe("fjord");
    const plain = [word("a", 0)];
    expect(fromCodePoints("a b", plain)).toBe(plain);
  });
});
