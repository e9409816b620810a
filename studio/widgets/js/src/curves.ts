import type { Reading } from "./readings";

/** A value at a moment, counted in blocks: 3 is the start of block 3. */
export interface Point {
  block: number;
  value: number;
}

export interface Line {
  kind: "alignment" | "residue";
  /** Number of the prompt it is about. */
  prompt: number;
  points: Point[];
}

/** The number of the prompt that a block was made under. */
function promptOf(reading: Reading): number {
  return reading.slots.find((slot) => slot.frame !== null && reading.own.includes(slot.frame))?.prompt ?? 0;
}

/** How well the film shows each prompt, as judged at the end of each block. */
export function alignmentLines(readings: Reading[]): Line[] {
  const lines = new Map<number, Line>();
  for (const reading of readings) {
    for (const [prompt, value] of reading.alignment) {
      const line: Line = lines.get(prompt) ?? { kind: "alignment", prompt, points: [] };
      lines.set(prompt, line);
      line.points.push({ block: reading.block + 1, value });
    }
  }
  return [...lines.values()].sort((a, b) => a.prompt - b.prompt);
}

/** What is left of each prompt that was switched away from: a line a switch. */
export function residueLines(readings: Reading[]): Line[] {
  const lines: Line[] = [];
  let before: Reading | undefined;
  for (const reading of readings) {
    const { residue } = reading;
    if ("before" in residue) lines.push({ kind: "residue", prompt: before === undefined ? 0 : promptOf(before), points: [] });
    const line = lines.at(-1);
    const put = (block: number, value: number | null | undefined) => {
      if (value !== null && value !== undefined) line?.points.push({ block, value });
    };
    put(reading.block, residue.before);
    put(reading.block, residue.after);
    put(reading.block + 1, residue.made);
    before = reading;
  }
  return lines.filter((line) => line.points.length > 0);
}

const TOPS = [0.25, 0.5, 1, 1.25, 1.5, 2, 3, 5, 10];

/** The top of the scale: 1 for shares, less where a judge's numbers are all small. */
export function topOf(lines: Line[]): number {
  const most = Math.max(0, ...lines.flatMap((line) => line.points.map((point) => point.value)));
  return TOPS.find((top) => top >= most - 1e-3) ?? most;
}

/** A value with two digits. */
export function twoDigits(value: number): string {
  return value.toFixed(2);
}
