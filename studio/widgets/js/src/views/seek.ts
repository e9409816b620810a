import { colour, h, put, setText, show } from "../dom";
import { clock } from "../grid";
import { seekScale, stripes } from "../reach";
import type { Store } from "../store";

/** The bar under the picture: everything that was made, in the colours of its prompts, and the playhead in it. */
export class SeekView {
  readonly element: HTMLElement;
  private readonly made = h("div", { class: "ls-seekmade" });
  private readonly range = h("div", { class: "ls-seekrange", hidden: true });
  private readonly knob = h("div", { class: "ls-seekknob" });
  private readonly tip = h("div", { class: "ls-seektip ls-num", hidden: true });
  private dragging = false;
  private painted = "";
  private pending: number | null = null;

  constructor(private readonly store: Store) {
    const track = h("div", { class: "ls-seektrack" }, this.made, this.range);
    this.element = h("div", { class: "ls-seek", role: "slider", tabindex: 0, "aria-label": "Place in the video", "aria-valuemin": 0 }, track, this.knob, this.tip);
    this.element.addEventListener("pointerdown", (event) => this.begin(event));
    this.element.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"] as const) this.element.addEventListener(name, () => this.end());
    this.element.addEventListener("pointerleave", () => show(this.tip, false));
    this.element.addEventListener("keydown", (event) => this.onKey(event));
  }

  update(): void {
    const { store } = this;
    const total = this.total;
    const key = `${total} ${store.film.end} ${JSON.stringify(store.timeline.segments.map((one) => [one.start, one.colour]))}`;
    if (key !== this.painted) {
      this.painted = key;
      const bands = stripes(store.timeline, store.grid, store.film.end).map(([from, to, value]) => `${colour(value)} ${percent(from)} ${percent(to)}`);
      this.made.style.background = bands.length > 0 ? `linear-gradient(90deg, ${bands.join(", ")})` : "none";
      this.made.style.width = percent(Math.min(1, store.film.end / total));
      this.element.setAttribute("aria-valuemax", String(Math.max(0, store.film.end - 1)));
    }
    const { range } = store.playback;
    show(this.range, range !== null);
    if (range !== null) {
      this.range.style.left = percent(range.from / total);
      this.range.style.width = percent((range.to - range.from) / total);
    }
    this.moveKnob();
    this.tell();
  }

  /** The knob moves with every frame; nothing else here does. */
  moveKnob(): void {
    // By a share of the bar's width, which moves it without a layout.
    const share = Math.min(1, this.store.playhead / Math.max(1, this.total - 1));
    // At the ends it stays whole within the card.
    this.knob.style.transform = `translateX(clamp(7px, ${(share * 100).toFixed(3)}cqw, 100cqw - 7px))`;
  }

  /** Say where it is to those who listen. */
  tell(): void {
    const { store } = this;
    const at = store.playhead;
    put(this.element, "aria-valuenow", String(at));
    put(this.element, "aria-valuetext", `${clock(store.grid.seconds(at))} of ${clock(store.grid.seconds(store.film.end))}, block ${store.grid.blockAt(at)}`);
  }

  private get total(): number {
    return seekScale(this.store.timeline, this.store.grid, this.store.film.end);
  }

  private frameAt(event: PointerEvent): number {
    const box = this.element.getBoundingClientRect();
    const share = box.width > 0 ? Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) : 0;
    return Math.round(share * (this.total - 1));
  }

  private begin(event: PointerEvent): void {
    if (event.button !== 0 || this.store.film.end === 0) return;
    event.preventDefault();
    this.element.focus();
    this.element.setPointerCapture(event.pointerId);
    this.dragging = true;
    this.store.scrub(true);
    this.store.seek(this.frameAt(event));
    this.point(event);
  }

  private move(event: PointerEvent): void {
    this.point(event);
    if (!this.dragging) return;
    // Many movements come between two pictures; the last one counts.
    const first = this.pending === null;
    this.pending = this.frameAt(event);
    if (first) requestAnimationFrame(() => {
      if (this.pending !== null && this.dragging) this.store.seek(this.pending);
      this.pending = null;
    });
  }

  private end(): void {
    if (!this.dragging) return;
    this.dragging = false;
    if (this.pending !== null) this.store.seek(this.pending);
    this.pending = null;
    this.store.scrub(false);
  }

  private point(event: PointerEvent): void {
    const { store } = this;
    const frame = Math.min(this.frameAt(event), Math.max(0, store.film.end - 1));
    setText(this.tip, `${clock(store.grid.seconds(frame))} · block ${store.grid.blockAt(frame)}`);
    const box = this.element.getBoundingClientRect();
    this.tip.style.left = `${Math.min(Math.max(52, event.clientX - box.left), Math.max(52, box.width - 52))}px`;
    show(this.tip, store.film.end > 0);
  }

  private onKey(event: KeyboardEvent): void {
    const { store } = this;
    const block = store.grid.blockAt(store.playhead);
    const target = {
      ArrowLeft: store.playhead - 1,
      ArrowRight: store.playhead + 1,
      ArrowDown: store.playhead - 1,
      ArrowUp: store.playhead + 1,
      PageDown: store.grid.start(Math.max(0, block - 1)),
      PageUp: store.grid.start(block + 1),
      Home: 0,
      End: store.film.end - 1,
    }[event.key];
    if (target === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    if (store.playback.running) store.pause();
    store.seek(target);
  }
}

function percent(share: number): string {
  return `${(share * 100).toFixed(3)}%`;
}
