import { decodeJpeg, type Decode } from "./darkroom";
import type { Film } from "./film";

/** Decompresses the frames about to be shown, a little ahead, and lets go of those that were. */
export class Decoder {
  private pictures = new Map<number, ImageBitmap>();
  private working = new Set<number>();
  private generation = 0;

  constructor(
    private readonly film: Film,
    private readonly ready: (frame: number) => void,
    private readonly failed: (error: unknown) => void,
    private readonly decode: Decode = decodeJpeg,
    private readonly ahead = 8,
  ) {}

  /** The picture of a frame, if it is there already. */
  picture(frame: number): ImageBitmap | undefined {
    return this.pictures.get(frame);
  }

  /** Prepare the pictures from `frame` on. */
  want(frame: number): void {
    const from = Math.max(0, frame);
    for (const [held, picture] of this.pictures) {
      if (held >= from - 1 && held <= from + this.ahead) continue;
      picture.close();
      this.pictures.delete(held);
    }
    for (let at = from; at <= from + this.ahead; at++) this.start(at);
  }

  clear(): void {
    this.generation++;
    this.working.clear();
    for (const picture of this.pictures.values()) picture.close();
    this.pictures.clear();
  }

  private start(frame: number): void {
    const still = this.film.get(frame);
    if (still === undefined || this.pictures.has(frame) || this.working.has(frame)) return;
    const generation = this.generation;
    this.working.add(frame);
    this.decode(still.jpeg).then(
      (picture) => {
        if (generation !== this.generation) return picture.close();
        this.working.delete(frame);
        this.pictures.set(frame, picture);
        this.ready(frame);
      },
      (error) => {
        if (generation === this.generation) this.working.delete(frame);
        this.failed(error);
      },
    );
  }
}
