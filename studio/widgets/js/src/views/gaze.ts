import { h, setText, show } from "../dom";
import { decodeJpeg } from "../darkroom";
import { percentage, type Reading } from "../readings";
import type { Store } from "../store";
import { waiting } from "./cache";

/** Click a point of the picture: where does it look, in every frame of the cache? */
export class GazeView {
  readonly element: HTMLElement;
  readonly title = "Gaze";
  private readonly heading = h("span", { class: "ls-heading" });
  private readonly away = h("button", { type: "button", class: "ls-quiet" }, "no point");
  private readonly frames = h("div", { class: "ls-asking", role: "group", "aria-label": "Frames that this block made; choose a point" });
  private readonly detail = h("div", { class: "ls-detail ls-num", "aria-live": "polite" });
  private readonly seen = h("div", { class: "ls-gazes", role: "group", "aria-label": "Frames of the cache with the attention of the point" });
  private readonly empty = h("div", { class: "ls-empty" });
  private readonly body: HTMLElement;
  private wanted: [number, number, number] | null = null;
  private key = "";
  private drawing = 0;

  constructor(private readonly store: Store) {
    this.away.addEventListener("click", () => this.ask(null));
    this.body = h(
      "div", { class: "ls-seen" },
      h("div", { class: "ls-headrow" }, this.heading, h("span", { class: "ls-muted" }, "click a point, or move it with the arrow keys"), h("span", { class: "ls-grow" }), this.away),
      this.frames, this.detail, this.seen,
    );
    this.element = h("div", { class: "ls-pane" }, this.empty, this.body);
  }

  update(): void {
    const { store } = this;
    const reading = store.reading;
    setText(this.empty, waiting(store));
    show(this.empty, reading === undefined);
    this.body.classList.toggle("ls-blank", reading === undefined);
    if (reading === undefined) return;
    for (const figure of this.seen.children) (figure as HTMLElement).dataset.on = String((figure as HTMLElement).dataset.frame === String(store.pointed));
    this.away.style.visibility = this.wanted === null && reading.point === null ? "hidden" : "visible";
    const key = JSON.stringify([reading.take, reading.block, reading.point, this.wanted]);
    if (key === this.key) return;
    this.key = key;
    const drawing = ++this.drawing;
    setText(this.heading, `Where a point of block ${reading.block} looks`);
    this.drawAsking(reading, drawing);
    this.drawSeen(reading, drawing);
    setText(this.detail, this.tell(reading));
  }

  private tell(reading: Reading): string {
    if (reading.point === null) {
      if (this.wanted === null) return "The point's own row of the attention matrix is read, whole and exact: the mean over all layers and heads.";
      return this.store.source === "finished" ? "The film is over: start again to see where this point looks." : "Asked for; read from the next block that begins.";
    }
    const [frame, row, column] = reading.point;
    const size = reading.tokens[0] * reading.tokens[1];
    const shares = reading.slots.map((_, i) => sum(reading.gaze.subarray(i * size, (i + 1) * size)));
    const most = shares.reduce((best, share, i) => (share > (shares[best] ?? 0) ? i : best), 0);
    return `Row ${row + 1}, column ${column + 1} of latent frame ${reading.own[frame]} looks most at latent frame ${reading.slots[most]?.frame}: ${percentage(shares[most] ?? NaN)} of its attention. Each picture has its own share below; full colour is the point's strongest position.`;
  }

  private drawAsking(reading: Reading, drawing: number): void {
    while (this.frames.children.length > reading.own.length) this.frames.lastElementChild?.remove();
    while (this.frames.children.length < reading.own.length) this.frames.append(this.makeAsking(this.frames.children.length));
    const point = this.wanted ?? reading.point;
    reading.own.forEach((frame, i) => {
      const button = this.frames.children[i] as HTMLButtonElement;
      const [canvas, mark] = button.children as unknown as [HTMLCanvasElement, HTMLElement];
      this.paint(canvas, frame, drawing);
      button.setAttribute("aria-label", `Latent frame ${frame}`);
      show(mark, point !== null && point[0] === i);
      if (point === null || point[0] !== i) return;
      const [rows, columns] = reading.tokens;
      Object.assign(mark.style, { left: `${(100 * point[2]) / columns}%`, top: `${(100 * point[1]) / rows}%`, width: `${100 / columns}%`, height: `${100 / rows}%` });
      mark.dataset.read = String(JSON.stringify(point) === JSON.stringify(reading.point));
    });
  }

  private makeAsking(place: number): HTMLButtonElement {
    const button = h("button", { type: "button", class: "ls-ask" }, h("canvas", { "aria-hidden": "true" }), h("span", { class: "ls-point", hidden: true }));
    button.addEventListener("click", (event) => {
      const reading = this.store.reading;
      // A click by Enter has no place: it takes the middle.
      if (reading === undefined) return;
      const box = button.getBoundingClientRect();
      const at = (share: number, count: number) => Math.max(0, Math.min(count - 1, Math.floor(share * count)));
      const keyed = event.detail === 0;
      this.ask([
        place,
        at(keyed ? 0.5 : (event.clientY - box.top) / box.height, reading.tokens[0]),
        at(keyed ? 0.5 : (event.clientX - box.left) / box.width, reading.tokens[1]),
      ]);
    });
    button.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      const reading = this.store.reading;
      if (step === undefined || reading === undefined) return;
      event.preventDefault();
      const [frame, row, column] = this.wanted ?? [place, Math.floor(reading.tokens[0] / 2), Math.floor(reading.tokens[1] / 2)];
      const within = (value: number, count: number) => Math.max(0, Math.min(count - 1, value));
      if (frame === place) this.ask([place, within(row + (step[0] as number), reading.tokens[0]), within(column + (step[1] as number), reading.tokens[1])]);
    });
    return button;
  }

  private ask(point: [number, number, number] | null): void {
    this.wanted = point;
    const [frame, row, column] = point ?? [null, null, null];
    void this.store.command("look", { frame, row, column });
    this.update();
  }

  private drawSeen(reading: Reading, drawing: number): void {
    const held = reading.slots.map((slot, i) => ({ slot, i })).filter(({ slot }) => slot.frame !== null);
    while (this.seen.children.length > held.length) this.seen.lastElementChild?.remove();
    while (this.seen.children.length < held.length) {
      const figure = h("figure", { class: "ls-heat ls-look" }, h("canvas"), h("canvas", { class: "ls-gaze" }), h("figcaption", { class: "ls-num" }));
      figure.addEventListener("mouseenter", () => this.store.point(Number(figure.dataset.frame)));
      figure.addEventListener("mouseleave", () => this.store.point(null));
      this.seen.append(figure);
    }
    const [rows, columns] = reading.tokens;
    const most = Math.max(0, ...[...reading.gaze].filter(Number.isFinite));
    held.forEach(({ slot, i }, place) => {
      const figure = this.seen.children[place] as HTMLElement;
      const [canvas, over, caption] = figure.children as unknown as [HTMLCanvasElement, HTMLCanvasElement, HTMLElement];
      this.paint(canvas, slot.frame as number, drawing);
      [over.width, over.height] = [columns, rows];
      const context = over.getContext("2d");
      const values = reading.gaze.subarray(i * rows * columns, (i + 1) * rows * columns);
      if (context !== null && values.length > 0) {
        const image = context.createImageData(columns, rows);
        // Vermilion of the palette: it shows on bright and dark pictures alike.
        values.forEach((value, at) => image.data.set([213, 94, 0, most > 0 && Number.isFinite(value) ? Math.round((225 * value) / most) : 0], 4 * at));
        context.putImageData(image, 0, 0);
      }
      figure.dataset.frame = String(slot.frame);
      figure.dataset.role = slot.role;
      setText(caption, values.length === 0 ? String(slot.frame) : `${slot.frame}: ${percentage(sum(values))}`);
      figure.title = `Latent frame ${slot.frame}, ${slot.role}`;
    });
  }

  private paint(canvas: HTMLCanvasElement, frame: number, drawing: number): void {
    const jpeg = this.store.readings.picture(frame);
    if (jpeg === undefined) {
      canvas.getContext("2d")?.clearRect(0, 0, canvas.width, canvas.height);
      return;
    }
    decodeJpeg(jpeg).then((bitmap) => {
      if (drawing === this.drawing) {
        [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
        canvas.getContext("2d")?.drawImage(bitmap, 0, 0);
      }
      bitmap.close();
    }, (error) => this.store.fail(error));
  }
}

function sum(values: Float32Array): number {
  return values.reduce((total, value) => total + value, 0);
}
