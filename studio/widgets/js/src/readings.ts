import type { CacheMessage, Fault, Moment, SlotFields } from "./types";

/** One slot of the cache. */
export interface Slot {
  /** Latent frame; null when it is empty. */
  frame: number | null;
  role: "sink" | "window" | "empty";
  /** Number of the prompt it was written under; `Timeline.turns` says which segment that is. */
  prompt: number | null;
  written: "commit" | "recache" | null;
  /** The block during which it was written. */
  block: number | null;
}

/** A layer and a head to look at; null stands for the mean over all. */
export interface Pin {
  layer: number | null;
  head: number | null;
}

export const ALL: Pin = { layer: null, head: null };

/** What one block saw of the cache. */
export interface Reading {
  take: number;
  block: number;
  prompt: string;
  policy: string | null;
  prompts: Record<string, string>;
  slots: Slot[];
  /** The cache before the switch at this block; null where there was none. */
  before: Slot[] | null;
  /** Latent frames that the block made. */
  own: number[];
  layers: number[];
  heads: number;
  /** Share of attention by layer, head and slot. */
  mass: Float32Array;
  words: string[] | null;
  /** Share of cross-attention by layer, head and word. */
  wordMass: Float32Array;
  /** Share of cross-attention by layer and head on what is no word. */
  rest: Float32Array;
  /** Share by own frame, sampled position and word, the mean over layers and heads. */
  heat: Float32Array;
  /** Rows and columns of the sampled positions. */
  grid: [number, number];
  /** Token rows and columns of a latent frame. */
  tokens: [number, number];
  /** Frame within the block, token row and column of the point whose gaze was read. */
  point: [number, number, number] | null;
  /** Where that point looks, by slot, token row and column. */
  gaze: Float32Array;
  /** The same by layer and head; empty where that would be too large. */
  gazes: Float32Array;
  /** Where the block as a whole looks, by slot, token row and column. */
  positions: Float32Array;
  /** Every word in the cache, those of old prompts too; null where that is not known. */
  trace: Traced[] | null;
  /** Share of the attention on slots of which nobody heard how they were written. */
  unheard: number;
  faults: Fault[];
  /** What was left of the prompt before the last switch, by moment; empty where it was not measured. */
  residue: Partial<Record<Moment, number | null>>;
  /** The same by slot, when the block was made. */
  left: (number | null)[];
  /** How well the latest frames show each prompt, by its number. */
  alignment: Map<number, number>;
}

/** A word in the cache, and the share of the attention that finds it there. */
export interface Traced {
  /** Number of its prompt. */
  prompt: number;
  index: number;
  word: string;
  share: number;
}

export type HeadKind = "sink" | "own" | "dynamic";
export const PARTS = ["sink", "between", "own"] as const;
export type Part = (typeof PARTS)[number];

function slot([frame, role, prompt, written, block]: SlotFields): Slot {
  return { frame, role, prompt, written, block };
}

/** Read a message and the numbers that came with it. */
export function readingOf(message: CacheMessage, numbers: DataView): Reading {
  // The bytes may begin anywhere; numbers of four bytes must not.
  const bytes = new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength).slice();
  const all = new Float32Array(bytes.buffer);
  if (all.length !== message.counts.reduce((sum, count) => sum + count, 0)) {
    throw new Error(`block ${message.block}: ${all.length} numbers came, ${message.counts.join(" + ")} were announced`);
  }
  let at = 0;
  const [mass, wordMass, rest, heat, gaze, gazes, positions] = [0, 1, 2, 3, 4, 5, 6].map((i) => all.subarray(at, (at += message.counts[i] ?? 0)));
  return {
    take: message.take,
    block: message.block,
    prompt: message.prompt,
    policy: message.policy,
    prompts: message.prompts,
    slots: message.slots.map(slot),
    before: message.before === null ? null : message.before.map(slot),
    own: message.own,
    layers: message.layers,
    heads: message.heads,
    mass: mass as Float32Array,
    words: message.words,
    wordMass: wordMass as Float32Array,
    rest: rest as Float32Array,
    heat: heat as Float32Array,
    grid: message.grid,
    tokens: message.tokens,
    point: message.point,
    gaze: gaze as Float32Array,
    gazes: gazes as Float32Array,
    positions: positions as Float32Array,
    trace: message.trace?.words.map(([prompt, index, word, share]) => ({ prompt, index, word, share })) ?? null,
    unheard: message.trace?.unheard ?? 0,
    faults: message.warnings,
    residue: message.residue,
    left: message.left,
    alignment: new Map(Object.entries(message.alignment).flatMap(([number, value]) => (value === null ? [] : [[Number(number), value] as [number, number]]))),
  };
}

/** Mean over layers and heads, or one of them, of numbers by layer, head and something. */
function pool(values: Float32Array, reading: Reading, count: number, pin: Pin): number[] {
  const sums = new Array<number>(count).fill(0);
  let taken = 0;
  reading.layers.forEach((layer, l) => {
    if (pin.layer !== null && pin.layer !== layer) return;
    for (let head = 0; head < reading.heads; head++) {
      if (pin.head !== null && pin.head !== head) continue;
      const from = (l * reading.heads + head) * count;
      for (let i = 0; i < count; i++) sums[i] = (sums[i] as number) + (values[from + i] as number);
      taken++;
    }
  });
  return sums.map((sum) => sum / taken);
}

/** Share of the attention on each slot; NaN for what is out of sight. */
export function shares(reading: Reading, pin: Pin = ALL): number[] {
  return pool(reading.mass, reading, reading.slots.length, pin);
}

/** Share of the cross-attention on each word. */
export function wordShares(reading: Reading, pin: Pin = ALL): number[] {
  return pool(reading.wordMass, reading, reading.words?.length ?? 0, pin);
}

/** Where the point of a block looks, by slot, token row and column; empty where one head alone was not kept. */
export function gazeOf(reading: Reading, pin: Pin = ALL): ArrayLike<number> {
  if (pin.layer === null && pin.head === null) return reading.gaze;
  return reading.gazes.length === 0 ? [] : pool(reading.gazes, reading, reading.gaze.length, pin);
}

/** Share of the attention on the sink, on the block itself and between, by layer and head. */
export function parts(reading: Reading): number[][] {
  const count = reading.slots.length;
  const place = reading.slots.map((one) => (one.frame !== null && reading.own.includes(one.frame) ? 2 : one.role === "sink" ? 0 : 1));
  return Array.from({ length: reading.layers.length * reading.heads }, (_, row) => {
    const sums = [0, 0, 0];
    for (let i = 0; i < count; i++) {
      const value = reading.mass[row * count + i] as number;
      const part = place[i] as number;
      if (Number.isFinite(value)) sums[part] = (sums[part] as number) + value;
    }
    return sums;
  });
}

/** Whether a block sees a sink, itself and something between: only then do heads tell what they are for. */
export function telling(reading: Reading): boolean {
  const own = reading.slots.filter((one) => one.frame !== null && reading.own.includes(one.frame));
  const rest = reading.slots.filter((one) => one.role === "window" && one.frame !== null && !reading.own.includes(one.frame));
  return reading.layers.length > 0 && rest.length > 0 && own.every((one) => one.role !== "sink");
}

/** What each head is for, from the mean over all blocks that tell; as studio.probes.classify_heads. */
export function kinds(readings: Reading[], majority = 0.5): HeadKind[] | null {
  const found = readings.filter(telling).map(parts);
  const first = found[0];
  if (first === undefined) return null;
  return first.map((_, row) => {
    const mean = (part: number) => found.reduce((sum, one) => sum + (one[row]?.[part] ?? 0), 0) / found.length;
    return mean(0) >= majority ? "sink" : mean(2) >= majority ? "own" : "dynamic";
  });
}

/** The readings this page holds, by block: the newest ones. */
export class Readings {
  take = -1;
  private held = new Map<number, Reading>();
  private pictures = new Map<number, Uint8Array>();

  constructor(private readonly limit = 400) {}

  /** Turn to another take: what was read of the first blocks that are the same in both is of that one as well. */
  turn(take: number, shared: number): void {
    if (take === this.take) return;
    this.take = take;
    for (const [block, reading] of this.held) {
      if (block < shared) reading.take = take;
      else this.forget(block);
    }
  }

  /** Take in a reading and its pictures; those of other takes are left out. Returns whether its block was new. */
  put(message: CacheMessage, numbers: DataView, jpegs: DataView): boolean {
    if (message.take !== this.take) return false;
    // What is read again takes the place of what was there: it knows more.
    const fresh = !this.held.has(message.block);
    this.held.set(message.block, readingOf(message, numbers));
    let at = jpegs.byteOffset;
    message.own.forEach((frame, i) => {
      const size = message.sizes[i] ?? 0;
      if (size === 0) return; // nothing was decoded
      this.pictures.set(frame, new Uint8Array(jpegs.buffer, at, size).slice());
      at += size;
    });
    while (this.held.size > this.limit) this.drop(message.block);
    return fresh;
  }

  at(block: number): Reading | undefined {
    return this.held.get(block);
  }

  get latest(): Reading | undefined {
    const block = this.blocks.at(-1);
    return block === undefined ? undefined : this.held.get(block);
  }

  /** Blocks read, in order. */
  get blocks(): number[] {
    return [...this.held.keys()].sort((a, b) => a - b);
  }

  get all(): Reading[] {
    return this.blocks.map((block) => this.held.get(block) as Reading);
  }

  picture(frame: number): Uint8Array | undefined {
    return this.pictures.get(frame);
  }

  /** Every fault of the take so far, old to new. */
  get faults(): Fault[] {
    return this.all.flatMap((reading) => reading.faults);
  }

  /** How many readings are held at most. */
  get most(): number {
    return this.limit;
  }

  private drop(spare: number): void {
    // The oldest goes, but not one whose pictures the cache's own slots need.
    const needed = new Set(this.latest?.slots.map((one) => one.frame));
    const held = this.blocks.filter((block) => block !== spare);
    const oldest = held.find((block) => !this.held.get(block)?.own.some((frame) => needed.has(frame))) ?? held[0];
    if (oldest !== undefined) this.forget(oldest);
  }

  private forget(block: number): void {
    for (const frame of this.held.get(block)?.own ?? []) this.pictures.delete(frame);
    this.held.delete(block);
  }
}

const PERCENT = [1, 2, 3, 5, 10, 15, 20, 30, 40, 50, 75, 100];

/** The top of a scale for shares, in percent, that moves rarely. */
export function scaleTop(values: number[]): number {
  const most = 100 * Math.max(0, ...values.filter(Number.isFinite));
  return PERCENT.find((top) => top >= most) ?? 100;
}

/** A share in percent, with two digits that matter. */
export function percentage(share: number): string {
  if (!Number.isFinite(share)) return "–";
  const value = 100 * share;
  return `${value >= 9.95 ? value.toFixed(0) : value.toFixed(1)} %`;
}
