import { decodeJpeg, type Decode } from "./darkroom";

/** As many small pictures are kept decoded; each takes some 30 kB. */
const KEPT = 1500;
const ASK_MS = 80;
const MOST_ASKED = 64;
/** A picture that did not come is asked for again after this long. */
const AGAIN_MS = 4000;

/** Small pictures of blocks: those that are looked at are asked for, and the ones looked at longest ago let go of. */
export class Thumbs {
  private pictures = new Map<number, ImageBitmap>();
  private asked = new Map<number, number>();
  private wanted = new Set<number>();
  private generation = 0;
  /** Raised by every picture that comes or goes. */
  version = 0;
  private timer: ReturnType<typeof setTimeout> | null = null;

  constructor(
    private readonly ask: (blocks: number[]) => void,
    private readonly arrived: () => void,
    private readonly decode: Decode = decodeJpeg,
    private readonly now: () => number = () => performance.now(),
    private readonly limit = KEPT,
  ) {}

  /** The picture of a block; where it is not here it is asked for soon. */
  get(block: number): ImageBitmap | undefined {
    const picture = this.pictures.get(block);
    if (picture === undefined) {
      this.want(block);
    } else {
      this.pictures.delete(block);
      this.pictures.set(block, picture);
    }
    return picture;
  }

  get size(): number {
    return this.pictures.size;
  }

  put(blocks: number[], sizes: number[], data: DataView): void {
    let offset = 0;
    const generation = this.generation;
    blocks.forEach((block, i) => {
      const size = sizes[i] ?? 0;
      const jpeg = new Uint8Array(data.buffer, data.byteOffset + offset, size);
      offset += size;
      this.decode(jpeg).then(
        (picture) => (generation === this.generation ? this.keep(block, picture) : picture.close()),
        () => undefined, // A broken picture is asked for again, later.
      );
    });
  }

  clear(): void {
    this.generation++;
    this.version++;
    for (const picture of this.pictures.values()) picture.close();
    this.pictures.clear();
    this.asked.clear();
    this.wanted.clear();
  }

  private keep(block: number, picture: ImageBitmap): void {
    this.pictures.get(block)?.close();
    this.pictures.delete(block);
    this.pictures.set(block, picture);
    this.asked.delete(block);
    this.version++;
    for (const [oldest, old] of this.pictures) {
      if (this.pictures.size <= this.limit) break;
      old.close();
      this.pictures.delete(oldest);
    }
    this.arrived();
  }

  private want(block: number): void {
    const before = this.asked.get(block);
    if (before !== undefined && this.now() - before < AGAIN_MS) return;
    this.wanted.add(block);
    this.timer ??= setTimeout(() => this.send(), ASK_MS);
  }

  private send(): void {
    this.timer = null;
    const blocks = [...this.wanted].slice(-MOST_ASKED);
    this.wanted.clear();
    const now = this.now();
    for (const block of blocks) this.asked.set(block, now);
    if (blocks.length > 0) this.ask(blocks);
  }
}
