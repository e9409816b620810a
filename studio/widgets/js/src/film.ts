import type { Grid } from "./grid";

/** One compressed frame. */
export interface Still {
  jpeg: Uint8Array;
  block: number;
}

interface Shelf {
  first: number;
  end: number;
  bytes: number;
}

/**
 * The frames of one take that this page holds, compressed, within a limit of bytes.
 *
 * Every frame that was made can be had again from the kernel, so what lies farthest from the playhead is let go of. A
 * block is `live` when it will arrive by itself, and missing when the kernel said that it is gone for good.
 */
export class Film {
  private stills = new Map<number, Still>();
  private shelves = new Map<number, Shelf>();
  private missing = new Set<number>();
  private bytes = 0;
  private newest = -1;
  take = -1;
  /** Frame number just past the last one that was made. */
  end = 0;
  /** First block that arrives without being asked for. */
  live = 0;
  /** Raised by everything that arrives or goes. */
  version = 0;

  constructor(public grid: Grid, private readonly limit = 48 * 1024 * 1024) {}

  /** Forget everything: another take is shown. */
  clear(take: number, live = 0, made = 0): void {
    this.stills.clear();
    this.shelves.clear();
    this.missing.clear();
    this.bytes = 0;
    this.newest = -1;
    this.take = take;
    this.live = live;
    this.end = made;
    this.version++;
  }

  /** Store frames that arrived back to back in one buffer. Returns whether anything was new. */
  put(block: number, first: number, sizes: number[], data: Uint8Array, around = first): boolean {
    let offset = 0;
    let fresh = false;
    const shelf = this.shelves.get(block) ?? { first, end: first, bytes: 0 };
    // One copy for all its frames, so that the message can go and what is kept comes and goes in large pieces.
    const own = data.slice();
    sizes.forEach((size, i) => {
      const at = offset;
      offset += size;
      if (this.stills.has(first + i)) return;
      this.stills.set(first + i, { jpeg: own.subarray(at, offset), block });
      shelf.bytes += size;
      this.bytes += size;
      fresh = true;
    });
    shelf.first = Math.min(shelf.first, first);
    shelf.end = Math.max(shelf.end, first + sizes.length);
    this.shelves.set(block, shelf);
    this.missing.delete(block);
    this.newest = Math.max(this.newest, block);
    this.end = Math.max(this.end, shelf.end);
    if (fresh) this.version++;
    this.trim(this.grid.blockAt(Math.max(0, around)));
    return fresh;
  }

  /** Note that blocks are gone for good. */
  miss(from: number, to: number): void {
    for (let block = from; block < to; block++) if (!this.shelves.has(block)) this.missing.add(block);
    this.version++;
  }

  get(frame: number): Still | undefined {
    return this.stills.get(frame);
  }

  has(frame: number): boolean {
    return this.stills.has(frame);
  }

  get size(): number {
    return this.stills.size;
  }

  /** Bytes of compressed frames held. */
  get weight(): number {
    return this.bytes;
  }

  /** The first frame that can be shown, now or when it has arrived. */
  get first(): number {
    return Math.min(this.skip(0), Math.max(0, this.end - 1));
  }

  /** The first frame at or after one that is not gone for good. */
  skip(frame: number): number {
    let at = Math.max(0, frame);
    while (at < this.end && !this.stills.has(at) && this.missing.has(this.grid.blockAt(at))) at = this.grid.start(this.grid.blockAt(at) + 1);
    return at;
  }

  /** The frame to show at a place or after it; -1 while it has not arrived. */
  next(frame: number): number {
    const at = this.skip(frame);
    return this.stills.has(at) ? at : -1;
  }

  /** Whether a block was made, is not here, and does not come by itself. */
  lacks(block: number): boolean {
    const first = this.grid.start(block);
    if (first >= this.end || this.missing.has(block)) return false;
    if (block >= this.live && block >= this.newest) return false;
    const shelf = this.shelves.get(block);
    return shelf === undefined || shelf.first > first || shelf.end < Math.min(this.grid.start(block + 1), this.end);
  }

  /** Stretches of frames that are here, in order. */
  stretches(): [number, number][] {
    const found: [number, number][] = [];
    for (const { first, end } of [...this.shelves.values()].sort((a, b) => a.first - b.first)) {
      const last = found.at(-1);
      if (last !== undefined && last[1] >= first) last[1] = Math.max(last[1], end);
      else found.push([first, end]);
    }
    return found;
  }

  private trim(around: number): void {
    while (this.bytes > this.limit && this.shelves.size > 1) {
      let farthest = -1;
      for (const block of this.shelves.keys()) {
        if (farthest < 0 || Math.abs(block - around) > Math.abs(farthest - around)) farthest = block;
      }
      const shelf = this.shelves.get(farthest);
      if (shelf === undefined || farthest === around) return;
      for (let at = shelf.first; at < shelf.end; at++) this.stills.delete(at);
      this.bytes -= shelf.bytes;
      this.shelves.delete(farthest);
    }
  }
}
