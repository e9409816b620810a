import { h, setText, show } from "../dom";
import { decodeJpeg } from "../darkroom";
import { clock } from "../grid";
import { textOf, tintOf } from "../prompts";
import { percentage, scaleTop, shares, type Reading, type Slot } from "../readings";
import type { Store } from "../store";
import { COST } from "./curves";
import { PinBar } from "./pin";

const LEAVE_MS = 350;
const LEFT = "Residue: how far the cache is from what it would hold had the new prompt always been in force. 1 is as far as the two prompts are apart, as if nobody had switched; 0 is nothing.";

/** The slots that a block could see, and how much it looked at each. */
export class CacheView {
  readonly element: HTMLElement;
  readonly title = "Cache";
  private readonly heading = h("span", { class: "ls-heading" });
  private readonly switched = h("span", { class: "ls-switched ls-num" });
  private readonly before = h("button", { type: "button", "aria-pressed": "false" }, "Before the switch");
  private readonly after = h("button", { type: "button", "aria-pressed": "true" }, "After");
  private readonly moments = h("div", { class: "ls-choice ls-keepplace", role: "group", "aria-label": "Moment of the switch" }, this.before, this.after);
  private readonly sinkLabel = h("span", { title: "The first frames of the film: they stay for ever, so that the picture keeps its bearings." }, "sink");
  private readonly windowLabel = h("span", { title: "The latest frames: each new block pushes the oldest out." }, "window");
  private readonly strip = h("div", { class: "ls-strip", role: "group", "aria-label": "Slots of the cache" });
  private readonly left = h("b");
  private readonly leftNote = h("span", { class: "ls-muted" });
  private readonly measure = h("button", { type: "button", class: "ls-chip ls-measure", "aria-pressed": "false", title: COST }, "measure");
  private readonly bars = h("div", { class: "ls-bars", "aria-hidden": "true" });
  private readonly top = h("span", { class: "ls-scale ls-num" });
  private readonly detail = h("div", { class: "ls-detail ls-num", "aria-live": "polite" });
  private readonly legend = h("div", { class: "ls-legend" });
  private readonly pins: PinBar;
  private readonly empty = h("div", { class: "ls-empty" });
  private readonly body: HTMLElement;
  private cells = new Map<string, HTMLButtonElement>();
  private drawn: Reading | null = null;
  private past = false;
  private at = 0;
  private key = "";

  constructor(private readonly store: Store) {
    this.pins = new PinBar(store);
    this.before.addEventListener("click", () => this.look(true));
    this.after.addEventListener("click", () => this.look(false));
    this.measure.addEventListener("click", () => void store.command("measure", { on: !store.measuring }));
    this.strip.addEventListener("keydown", (event) => this.onKey(event));
    this.strip.addEventListener("mouseleave", () => store.point(null));
    this.body = h(
      "div", { class: "ls-seen" },
      h("div", { class: "ls-headrow" }, this.heading, h("span", { class: "ls-grow" }), this.moments),
      h("div", { class: "ls-places" }, this.switched, this.sinkLabel, this.windowLabel),
      this.strip,
      h("div", { class: "ls-headrow ls-gap" },
        h("span", { class: "ls-heading", title: "Share of the self-attention of the block's last denoising step, from sampled queries; the shares of all slots add up to 100 %." }, "Who it looks at"),
        h("span", { class: "ls-muted" }, "share of attention"), h("span", { class: "ls-grow" }), this.pins.element),
      h("div", { class: "ls-barbox" }, this.top, this.bars),
      this.detail,
      this.legend,
      h("div", { class: "ls-headrow ls-leftrow ls-num" },
        h("span", { class: "ls-heading", title: LEFT }, "What is left of the old prompt"), this.left, this.leftNote, h("span", { class: "ls-grow" }), this.measure),
    );
    this.element = h("div", { class: "ls-pane" }, this.empty, this.body);
  }

  update(): void {
    const { store } = this;
    const reading = store.reading;
    setText(this.empty, waiting(store));
    show(this.empty, reading === undefined);
    this.body.classList.toggle("ls-blank", reading === undefined);
    if (reading === undefined) {
      this.clear();
      return;
    }
    this.pins.update();
    if (reading !== this.drawn) this.enter(reading);
    else this.draw(reading);
  }

  /** Show another block. Where a switch rewrote the cache, its cells are seen to turn. */
  private enter(reading: Reading): void {
    const onward = this.drawn !== null && reading.block === this.drawn.block + 1;
    this.drawn = reading;
    this.past = false;
    if (reading.before !== null && onward) {
      this.past = true;
      this.draw(reading);
      // The old colours must have been there for a transition to begin from them.
      void this.strip.offsetWidth;
      this.past = false;
    }
    this.draw(reading);
  }

  private look(past: boolean): void {
    this.past = past;
    if (this.drawn !== null) this.draw(this.drawn);
  }

  private clear(): void {
    for (const cell of this.cells.values()) cell.remove();
    this.cells.clear();
    this.bars.replaceChildren();
    this.legend.replaceChildren();
    this.drawn = null;
    this.key = "";
    for (const element of [this.heading, this.switched, this.detail, this.top, this.left, this.leftNote]) setText(element, "");
    this.moments.style.visibility = "hidden";
  }

  private draw(reading: Reading): void {
    const { store } = this;
    const slots = this.slots(reading);
    setText(this.heading, this.past ? `Before the switch at block ${reading.block}` : `What block ${reading.block} could see`);
    setText(this.switched, this.note(reading));
    this.moments.style.visibility = reading.before === null ? "hidden" : "visible";
    this.before.setAttribute("aria-pressed", String(this.past));
    this.after.setAttribute("aria-pressed", String(!this.past));
    const sink = slots.filter((slot, i) => slot.role === "sink" || (slot.role === "empty" && reading.slots[i]?.role === "sink")).length;
    this.element.style.setProperty("--ls-n", String(slots.length));
    this.element.style.setProperty("--ls-sink", String(sink));
    show(this.sinkLabel, sink > 0);
    this.at = Math.min(this.at, slots.length - 1);
    const pointed = slots.findIndex((slot) => slot.frame !== null && slot.frame === store.pointed);
    this.drawCells(reading, slots, sink);
    this.drawBars(reading, slots, sink);
    this.drawLegend(reading, slots);
    this.drawLeft(reading);
    const shown = pointed >= 0 ? pointed : -1;
    setText(this.detail, shown < 0 ? this.hint(reading) : this.describe(reading, slots, shown));
  }

  /** The slots at the moment looked at; before a switch the block's own are not there yet. */
  private slots(reading: Reading): Slot[] {
    return this.past && reading.before !== null ? reading.before : reading.slots;
  }

  private note(reading: Reading): string {
    if (reading.policy !== null) return { recache: "recached here", keep: "cache kept as it was", clear: "cache cleared here" }[reading.policy] ?? reading.policy;
    const written = reading.slots.filter((slot) => slot.written === "recache").map((slot) => slot.block ?? 0);
    return written.length === 0 ? "" : `recached at block ${Math.max(...written)}`;
  }

  private drawCells(reading: Reading, slots: Slot[], sink: number): void {
    const keys = slots.map((slot, i) => (slot.frame === null ? `empty${i}` : `frame${slot.frame}`));
    for (const [key, cell] of this.cells) {
      if (keys.includes(key)) continue;
      this.cells.delete(key);
      cell.classList.add("ls-leaving");
      cell.disabled = true;
      setTimeout(() => cell.remove(), LEAVE_MS);
    }
    slots.forEach((slot, i) => {
      const key = keys[i] as string;
      let cell = this.cells.get(key);
      if (cell === undefined) {
        cell = this.makeCell(slot);
        this.cells.set(key, cell);
        this.strip.append(cell);
      }
      this.drawCell(cell, reading, slots, i, sink);
    });
  }

  private makeCell(slot: Slot): HTMLButtonElement {
    const picture = h("canvas", { class: "ls-thumb", "aria-hidden": "true", width: 8, height: 8 });
    const cell = h("button", { type: "button", class: "ls-slot" }, picture, h("span", { class: "ls-hatch" }), h("span", { class: "ls-number ls-num" }, slot.frame === null ? "" : String(slot.frame)));
    const point = () => this.store.point(slot.frame);
    cell.addEventListener("mouseenter", point);
    cell.addEventListener("focus", () => {
      this.at = [...this.ordered()].indexOf(cell);
      point();
    });
    const jpeg = slot.frame === null ? undefined : this.store.readings.picture(slot.frame);
    if (jpeg !== undefined) {
      decodeJpeg(jpeg).then((bitmap) => {
        [picture.width, picture.height] = [bitmap.width, bitmap.height];
        picture.getContext("2d")?.drawImage(bitmap, 0, 0);
        bitmap.close();
        cell.classList.add("ls-pictured");
      }, (error) => this.store.fail(error));
    }
    return cell;
  }

  private drawCell(cell: HTMLButtonElement, reading: Reading, slots: Slot[], i: number, sink: number): void {
    const slot = slots[i] as Slot;
    const own = this.isOwn(reading, slot);
    cell.style.setProperty("--ls-i", String(i));
    cell.style.setProperty("--ls-shift", i >= sink && sink > 0 ? "1" : "0");
    cell.style.setProperty("--ls-c", this.colourOf(slot));
    cell.dataset.frame = slot.frame === null ? "" : String(slot.frame);
    cell.dataset.prompt = slot.prompt === null ? "" : String(slot.prompt);
    cell.dataset.written = slot.written ?? "";
    cell.dataset.role = slot.role;
    cell.dataset.own = String(own);
    cell.dataset.on = String(slot.frame !== null && slot.frame === this.store.pointed);
    cell.tabIndex = i === this.at ? 0 : -1;
    const label = this.describe(reading, slots, i);
    if (cell.getAttribute("aria-label") !== label) {
      cell.setAttribute("aria-label", label);
      cell.title = label;
    }
  }

  private drawBars(reading: Reading, slots: Slot[], sink: number): void {
    const found = this.past ? slots.map(() => 0) : shares(reading, this.store.pin);
    const top = scaleTop(found);
    setText(this.top, this.past ? "" : `${top} %`);
    while (this.bars.children.length > slots.length) this.bars.lastElementChild?.remove();
    while (this.bars.children.length < slots.length) this.bars.append(h("span", { class: "ls-barcell" }, h("span", { class: "ls-num" }), h("b")));
    slots.forEach((slot, i) => {
      const cell = this.bars.children[i] as HTMLElement;
      const share = found[i] as number;
      cell.style.setProperty("--ls-i", String(i));
      cell.style.setProperty("--ls-shift", i >= sink && sink > 0 ? "1" : "0");
      cell.style.setProperty("--ls-h", String(Number.isFinite(share) ? (100 * share) / top : 0));
      cell.dataset.own = String(this.isOwn(reading, slot));
      cell.dataset.on = String(slot.frame !== null && slot.frame === this.store.pointed);
      setText(cell.firstElementChild as Element, slot.frame === null || this.past || !Number.isFinite(share) ? "" : (100 * share).toFixed(share < 0.0995 ? 1 : 0));
    });
  }

  private drawLegend(reading: Reading, slots: Slot[]): void {
    const numbers = [...new Set([...reading.slots, ...(reading.before ?? [])].map((slot) => slot.prompt).filter((number) => number !== null))].sort((a, b) => a - b);
    const has = (wanted: (slot: Slot) => boolean) => slots.some(wanted);
    const key = JSON.stringify([numbers.map((number) => [this.promptOf(number), this.colourOf({ prompt: number })]), has((s) => s.written === "recache"), has((s) => s.frame === null), this.past]);
    if (key === this.key) return;
    this.key = key;
    const entry = (kind: string, text: string, tint?: string) => {
      const mark = h("span", { class: `ls-key ls-key-${kind}` });
      if (tint !== undefined) mark.style.setProperty("--ls-c", tint);
      return h("span", { class: "ls-entry" }, mark, h("span", { dir: "auto", title: text }, text));
    };
    this.legend.replaceChildren(
      ...numbers.map((number) => entry("prompt", this.promptOf(number), this.colourOf({ prompt: number }))),
      entry("own", "made by this block"),
      entry("recache", "written by recache"),
      ...(has((slot) => slot.frame === null) ? [entry("empty", "empty")] : []),
    );
  }

  /** How far the cache is from what it would hold had the new prompt always been in force. */
  private drawLeft({ residue }: Reading): void {
    const { store } = this;
    const told = (value: number | null | undefined) => (value === null || value === undefined ? null : value.toFixed(2));
    const [before, after, made] = [told(residue.before), told(residue.after), told(residue.made)];
    const value = this.past ? before : (after ?? made);
    setText(this.left, value ?? "");
    if (value === null) setText(this.leftNote, store.measuring ? "from the next switch on" : "");
    else setText(this.leftNote, this.past ? "until here" : after === null ? "" : before === null ? "after the switch" : `after the switch, ${before} before`);
    this.measure.setAttribute("aria-pressed", String(store.measuring));
    // Where somebody else had it measured there is nothing to ask for.
    this.measure.style.visibility = value !== null && !store.measuring ? "hidden" : "visible";
  }

  private isOwn(reading: Reading, slot: Slot): boolean {
    return slot.frame !== null && reading.own.includes(slot.frame);
  }

  private colourOf(slot: { prompt: number | null }): string {
    return slot.prompt === null ? "transparent" : tintOf(this.store.timeline, slot.prompt);
  }

  private promptOf(number: number): string {
    return textOf(this.drawn === null ? [] : [this.drawn], this.store.timeline, number);
  }

  private hint(reading: Reading): string {
    const blocks = this.store.grid;
    return `Block ${reading.block}, from ${clock(blocks.blockSeconds(reading.block))}. Point at a slot to read where it comes from; arrow keys go along.`;
  }

  private describe(reading: Reading, slots: Slot[], i: number): string {
    const slot = slots[i] as Slot;
    const place = `slot ${i + 1} of ${slots.length}`;
    if (slot.frame === null) return `${place}: empty, nothing written yet`;
    const prompt = slot.prompt === null ? "" : ` under “${this.promptOf(slot.prompt)}”`;
    const how = slot.written === "recache" ? `recomputed by the recache before block ${slot.block}` : `written at block ${slot.block}`;
    const share = this.past ? "" : ` · ${percentage(shares(reading, this.store.pin)[i] as number)} of the attention`;
    const own = this.isOwn(reading, slot) && !this.past ? ", made by this block" : "";
    const left = this.past ? null : reading.left[i] ?? null;
    const kept = left === null ? "" : ` · ${left.toFixed(2)} away from the new prompt (1: the old one)`;
    return `Latent frame ${slot.frame} · ${slot.role}, ${place}${own} · ${how}${prompt}${share}${kept}`;
  }

  private ordered(): HTMLButtonElement[] {
    return [...this.cells.values()].sort((a, b) => Number(a.style.getPropertyValue("--ls-i")) - Number(b.style.getPropertyValue("--ls-i")));
  }

  private onKey(event: KeyboardEvent): void {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const all = this.ordered();
    this.at = Math.max(0, Math.min(all.length - 1, this.at + step));
    all.forEach((cell, i) => (cell.tabIndex = i === this.at ? 0 : -1));
    all[this.at]?.focus();
  }
}

/** Why there is nothing to see yet, and what helps. */
export function waiting(store: Store): string {
  if (store.hello === null) return "Waiting for the kernel.";
  if (!store.hello.watchable) return "The cache of this source cannot be watched; open a live session.";
  if (!store.watching) return "Not watched.";
  const { block } = store;
  const again = store.hello.rereads ? "; it can be read now, by the button above" : "";
  if (store.again.busy) return "Being read; it takes as long as making the blocks did.";
  if (block !== null && block < (store.stats?.generated_blocks ?? 0)) return `Block ${block} was not read, or is no longer kept${again}.`;
  if (store.source === "finished") return `Nothing was watched of this take${again}.`;
  return "The first block that is made from now on will be seen here.";
}
