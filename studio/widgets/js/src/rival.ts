import { Decoder } from "./decoder";
import { Fetching } from "./fetching";
import { Film } from "./film";
import type { Grid } from "./grid";
import type { Take } from "./types";

const LIMIT = 24 * 1024 * 1024;

/** Another take, shown frame by frame beside the current one. */
export class Rival {
  readonly film: Film;
  private readonly decoder: Decoder;
  private readonly fetching: Fetching;
  private shown = -1;

  constructor(
    public info: Take,
    grid: Grid,
    ask: (take: number, block: number, count: number) => void,
    ready: () => void,
    failed: (error: unknown) => void,
  ) {
    this.film = new Film(grid, LIMIT);
    this.film.clear(info.number, info.blocks, grid.start(info.blocks));
    this.decoder = new Decoder(this.film, ready, failed);
    this.fetching = new Fetching(ask);
  }

  /** Take in that it was renamed or that it is gone. */
  follow(takes: Take[]): void {
    this.info = takes.find((take) => take.number === this.info.number) ?? this.info;
  }

  /** The picture of a frame; null past the end of the take, undefined while it is not here or is shown already. */
  show(frame: number, ahead: number): ImageBitmap | null | undefined {
    if (frame >= this.film.end) {
      this.shown = -1;
      return null;
    }
    this.fetching.need(this.film, this.film.grid.blockAt(frame), ahead, performance.now());
    this.decoder.want(frame);
    const picture = this.decoder.picture(frame);
    if (picture === undefined || this.shown === frame) return undefined;
    this.shown = frame;
    return picture;
  }

  /** Draw again although the frame is the same: the place has another size. */
  again(): void {
    this.shown = -1;
  }

  release(): void {
    this.decoder.clear();
  }
}
