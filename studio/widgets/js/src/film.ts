/** One compressed frame. */
export interface Still {
  jpeg: Uint8Array;
  block: number;
}

/** The frames this page holds, compressed: the newest ones, within a limit of bytes. */
export class Film {
  private stills = new Map<number, Still>();
  private bytes = 0;
  take = -1;
  first = 0;
  /** Frame number just past the newest one held. */
  end = 0;

  constructor(private readonly limit = 48 * 1024 * 1024) {}

  /** Forget everything: a new take begins. */
  clear(take: number): void {
    this.stills.clear();
    this.bytes = 0;
    this.take = take;
    this.first = this.end = 0;
  }

  /** Store frames that arrived back to back in one buffer. Returns whether anything was new. */
  put(block: number, first: number, sizes: number[], data: Uint8Array): boolean {
    let offset = 0;
    let fresh = false;
    sizes.forEach((size, i) => {
      const jpeg = data.slice(offset, offset + size);
      offset += size;
      if (this.stills.has(first + i)) return;
      if (this.stills.size === 0) this.first = first + i;
      this.stills.set(first + i, { jpeg, block });
      this.bytes += size;
      this.first = Math.min(this.first, first + i);
      this.end = Math.max(this.end, first + i + 1);
      fresh = true;
    });
    while (this.bytes > this.limit && this.stills.size > 1) this.dropOldest();
    return fresh;
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

  /** The first frame held at or after a frame; -1 if there is none. */
  atOrAfter(frame: number): number {
    for (let at = Math.max(frame, this.first); at < this.end; at++) if (this.stills.has(at)) return at;
    return -1;
  }

  /** The last frame of the unbroken run that holds `frame`. */
  runEnd(frame: number): number {
    let at = frame;
    while (this.stills.has(at + 1)) at++;
    return at;
  }

  private dropOldest(): void {
    const still = this.stills.get(this.first);
    if (still !== undefined) {
      this.bytes -= still.jpeg.length;
      this.stills.delete(this.first);
    }
    const next = this.atOrAfter(this.first + 1);
    this.first = next < 0 ? this.end : next;
  }
}
