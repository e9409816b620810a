import { h, setText, show } from "../dom";
import type { Store } from "../store";

/** Two takes in one place: the current one left of a divider, the other right of it. */
export class WipeView {
  readonly element: HTMLElement;
  private readonly canvas = h("canvas", { class: "ls-rival", "aria-hidden": "true" });
  private readonly divider = h("div", {
    class: "ls-divider", role: "slider", tabindex: 0, "aria-label": "Divider between the two takes", "aria-valuemin": 0, "aria-valuemax": 100,
  }, h("span", { "aria-hidden": "true" }, "◂ ▸"));
  private readonly left = h("span", { class: "ls-side" }, h("b", {}, "A "), h("span", { dir: "auto" }));
  private readonly right = h("span", { class: "ls-side ls-sideb" }, h("b", {}, "B "), h("span", { dir: "auto" }));
  private readonly over = h("span", { class: "ls-side ls-sideover", hidden: true }, "this take is shorter");
  private share = 0.5;

  constructor(private readonly store: Store) {
    const close = h("button", { type: "button", class: "ls-unwipe", title: "End the comparison", click: () => store.compareTo(null) }, "End A|B");
    this.element = h("div", { class: "ls-pair", hidden: true }, this.canvas, this.left, this.right, this.over, this.divider, close);
    this.divider.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      this.divider.focus();
      this.divider.setPointerCapture(event.pointerId);
    });
    this.divider.addEventListener("pointermove", (event) => {
      if (!this.divider.hasPointerCapture(event.pointerId)) return;
      const box = this.element.getBoundingClientRect();
      this.place((event.clientX - box.left) / box.width);
    });
    this.divider.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -0.02, ArrowRight: 0.02, PageDown: -0.1, PageUp: 0.1, Home: -1, End: 1 }[event.key];
      if (by === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      this.place(this.share + by);
    });
    this.place(this.share);
  }

  update(): void {
    const { rival, takes, film } = this.store;
    show(this.element, rival !== null);
    if (rival === null) return;
    setText(this.left.lastElementChild as Element, takes.find((take) => take.number === film.take)?.name ?? "");
    setText(this.right.lastElementChild as Element, rival.info.name);
  }

  draw(picture: ImageBitmap | null): void {
    show(this.over, picture === null);
    const context = this.canvas.getContext("2d", { alpha: false });
    if (context === null) return;
    if (picture === null) {
      context.fillStyle = "#12151c";
      return context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    }
    context.imageSmoothingQuality = picture.width < 400 ? "high" : "low";
    context.drawImage(picture, 0, 0, this.canvas.width, this.canvas.height);
  }

  /** Lie exactly over the picture. */
  resize(width: number, height: number, pixels: readonly [number, number]): void {
    this.element.style.width = `${width}px`;
    this.element.style.height = `${height}px`;
    if (this.canvas.width === pixels[0] && this.canvas.height === pixels[1]) return;
    [this.canvas.width, this.canvas.height] = pixels;
    this.store.rival?.again();
  }

  private place(share: number): void {
    this.share = Math.min(1, Math.max(0, share));
    this.element.style.setProperty("--ls-wipe", `${(this.share * 100).toFixed(2)}%`);
    this.divider.setAttribute("aria-valuenow", String(Math.round(this.share * 100)));
  }
}
