import { decodeJpeg } from "../darkroom";
import { h, setText, show } from "../dom";
import { percentage, type Reading } from "../readings";
import { isScened, Scening, type Scened } from "../scening";
import type { Store } from "../store";
import type { Model } from "../types";
import { waiting } from "./cache";

/** The part of Jupyter's widget models that a scene needs. */
interface SceneModel {
  get(name: string): unknown;
  set(name: string, value: unknown): void;
  save_changes(): void;
}

interface SceneView {
  el: HTMLElement;
  trigger?(name: string): void;
  remove(): void;
}

interface Manager {
  get_model(id: string): Promise<SceneModel>;
  create_view(model: SceneModel, options?: unknown): Promise<SceneView>;
}

/** A volume of attention: `frames` times `rows` times `columns` values. */
export interface Slices {
  frames: number[];
  rows: number;
  columns: number;
  values: number[];
}

/** What the views of one widget show: they share its figure. */
const SCENINGS = new WeakMap<Store, Scening>();

/** Voxels along time; studio/widgets/volume.py has the same. */
const TIME = 48;

/** Whether this page can draw in 3-D. */
export function hasWebGL(): boolean {
  const canvas = document.createElement("canvas");
  try {
    return (canvas.getContext("webgl2") ?? canvas.getContext("webgl")) !== null;
  } catch {
    return false;
  }
}

/** Where the point of a reading looks, frames in the order of time. */
export function slicesOfPoint(reading: Reading): Slices | null {
  if (reading.point === null) return null;
  const [rows, columns] = reading.tokens;
  const held = reading.slots.map((slot, i) => ({ frame: slot.frame, i })).filter((one): one is { frame: number; i: number } => one.frame !== null);
  held.sort((a, b) => a.frame - b.frame);
  const size = rows * columns;
  return {
    frames: held.map((one) => one.frame), rows, columns,
    values: held.flatMap(({ i }) => [...reading.gaze.subarray(i * size, (i + 1) * size)].map((value) => (Number.isFinite(value) ? value : 0))),
  };
}

/** Where a word is listened to, in all frames made under its prompt up to a block. */
export function slicesOfWord(readings: Reading[], reading: Reading, word: number, longest = 48): Slices | null {
  if (reading.words === null || word >= reading.words.length) return null;
  const [rows, columns] = reading.grid;
  const found: Slices = { frames: [], rows, columns, values: [] };
  for (const one of readings.filter((other) => other.block <= reading.block).reverse()) {
    if (one.prompt !== reading.prompt || one.words === null || found.frames.length >= longest) break;
    const count = one.words.length;
    found.frames.unshift(...one.own);
    found.values.unshift(...Array.from({ length: one.own.length * rows * columns }, (_, i) => one.heat[i * count + word] as number));
  }
  return found;
}

const POINT = "the point chosen in Gaze";
const NOTHING: Scened = {};

function nameOf(word: string): string {
  return `the word “${word}”`;
}

/** The attention of a word or a point over space and time: in 3-D, and in slices. */
export class VolumeView {
  readonly element: HTMLElement;
  readonly title = "Volume";
  private readonly what = h("select", { "aria-label": "Whose attention" });
  private readonly solid = h("button", { type: "button", "aria-pressed": "true" }, "3-D");
  private readonly flat = h("button", { type: "button", "aria-pressed": "false" }, "Slices");
  private readonly heading = h("span", { class: "ls-heading" });
  private readonly stage = h("div", { class: "ls-scene" });
  private readonly asked = h("div", { class: "ls-empty" });
  private readonly opacity = h("input", { type: "range", class: "ls-scrub", min: -2, max: 0, step: 0.05, value: -0.7, "aria-label": "Opacity" });
  private readonly slice = h("input", { type: "range", class: "ls-scrub", min: 0, step: 1, value: 0, "aria-label": "Slice: a latent frame" });
  private readonly cut = h("input", { type: "checkbox", "aria-label": "Show the slice in the volume" });
  private readonly sliced = h("span", { class: "ls-num ls-muted" });
  private readonly controls: HTMLElement;
  private readonly sheets = h("div", { class: "ls-gazes ls-sheets", role: "group", "aria-label": "Slices: a latent frame each" });
  private readonly note = h("div", { class: "ls-detail ls-num", "aria-live": "polite" });
  private readonly empty = h("div", { class: "ls-empty" });
  private readonly body: HTMLElement;
  private readonly webgl = hasWebGL();
  private three = this.webgl;
  private options = "";
  private drawn = "";
  private drawing = 0;
  private mounted: { id: string; view: SceneView; model: SceneModel } | null = null;
  private mounting = "";
  private problem: string | null = null;
  /** The problem of the kernel's after which slices were shown. */
  private turned: string | null = null;
  private disposed = false;
  private readonly scening: Scening;
  private readonly resized = new ResizeObserver(() => this.fit());
  private readonly onScene = () => this.update();

  constructor(private readonly store: Store, private readonly model: Model) {
    this.scening = SCENINGS.get(store) ?? new Scening((word, block) => store.link.ask("volume", { word, block }), () => store.changed());
    SCENINGS.set(store, this.scening);
    this.what.addEventListener("change", () => {
      this.scening.chosen = this.what.selectedOptions[0]?.label ?? null;
      store.changed();
      this.update();
    });
    this.solid.addEventListener("click", () => this.turn(true));
    this.flat.addEventListener("click", () => this.turn(false));
    this.opacity.addEventListener("input", () => this.apply());
    this.slice.addEventListener("input", () => this.apply());
    this.cut.addEventListener("change", () => this.apply());
    this.controls = h(
      "div", { class: "ls-volumebar" },
      h("label", { class: "ls-opacity" }, h("span", {}, "opacity"), this.opacity),
      h("label", {}, this.cut, h("span", {}, "slice"), this.slice), this.sliced,
    );
    this.stage.append(this.asked);
    this.body = h(
      "div", { class: "ls-seen" },
      h("div", { class: "ls-headrow" }, this.heading, h("span", { class: "ls-grow" }), this.what, h("div", { class: "ls-choice", role: "group", "aria-label": "How to show it" }, this.solid, this.flat)),
      this.stage, this.sheets, this.controls, this.note,
    );
    this.element = h("div", { class: "ls-pane ls-volume" }, this.empty, this.body);
    this.resized.observe(this.stage);
    model.on("change:scene", this.onScene);
    model.on("change:scened", this.onScene);
    this.solid.disabled = !this.webgl;
    if (!this.webgl) this.solid.title = "This page cannot draw in 3-D: it has no WebGL";
  }

  dispose(): void {
    this.disposed = true;
    this.resized.disconnect();
    this.model.off("change:scene", this.onScene);
    this.model.off("change:scened", this.onScene);
    this.mounted?.view.remove();
    this.mounted = null;
  }

  update(): void {
    const { scening, store } = this;
    const reading = store.reading;
    setText(this.empty, waiting(store));
    show(this.empty, reading === undefined);
    this.body.classList.toggle("ls-blank", reading === undefined);
    if (reading === undefined || this.element.hidden) return;
    const followed = scening.follow(this.scened, (block) => store.readings.at(block));
    if (followed !== undefined) scening.chosen = followed === null ? POINT : nameOf(followed);
    this.offer(reading);
    // The kernel's refusal is answered once; 3-D may be asked for again.
    if (scening.problem !== null && scening.problem !== this.turned) this.three = false;
    this.turned = scening.problem;
    this.solid.setAttribute("aria-pressed", String(this.three));
    this.flat.setAttribute("aria-pressed", String(!this.three));
    show(this.stage, this.three);
    show(this.sheets, !this.three);
    setText(this.heading, `Attention over space and time, to block ${reading.block}`);
    const found = this.chosen(reading);
    this.limit(found);
    this.dress();
    if (this.three) this.ask(reading, found);
    else this.drawSheets(reading, found);
    this.tell(reading, found);
  }

  /** The words of the prompt, and the point where one was read. */
  private offer(reading: Reading): void {
    const words = reading.words ?? [];
    const { scening } = this;
    const key = JSON.stringify([words, reading.point !== null, scening.chosen]);
    if (key === this.options) return;
    this.options = key;
    this.what.replaceChildren(
      ...(reading.point === null ? [] : [h("option", { value: "point" }, POINT)]),
      ...words.map((word, i) => h("option", { value: String(i) }, nameOf(word))),
    );
    // The same word after a switch; at first the longest, which is seldom an article.
    const longest = words.reduce((best, word, i) => (word.length > (words[best] ?? "").length ? i : best), 0);
    const same = [...this.what.options].find((option) => option.label === scening.chosen);
    this.what.value = same?.value ?? (words.length > 0 ? String(longest) : "point");
  }

  /** What the kernel's figure shows. */
  private get scened(): Scened {
    return (this.model.get("scened") ?? NOTHING) as Scened;
  }

  /** The word chosen, by its place in the prompt; null for the point. */
  private get word(): number | null {
    return this.what.value === "point" ? null : Number(this.what.value);
  }

  private chosen(reading: Reading): Slices | null {
    if (this.what.value === "") return null;
    return this.what.value === "point" ? slicesOfPoint(reading) : slicesOfWord(this.store.readings.all, reading, Number(this.what.value));
  }

  private turn(three: boolean): void {
    this.three = three && this.webgl;
    this.drawn = "";
    this.update();
  }

  private limit(found: Slices | null): void {
    const last = Math.max(0, (found?.frames.length ?? 1) - 1);
    if (this.slice.max !== String(last)) {
      this.slice.max = String(last);
      this.slice.value = String(Math.min(Number(this.slice.value), last));
    }
    const { pointed } = this.store;
    const place = pointed === null ? -1 : (found?.frames.indexOf(pointed) ?? -1);
    if (place >= 0 && this.slice.value !== String(place)) {
      this.slice.value = String(place);
      this.place();
    }
    setText(this.sliced, found === null ? "" : `latent frame ${found.frames[Number(this.slice.value)] ?? "–"}`);
  }

  /** Have the kernel make the volume, once for each that is wanted, and show it. */
  private ask(reading: Reading, found: Slices | null): void {
    if (found === null) {
      setText(this.asked, "Choose a point in Gaze, or a prompt whose words are known.");
      show(this.asked, true);
      return;
    }
    if (this.mounted === null) setText(this.asked, "Making the volume.");
    this.scening.ask(reading, this.word);
    void this.mount();
  }

  /** Put the kernel's figure into this pane: a widget inside a widget. */
  private async mount(): Promise<void> {
    const id = String(this.model.get("scene") ?? "").replace("IPY_MODEL_", "");
    if (id === "" || id === this.mounting) return;
    this.mounting = id;
    const manager = this.model.widget_manager as unknown as Manager | undefined;
    try {
      if (manager?.create_view === undefined) throw new Error("this front end shows no widget inside another");
      const model = await manager.get_model(id);
      const view = await manager.create_view(model);
      if (this.disposed) return view.remove();
      this.problem = null;
      this.mounted?.view.remove();
      this.mounted = { id, view, model };
      show(this.asked, false);
      this.stage.append(view.el);
      // Figures draw when they are told that they stand in the page.
      view.trigger?.("displayed");
      this.fit();
      this.apply();
    } catch (error) {
      if (this.disposed) return;
      this.problem = `No 3-D here: ${error instanceof Error ? error.message : String(error)}.`;
      this.turn(false);
    }
  }

  /** As large as its place in the page. */
  private fit(): void {
    const { mounted, stage } = this;
    const [width, height] = [stage.clientWidth, stage.clientHeight];
    if (mounted === null || width < 50 || height < 50 || (mounted.model.get("width") === width && mounted.model.get("height") === height)) return;
    mounted.model.set("width", width);
    mounted.model.set("height", height);
    mounted.model.save_changes();
  }

  /** In the colours of the page. */
  private dress(): void {
    const { mounted, stage } = this;
    if (mounted === null) return;
    const { backgroundColor: ground, color: ink } = getComputedStyle(stage);
    const style = (mounted.model.get("style") ?? {}) as Record<string, unknown>;
    if (style["background-color"] === ground) return;
    const tint = { color: ink };
    mounted.model.set("style", { ...style, "background-color": ground, axes: { visible: true, color: ink, label: tint, ticklabel: tint }, box: { visible: true, color: ink } });
    mounted.model.save_changes();
  }

  /** Opacity and slice, straight to the figure. */
  private apply(): void {
    const { mounted } = this;
    if (mounted !== null) {
      const [volume] = (mounted.model.get("volumes") as SceneModel[] | null) ?? [];
      const opacity = Number(this.opacity.value);
      volume?.set("opacity_scale", 10 ** opacity);
      volume?.save_changes();
      // A figure is drawn anew when something of its own changes; no slice is cut across this axis.
      mounted.model.set("slice_y", opacity);
      mounted.model.save_changes();
      const [plane] = (mounted.model.get("meshes") as SceneModel[] | null) ?? [];
      plane?.set("visible", this.cut.checked);
      plane?.save_changes();
    }
    this.place();
    this.update();
  }

  private place(): void {
    const { mounted } = this;
    const frames = Number(this.slice.max) + 1;
    const time = (Number(this.slice.value) + 0.5) / frames;
    if (mounted === null) return;
    const [plane] = (mounted.model.get("meshes") as SceneModel[] | null) ?? [];
    plane?.set("x_offset", time * TIME);
    plane?.save_changes();
    mounted.model.set("slice_x", time * TIME);
    mounted.model.save_changes();
  }

  private drawSheets(reading: Reading, found: Slices | null): void {
    const frame = found?.frames[Number(this.slice.value)];
    for (const sheet of this.sheets.children) (sheet as HTMLElement).dataset.on = String((sheet as HTMLElement).dataset.frame === String(frame));
    const key = JSON.stringify([reading.take, reading.block, this.what.value, reading.point, this.options]);
    if (key === this.drawn) return;
    this.drawn = key;
    const drawing = ++this.drawing;
    const size = (found?.rows ?? 0) * (found?.columns ?? 0);
    const most = Math.max(0, ...(found?.values ?? []));
    this.sheets.replaceChildren(...(found?.frames ?? []).map((at, i) => this.sheet(at, (found?.values ?? []).slice(i * size, (i + 1) * size), found as Slices, most, drawing)));
    this.drawSheetsMark(frame);
  }

  private drawSheetsMark(frame: number | undefined): void {
    for (const sheet of this.sheets.children) (sheet as HTMLElement).dataset.on = String((sheet as HTMLElement).dataset.frame === String(frame));
  }

  private sheet(frame: number, values: number[], { rows, columns }: Slices, most: number, drawing: number): HTMLElement {
    const canvas = h("canvas");
    const over = h("canvas", { class: "ls-gaze", width: columns, height: rows });
    const mean = values.reduce((sum, value) => sum + value, 0) / (this.what.value === "point" ? 1 : Math.max(1, values.length));
    const figure = h("figure", { class: "ls-heat ls-look", "data-frame": frame }, canvas, over, h("figcaption", { class: "ls-num" }, `${frame}: ${percentage(mean)}`));
    figure.addEventListener("mouseenter", () => this.store.point(frame));
    figure.addEventListener("mouseleave", () => this.store.point(null));
    const context = over.getContext("2d");
    if (context !== null && rows * columns > 0) {
      const image = context.createImageData(columns, rows);
      values.forEach((value, at) => image.data.set([213, 94, 0, most > 0 ? Math.round((225 * value) / most) : 0], 4 * at));
      context.putImageData(image, 0, 0);
    }
    const jpeg = this.store.readings.picture(frame);
    if (jpeg !== undefined) {
      decodeJpeg(jpeg).then((bitmap) => {
        if (drawing === this.drawing) {
          [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
          canvas.getContext("2d")?.drawImage(bitmap, 0, 0);
        }
        bitmap.close();
      }, (error) => this.store.fail(error));
    }
    return figure;
  }

  private tell(reading: Reading, found: Slices | null): void {
    const { scened, scening } = this;
    const problem = this.problem ?? scening.problem;
    const why = problem !== null ? `${problem} ` : !this.webgl ? "This page has no WebGL, so the volume is shown in slices. " : "";
    if (found === null) return setText(this.note, `${why}Choose a point in Gaze, or a prompt whose words are known.`);
    const most = percentage(Math.max(0, ...found.values));
    const what = this.what.value === "point" ? "the point’s attention" : `the attention to “${reading.words?.[Number(this.what.value)] ?? ""}”`;
    const span = `latent frames ${found.frames[0]} to ${found.frames.at(-1)}`;
    if (!this.three) return setText(this.note, `${why}Slices of ${what}, ${span}; full colour is ${most} at one position.`);
    const turn = "the picture stands across it. Drag to turn;";
    if (scened.block === undefined || isScened(scened, reading, this.word)) return setText(this.note, `Time runs along one axis (${span}), ${turn} the densest spot is ${most}.`);
    const [first, last] = [scened.frames?.[0], scened.frames?.at(-1)];
    const shown = first === undefined ? "" : ` (latent frames ${first} to ${last})`;
    const densest = scened.most === undefined ? "" : ` the densest spot is ${percentage(scened.most)}.`;
    setText(this.note, `Shown is ${scened.what ?? "another volume"} at block ${scened.block}${scening.busy ? "; the next comes" : ""}. Time runs along one axis${shown}, ${turn}${densest}`);
  }
}
