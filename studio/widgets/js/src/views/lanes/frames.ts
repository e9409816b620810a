import { h } from "../../dom";
import { surface } from "../../paint";
import type { Scene } from "./lane";

export const FRAMES_HEIGHT = 42;
/** How much narrower than a picture its place may be. */
const SQUEEZE = 0.75;

/** Small pictures of what was generated. */
export class FramesLane {
  readonly element = h("canvas", { class: "ls-frames", "aria-hidden": "true" });
  private drawn = "";

  draw(scene: Scene): void {
    const { desk, scale, paints } = scene;
    const { store } = desk;
    const ratio = store.hello === null ? 1 : store.hello.width / store.hello.height;
    const wide = FRAMES_HEIGHT * ratio;
    const every = stride(scale.blockWidth, wide * SQUEEZE);
    const [from, to] = scale.blocks;
    const first = Math.floor(from / every) * every;
    const last = Math.min(to, desk.made - 1);
    const places: [number, ImageBitmap | undefined][] = [];
    for (let block = first; block <= last; block += every) places.push([block, store.thumbs.get(block)]);
    const key = `${scale.axis.from} ${scale.axis.seconds} ${scale.width} ${desk.made} ${store.thumbs.version} ${store.film.take} ${paints.theme}`;
    if (key === this.drawn) return;
    this.drawn = key;
    const context = surface(this.element, scale.width, FRAMES_HEIGHT);
    if (context === null) return;
    context.imageSmoothingQuality = "medium";
    const empty = paints.get("var(--ls-raised)");
    for (const [block, picture] of places) {
      const left = scale.blockX(block);
      const right = scale.blockX(Math.min(block + every, desk.made));
      if (picture === undefined) {
        context.fillStyle = empty;
        context.fillRect(left, 0, right - left, FRAMES_HEIGHT);
      } else {
        this.place(context, picture, left, right, wide);
      }
    }
  }

  /** Fill a stretch with a picture: its middle where there is less room than it takes, side by side where there is more. */
  private place(context: CanvasRenderingContext2D, picture: ImageBitmap, left: number, right: number, wide: number): void {
    const room = right - left;
    if (room <= wide) {
      const shown = picture.width * (room / wide);
      context.drawImage(picture, (picture.width - shown) / 2, 0, shown, picture.height, left, 0, room + 0.5, FRAMES_HEIGHT);
      return;
    }
    for (let x = left; x < right; x += wide) {
      const part = Math.min(wide, right - x);
      context.drawImage(picture, 0, 0, picture.width * (part / wide), picture.height, x, 0, part + 0.5, FRAMES_HEIGHT);
    }
  }
}

/** Blocks from one picture to the next: a power of two, so that zooming shows the same ones again. */
export function stride(blockWidth: number, wanted: number): number {
  let every = 1;
  while (every * blockWidth < wanted) every *= 2;
  return every;
}
