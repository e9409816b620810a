import type { Reading } from "./readings";
import type { Reply } from "./types";

/** What the kernel's figure shows. */
export interface Scened {
  block?: number;
  /** A word of the prompt or its place in it; null for the point. */
  word?: number | string | null;
  what?: string;
  frames?: number[];
  most?: number;
}

/** Whether the figure shows a word of a reading; null for its point. */
export function isScened(scened: Scened, reading: Reading, word: number | null): boolean {
  const { words } = reading;
  return scened.block === reading.block && (typeof scened.word === "string" ? words !== null && word !== null && words[word] === scened.word : scened.word === word);
}

/** Whose attention a widget's volume shows. It has one figure, so all its views show the same and ask for it once. */
export class Scening {
  /** What was chosen, by its name; null before anything was. */
  chosen: string | null = null;
  /** Why the kernel would not make the last volume. */
  problem: string | null = null;
  private wanted = "";
  private pending = 0;
  private seen: Scened | null = null;
  private held = false;

  constructor(
    private readonly send: (word: number | null, block: number) => Promise<Reply>,
    private readonly changed: () => void,
  ) {}

  /** Whether a volume is being made. */
  get busy(): boolean {
    return this.pending > 0;
  }

  /** Have the kernel make a volume, once for each that is wanted. */
  ask(reading: Reading, word: number | null): void {
    const wanted = keyOf(reading, word);
    if (wanted === this.wanted) return;
    this.wanted = wanted;
    if (this.held) {
      this.held = false;
      return;
    }
    this.problem = null;
    this.pending++;
    void this.send(word, reading.block).then((reply) => {
      this.pending--;
      if (this.wanted === wanted) this.problem = reply.error;
      this.changed();
    });
  }

  /**
   * Follow what somebody else had made, by Python or in another page: it stays until something else is wanted here.
   *
   * Returns the word that is shown now, null for the point; undefined where nobody else asked.
   */
  follow(scened: Scened, at: (block: number) => Reading | undefined): string | null | undefined {
    if (scened === this.seen) return undefined;
    const fresh = this.seen !== null;
    this.seen = scened;
    const { word, block } = scened;
    if (this.busy || word === undefined || block === undefined) return undefined;
    const shown = typeof word === "number" ? at(block)?.words?.[word] : word;
    // What a page finds when it opens may be old: it only says which word.
    if (shown !== undefined) this.held = fresh;
    return shown;
  }
}

function keyOf(reading: Reading, word: number | null): string {
  return JSON.stringify([reading.take, reading.block, word, reading.point]);
}
