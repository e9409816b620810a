import type { UnknownWord } from "./types";

export interface Piece {
  text: string;
  word: UnknownWord | null;
}

/** Cut a text at its unknown words. Words that do not match the text any more (it was edited meanwhile) are left out. */
export function cut(text: string, unknown: UnknownWord[]): Piece[] {
  const found: Piece[] = [];
  let at = 0;
  for (const word of [...unknown].sort((a, b) => a.start - b.start)) {
    if (word.start < at || text.slice(word.start, word.end) !== word.word) continue;
    if (word.start > at) found.push({ text: text.slice(at, word.start), word: null });
    found.push({ text: word.word, word });
    at = word.end;
  }
  if (at < text.length) found.push({ text: text.slice(at), word: null });
  return found;
}

/** Put another word in the place of one; null if the text has changed there. */
export function replaceWord(text: string, word: UnknownWord, by: string): string | null {
  if (text.slice(word.start, word.end) !== word.word) return null;
  return text.slice(0, word.start) + by + text.slice(word.end);
}

/** Python counts characters, JavaScript halves of them: move the places of words in a text with emoji. */
export function fromCodePoints(text: string, unknown: UnknownWord[]): UnknownWord[] {
  if (text.length === [...text].length) return unknown;
  const places: number[] = [];
  let unit = 0;
  for (const character of text) {
    places.push(unit);
    unit += character.length;
  }
  places.push(unit);
  return unknown.map((word) => ({
    ...word,
    start: places[word.start] ?? unit,
    end: places[word.end] ?? unit,
  }));
}
