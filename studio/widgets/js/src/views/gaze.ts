import { h, setText, show } from "../dom";
import { decodeJpeg } from "../darkroom";
import { gazeOf, percentage, type Reading } from "../readings";
import type { Store } from "../store";
import { waiting } from "./cache";
import { PinBar } from "./pin";

/** Click a point of the picture: where does it look, in every frame of the cache? */
export class GazeView {
  readonly element: HTMLElement;
  readonly title = "Gaze";
  private readonly heading = h("span", { class: "ls-heading" });
  private readonly away = h("button", { type: "button", class: "ls-quiet" }, "no point");
  private readonly frames = h("div", { class: "ls-asking", role: "group", "aria-label": "Frames that this block made; choose a point" });
  private readonly detail = h("div", { class: "ls-detail ls-num", "aria-live": "polite" });
  private readonly seen = h("div", { class: "ls-gazes", role: "group", "aria-label": "Frames of the cache with the attention of the point", title: "Under each frame of the cache its share of the attention; full colour is the strongest position of all" });
  private readonly empty = h("div", { class: "ls-empty" });
  private readonly body: HTMLElement;
  private wanted: [number, number, number] | null = null;
  private readonly pins: PinBar;
  private key = "";
  private asked = "";
  private drawing = 0;

  constructor(private readonly store: Store) {
    this.pins = new PinBar(store);
    this.away.addEventListener("click", () => this.ask(null));
    this.body = h(
      "div", { class: "ls-seen" },
      h("div", { class: "ls-headrow" }, this.heading, h("span", { class: "ls-muted", title: "The arrow keys move it" }, "click a point"), h("span", { class: "ls-grow" }), this.away, this.pins.element),
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
    this.pins.update();
    this.follow(reading);
    for (const figure of this.seen.children) (figure as HTMLElement).dataset.on = String((figure as HTMLElement).dataset.frame === String(store.pointed));
    this.away.style.visibility = this.wanted === null && reading.point === null ? "hidden" : "visible";
    const key = JSON.stringify([reading.take, reading.block, reading.point, this.wanted, store.pin, store.again, reading.gaze.length]);
    if (key === this.key) return;
    this.key = key;
    const drawing = ++this.drawing;
    setText(this.heading, reading.point === null ? `Where block ${reading.block} looks` : `Where a point of block ${reading.block} looks`);
    this.drawAsking(reading, drawing);
    this.drawSeen(reading, drawing);
    setText(this.detail, this.tell(reading));
  }

  private tell(reading: Reading): string {
    const { again, pin, source } = this.store;
    const pending = this.wanted !== null && JSON.stringify(this.wanted) !== JSON.stringify(reading.point);
    if (pending && again.busy) return "Asked for; this block is made once more to read it.";
    if (pending && again.error === null && source !== "finished") return "Asked for; read from the next block that begins.";
    if (reading.point === null) return "The mean of the block, all layers and heads. Click a point to see where that one looks, read whole and exact.";
    const whose = pin.layer === null && pin.head === null ? "all layers and heads" : [pin.layer === null ? "" : `layer ${pin.layer}`, pin.head === null ? "" : `head ${pin.head}`].filter(Boolean).join(", ");
    const values = this.values(reading);
    if (values.length === 0) return `Of ${whose} alone nothing is kept: for this model that would be too large. All layers and heads are.`;
    const [frame, row, column] = reading.point;
    const size = reading.tokens[0] * reading.tokens[1];
    const shares = reading.slots.map((_, i) => sum(values, i * size, (i + 1) * size));
    const most = shares.reduce((best, share, i) => (share > (shares[best] ?? 0) ? i : best), 0);
    return `Row ${row + 1}, column ${column + 1} of latent frame ${reading.own[frame]} looks most at latent frame ${reading.slots[most]?.frame}: ${percentage(shares[most] ?? NaN)} of its attention, ${whose}.`;
  }

  /** What is drawn: the gaze of the point, or of the block as a whole. */
  private values(reading: Reading): ArrayLike<number> {
    return reading.point === null ? reading.positions : gazeOf(reading, this.store.pin);
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
    const { store } = this;
    const [frame, row, column] = point ?? [null, null, null];
    const block = point !== null && this.past ? store.reading?.block ?? null : null;
    this.asked = `${store.reading?.take} ${block} ${point}`;
    void store.command("look", { frame, row, column, block });
    this.update();
  }

  /** Whether the block in sight has to be read anew: while blocks come, the next one reads the point. */
  private get past(): boolean {
    const { hello, source, block, readings } = this.store;
    return hello?.looks_back === true && (!["playing", "warming"].includes(source) || block !== readings.latest?.block);
  }

  /** The point stays when somebody looks back on a block that was made before it was asked for. */
  private follow(reading: Reading): void {
    const { store, wanted } = this;
    if (wanted === null || String(wanted) === String(reading.point)) return;
    if (!store.paused || store.again.busy || !this.past) return;
    const [frame, row, column] = wanted;
    const asked = `${reading.take} ${reading.block} ${wanted}`;
    if (asked === this.asked || frame >= reading.own.length) return;
    this.asked = asked;
    void store.command("look", { frame, row, column, block: reading.block });
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
    const all = this.values(reading);
    const most = Array.from(all).reduce((best, value) => (value > best ? value : best), 0);
    held.forEach(({ slot, i }, place) => {
      const figure = this.seen.children[place] as HTMLElement;
      const [canvas, over, caption] = figure.children as unknown as [HTMLCanvasElement, HTMLCanvasElement, HTMLElement];
      this.paint(canvas, slot.frame as number, drawing);
      [over.width, over.height] = [columns, rows];
      const context = over.getContext("2d");
      const values = Array.from(all).slice(i * rows * columns, (i + 1) * rows * columns);
      if (context !== null && values.length > 0) {
        const image = context.createImageData(columns, rows);
        // Vermilion of the palette: it shows on bright and dark pictures alike.
        values.forEach((value, at) => image.data.set([213, 94, 0, most > 0 && Number.isFinite(value) ? Math.round((225 * value) / most) : 0], 4 * at));
        context.putImageData(image, 0, 0);
      }
      figure.dataset.frame = String(slot.frame);
      figure.dataset.role = slot.role;
      setText(caption, values.length === 0 ? String(slot.frame) : `${slot.frame}: ${percentage(sum(values, 0, values.length))}`);
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

function sum(values: ArrayLike<number>, from: number, to: number): number {
  let total = 0;
  for (let i = from; i < to; i++) total += values[i] ?? 0;
  return total;
}
