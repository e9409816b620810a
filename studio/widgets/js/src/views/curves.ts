import { alignmentLines, residueLines, topOf, twoDigits, type Line } from "../curves";
import { colour, h, setText, show } from "../dom";
import { clock, shortClock } from "../grid";
import { span, ticks } from "../lane";
import { textOf, tintOf } from "../prompts";
import type { Store } from "../store";
import { waiting } from "./cache";
import { Chart, type Stroke } from "./chart";

/** The seconds that an axis shows. */
export interface Axis {
  from: number;
  seconds: number;
}

const MEANING =
  "Solid, a line a prompt: how well the latest frames show it. Dashed, in the colour of the prompt that was left: how far the cache is from what it would hold under the new prompt alone. 0: as if it had always been the new one; 1: as far as the two prompts are apart. Where a third prompt is still in the cache it can be above 1.";
export const COST = "Measure what the cache keeps of a prompt after the next switch. It takes time: two more passes a block, and more at the switch itself.";

/** The curves over an axis, with the playhead and what is pointed at. */
class Plot {
  readonly element: HTMLElement;
  readonly toggle = h("button", { type: "button", class: "ls-chip ls-measure", "aria-pressed": "false", title: COST }, h("i", { class: "ls-dash" }), "residue");
  private readonly chart = new Chart("Alignment and residue over time");
  private readonly top = h("span", { class: "ls-scale ls-num" });
  private readonly foot = h("span", { class: "ls-scale ls-foot ls-num" });
  private readonly future = h("div", { class: "ls-future", "aria-hidden": "true" });
  private readonly head = h("div", { class: "ls-curvehead", "aria-hidden": "true" });
  private readonly pointed = h("div", { class: "ls-pointed", "aria-hidden": "true", hidden: true });
  private lines: Line[] = [];
  private axis: Axis = { from: 0, seconds: 1 };

  constructor(private readonly store: Store, private readonly told: (text: string | null) => void) {
    this.element = h("div", { class: "ls-plot" }, this.future, this.chart.element, this.pointed, this.head, this.top, this.foot);
    this.element.addEventListener("mousemove", (event) => this.point(event));
    this.element.addEventListener("mouseleave", () => {
      store.point(null);
      this.told(null);
    });
    this.toggle.addEventListener("click", () => void store.command("measure", { on: !store.measuring }));
  }

  draw(axis: Axis): void {
    const { store } = this;
    this.axis = axis;
    const readings = store.readings.all;
    this.lines = [...alignmentLines(readings), ...residueLines(readings)];
    const top = topOf(this.lines);
    const strokes: Stroke[] = this.lines.map((line) => ({
      points: line.points.map(({ block, value }) => [this.share(block), Math.max(0, value / top)]),
      colour: tintOf(store.timeline, line.prompt),
      dash: line.kind === "residue" ? 1 : 0,
      label: `${line.kind} ${line.prompt}`,
    }));
    const marks = readings.filter((reading) => reading.policy !== null).map((reading) => ({
      at: this.share(reading.block), colour: "var(--ls-edge)", label: `${reading.policy} at block ${reading.block}`,
    }));
    this.chart.draw(strokes, marks, `Alignment and residue over time. ${this.describe(Infinity) ?? "Nothing was measured yet."}`);
    setText(this.top, this.lines.length === 0 ? "" : String(top));
    setText(this.foot, this.lines.length === 0 ? "" : "0");
    const made = store.readings.latest;
    this.future.style.left = percent(made === undefined ? 0 : this.share(made.block + 1));
    this.toggle.setAttribute("aria-pressed", String(store.measuring));
    const frames = store.readings.latest?.own.length ?? 0;
    show(this.pointed, store.pointed !== null && frames > 0);
    if (store.pointed !== null && frames > 0) {
      const block = Math.floor(store.pointed / frames);
      const [left, right] = [this.share(block), this.share(block + 1)];
      this.pointed.style.left = percent(left + ((right - left) * (store.pointed - block * frames)) / frames);
      this.pointed.style.width = percent((right - left) / frames);
    }
    const shown = store.reading;
    // Views without a film have no playhead: they show the block that is looked at.
    const played = store.hello?.frames !== false && store.playback.frame >= 0;
    show(this.head, played || shown !== undefined);
    const at = played ? store.grid.seconds(store.playhead) : store.grid.blockSeconds((shown?.block ?? 0) + 1);
    this.head.style.left = percent(this.place(at));
  }

  /** The values at a moment, in words. */
  describe(block: number): string | null {
    const shown: string[] = [];
    let kept = "";
    for (const line of this.lines) {
      const point = line.points.findLast((one) => one.block <= block);
      if (point === undefined || (line.kind === "residue" && line !== this.lines.findLast((one) => one.kind === "residue" && (one.points[0]?.block ?? 0) <= block))) continue;
      const text = textOf(this.store.readings.all, this.store.timeline, line.prompt);
      if (line.kind === "alignment") shown.push(`“${text}” ${twoDigits(point.value)}`);
      else kept = `the cache keeps ${twoDigits(point.value)} of “${text}”`;
    }
    const told = [shown.length === 0 ? "" : `shows ${shown.join(", ")}`, kept].filter(Boolean);
    return told.length === 0 ? null : told.join(" · ");
  }

  private point(event: MouseEvent): void {
    const { store } = this;
    const box = this.element.getBoundingClientRect();
    const seconds = this.axis.from + (this.axis.seconds * (event.clientX - box.left)) / Math.max(1, box.width);
    const block = store.grid.blockAt(Math.max(0, Math.floor(seconds * store.grid.fps)));
    const reading = store.readings.at(block);
    store.point(reading?.own[0] ?? null);
    const values = reading === undefined ? null : this.describe(block + 1);
    this.told(values === null ? null : `Block ${block}, ${clock(store.grid.blockSeconds(block))}: ${values}`);
  }

  private place(seconds: number): number {
    return (seconds - this.axis.from) / this.axis.seconds;
  }

  private share(block: number): number {
    return this.place(this.store.grid.blockSeconds(block));
  }
}

/** The curves as a lane below the timeline. */
export class CurvesLane {
  readonly element: HTMLElement;
  private readonly plot: Plot;
  private readonly label = h("span", { title: MEANING }, "curves");
  private readonly told = h("div", { class: "ls-curvetold ls-num", hidden: true });

  constructor(private readonly store: Store, private readonly axis: () => Axis) {
    this.plot = new Plot(store, (text) => {
      show(this.told, text !== null);
      if (text !== null) setText(this.told, text);
    });
    this.element = h(
      "div", { class: "ls-track ls-curvetrack" },
      h("div", { class: "ls-label ls-curvelabel" }, this.label, this.plot.toggle),
      h("div", { class: "ls-curvebox" }, this.plot.element, this.told),
    );
  }

  update(): void {
    const seen = this.store.watching && this.store.hello?.watchable === true;
    show(this.element, seen);
    if (seen) this.plot.draw(this.axis());
  }
}

/** The curves by themselves. */
export class CurvesView {
  readonly element: HTMLElement;
  readonly title = "Curves";
  private readonly plot: Plot;
  private readonly ruler = h("div", { class: "ls-ruler ls-num", "aria-hidden": "true" });
  private readonly detail = h("div", { class: "ls-detail ls-num", "aria-live": "polite" });
  private readonly legend = h("div", { class: "ls-legend" });
  private readonly empty = h("div", { class: "ls-empty" });
  private readonly body: HTMLElement;
  private hovered: string | null = null;
  private key = "";

  constructor(private readonly store: Store) {
    this.plot = new Plot(store, (text) => {
      this.hovered = text;
      this.tell();
    });
    this.body = h(
      "div", { class: "ls-seen" },
      h("div", { class: "ls-headrow" }, h("span", { class: "ls-heading", title: MEANING }, "What it shows, and what it remembers"), h("span", { class: "ls-grow" }), this.plot.toggle),
      this.ruler, this.plot.element, this.detail, this.legend,
    );
    this.element = h("div", { class: "ls-pane ls-curves" }, this.empty, this.body);
  }

  update(): void {
    const { store } = this;
    const reading = store.reading;
    setText(this.empty, waiting(store));
    show(this.empty, reading === undefined);
    this.body.classList.toggle("ls-blank", reading === undefined);
    if (reading === undefined) return;
    const seconds = span(store.timeline, store.grid, store.grid.blockSeconds((store.readings.latest?.block ?? 0) + 1));
    this.plot.draw({ from: 0, seconds });
    this.drawRuler(seconds);
    this.drawLegend();
    this.tell();
  }

  private tell(): void {
    const block = this.store.reading?.block ?? 0;
    const now = this.plot.describe(block + 1);
    setText(this.detail, this.hovered ?? (now === null ? "Nothing was measured yet: alignment needs a judge, residue a switch." : `Block ${block}: ${now}`));
  }

  private drawRuler(seconds: number): void {
    const width = this.ruler.clientWidth;
    const key = `${seconds} ${width}`;
    if (width === 0 || key === this.ruler.dataset.key) return;
    this.ruler.dataset.key = key;
    this.ruler.replaceChildren(...ticks(seconds, width).map((at) => {
      const label = h("span", {}, shortClock(at));
      label.style.left = percent(at / seconds);
      label.className = at === 0 ? "ls-firstlabel" : at / seconds > 0.97 ? "ls-lastlabel" : "";
      return label;
    }));
  }

  private drawLegend(): void {
    const { segments: all, turns } = this.store.timeline;
    const segments = turns.slice(0, 7).flatMap((index) => all[index] ?? []);
    const key = JSON.stringify(segments.map(({ prompt, colour: tint }) => [prompt, tint]));
    if (key === this.key) return;
    this.key = key;
    this.legend.replaceChildren(
      ...segments.map((segment) => {
        const mark = h("span", { class: "ls-key ls-key-line" });
        mark.style.setProperty("--ls-c", colour(segment.colour));
        return h("span", { class: "ls-entry" }, mark, h("span", { dir: "auto", title: segment.prompt }, segment.prompt));
      }),
      h("span", { class: "ls-entry" }, h("i", { class: "ls-dash" }), h("span", {}, "what the cache keeps of the prompt before; 1: all of it")),
    );
  }
}

function percent(share: number): string {
  return `${(100 * Math.max(0, Math.min(1, share))).toFixed(3)}%`;
}
