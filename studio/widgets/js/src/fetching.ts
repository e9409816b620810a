import type { Film } from "./film";

/** Ask again for what did not come within this time. */
const PATIENCE_MS = 4000;

/** Asks the kernel for blocks of a film that are needed and not here. */
export class Fetching {
  private asked = new Map<number, number>();
  private take = -1;

  constructor(private readonly ask: (take: number, block: number, count: number) => void) {}

  /** Ask for what is lacking among the blocks from `block` on, unless it was asked for just now. */
  need(film: Film, block: number, count: number, now: number): boolean {
    if (film.take !== this.take) {
      this.take = film.take;
      this.asked.clear();
    }
    const lacking = Array.from({ length: count }, (_, i) => block + i).filter((at) => film.lacks(at));
    const first = lacking[0];
    if (first === undefined) return false;
    const news = lacking.some((at) => now - (this.asked.get(at) ?? -Infinity) > PATIENCE_MS);
    if (!news) return true;
    this.asked.clear();
    for (const at of lacking) this.asked.set(at, now);
    this.ask(film.take, first, (lacking.at(-1) as number) - first + 1);
    return true;
  }
}
