import { colour, h, icon, put, setText, show } from "../dom";
import type { Store } from "../store";
import type { Model } from "../types";
import { CacheView } from "./cache";
import { CurvesView } from "./curves";
import { GazeView } from "./gaze";
import { HeadsView } from "./heads";
import { VolumeView } from "./volume";
import { WordsView } from "./words";

const AGAIN = "read what was missed";

interface Pane {
  readonly element: HTMLElement;
  readonly title: string;
  update(): void;
  /** Let go of what outlives the element. */
  dispose?(): void;
}

const KINDS: Record<string, (store: Store, model: Model) => Pane> = {
  cache: (store) => new CacheView(store),
  gaze: (store) => new GazeView(store),
  words: (store) => new WordsView(store),
  heads: (store) => new HeadsView(store),
  curves: (store) => new CurvesView(store),
  volume: (store, model) => new VolumeView(store, model),
};

/** Whether blocks come by themselves: then nothing is missing for long. */
function busy(state: string): boolean {
  return state === "playing" || state === "warming";
}

/** What the model sees: one pane of its own, or all of them as tabs of the studio. */
export class InspectorView {
  readonly element: HTMLElement;
  private readonly panes: Pane[];
  private readonly tabs: HTMLButtonElement[];
  private readonly badge = h("button", { type: "button", class: "ls-health", "aria-expanded": "false" });
  private readonly faults = h("div", { class: "ls-faults", hidden: true, role: "status" });
  private readonly close = h("button", { type: "button", class: "ls-quiet", "aria-label": "Stop looking at the cache", title: "Stop looking at the cache; it then costs nothing" }, icon("less"));
  private readonly lost = h("span");
  private readonly resume = h("button", { type: "button" }, "Start again");
  private readonly trouble = h("div", { class: "ls-trouble", role: "status", hidden: true }, this.lost, this.resume);
  private readonly again = h("button", { type: "button", class: "ls-again", title: "Blocks of this take were made while nobody watched. Make them once more, the same bit for bit, and read what they saw; it takes as long as making them did" }, icon("loop"), h("span", {}, AGAIN));
  private readonly marks = h("span", { class: "ls-scrubmarks", "aria-hidden": "true" });
  private readonly scrub = h("input", { type: "range", class: "ls-scrub", min: 0, step: 1, "aria-label": "Block" });
  private readonly newest = h("button", { type: "button", class: "ls-quiet" }, "newest");
  private readonly scrubbed = h("span", { class: "ls-num ls-muted" });
  private readonly scrubber: HTMLElement;
  private selected = 0;

  constructor(private readonly store: Store, kind: string, model: Model) {
    const single = KINDS[kind];
    this.panes = single === undefined ? Object.values(KINDS).map((make) => make(store, model)) : [single(store, model)];
    this.tabs = this.panes.map((pane, i) => {
      const tab = h("button", { type: "button", role: "tab", class: "ls-tab" }, pane.title);
      tab.addEventListener("click", () => this.select(i));
      tab.addEventListener("keydown", (event) => this.onTabKey(event));
      return tab;
    });
    this.badge.addEventListener("click", () => this.toggleFaults());
    this.close.addEventListener("click", () => void store.command("watch", { on: false }));
    this.again.addEventListener("click", () => void store.command("reread", this.unread() ? { block: store.block } : {}));
    this.resume.addEventListener("click", () => void store.command(store.watching ? "measure" : "watch", { on: true }));
    this.newest.addEventListener("click", () => store.choose(null));
    this.scrub.addEventListener("input", () => {
      const block = store.readings.blocks[Number(this.scrub.value)];
      if (block !== undefined) store.choose(block);
    });
    const bar = single === undefined
      ? h("div", { class: "ls-tabs" }, h("div", { role: "tablist", "aria-label": "What the model sees", class: "ls-tablist" }, ...this.tabs), h("span", { class: "ls-grow" }), this.again, this.badge, this.close)
      : h("div", { class: "ls-alone" }, h("span", { class: "ls-grow" }), this.again, this.badge);
    this.scrubber = h("div", { class: "ls-scrubber" }, this.scrubbed, h("div", { class: "ls-scrubbox" }, this.scrub, this.marks), this.newest);
    this.element = h(
      "section", { class: `ls-card ls-inspect ${single === undefined ? "" : "ls-single"}`, "aria-label": "What the model sees" },
      bar, this.trouble, this.faults, ...this.panes.map((pane) => pane.element), ...(single === undefined ? [] : [this.scrubber]),
    );
    this.panes.forEach((pane) => single === undefined && pane.element.setAttribute("role", "tabpanel"));
    this.select(0);
  }

  update(): void {
    this.panes[this.selected]?.update();
    const { hello } = this.store;
    if (hello !== null) this.element.style.setProperty("--ls-ratio", String(hello.width / hello.height));
    this.updateHealth();
    this.updateScrubber();
    this.updateAgain();
  }

  dispose(): void {
    for (const pane of this.panes) pane.dispose?.();
  }

  /** What is there to be read once more, and what became of it. */
  private updateAgain(): void {
    const { again, hello, source, trouble, watching } = this.store;
    const missed = this.missed();
    const one = this.unread();
    show(this.again, hello?.rereads === true && watching && (missed > 0 || one) && !busy(source));
    this.again.disabled = again.busy;
    const told = again.busy ? (missed > 0 ? `reading, ${missed} to go` : "reading") : one ? "read this block" : AGAIN;
    setText(this.again.lastElementChild as Element, told);
    put(this.again, "aria-label", told);
    const said = trouble ?? (again.error === null ? null : `It could not be read: ${again.error}`);
    show(this.trouble, said !== null);
    if (said !== null) setText(this.lost, `${said.charAt(0).toUpperCase()}${said.slice(1)}.`);
    show(this.resume, trouble !== null);
    setText(this.resume, watching ? "Measure again" : "Watch again");
  }

  /** Blocks that nobody read, of those that are kept; where the residue is wanted, those that lack it as well. */
  private missed(): number {
    const { measuring, readings, stats } = this.store;
    const made = stats?.generated_blocks ?? 0;
    const first = Math.max(0, made - readings.most);
    const switched = readings.all.find((reading) => reading.policy !== null && Object.keys(reading.prompts).length > 1)?.block ?? Infinity;
    const lacks = (block: number) => {
      const reading = readings.at(block);
      return reading === undefined || (measuring && block >= switched && Object.keys(reading.residue).length === 0);
    };
    return Array.from({ length: made - first }, (_, i) => first + i).filter(lacks).length;
  }

  /** Whether the block that is shown was made and read, but is kept no more. */
  private unread(): boolean {
    const { block, readings, reading, stats } = this.store;
    return reading === undefined && block !== null && block < (stats?.generated_blocks ?? 0) - readings.most;
  }

  private select(index: number): void {
    this.selected = index;
    this.panes.forEach((pane, i) => show(pane.element, i === index));
    this.tabs.forEach((tab, i) => {
      tab.setAttribute("aria-selected", String(i === index));
      tab.tabIndex = i === index ? 0 : -1;
    });
    this.update();
  }

  private onTabKey(event: KeyboardEvent): void {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    this.select((this.selected + step + this.tabs.length) % this.tabs.length);
    this.tabs[this.selected]?.focus();
  }

  private updateHealth(): void {
    const { faults } = this.store.readings;
    const seen = this.store.readings.latest !== undefined && this.store.watching;
    this.badge.style.visibility = seen ? "visible" : "hidden";
    this.badge.dataset.kind = faults.length > 0 ? "fault" : "good";
    setText(this.badge, faults.length > 0 ? `${faults.length} warning${faults.length > 1 ? "s" : ""}` : "healthy");
    const told = faults.length > 0 ? "What is wrong with the cache" : "Checked at every block: nothing zero, stale, not finite or exploding, and the right text";
    if (this.badge.title !== told) this.badge.title = told;
    if (this.faults.children.length !== faults.length) {
      this.faults.replaceChildren(...faults.map((fault) => h("p", {}, fault.message)));
    }
    if (faults.length === 0) this.toggleFaults(false);
  }

  private toggleFaults(open = this.faults.hidden && this.store.readings.faults.length > 0): void {
    show(this.faults, open);
    this.badge.setAttribute("aria-expanded", String(open));
  }

  private updateScrubber(): void {
    const { readings, reading, chosen } = this.store;
    const { blocks } = readings;
    this.scrub.max = String(Math.max(0, blocks.length - 1));
    this.scrub.disabled = blocks.length < 2;
    const at = reading === undefined ? -1 : blocks.indexOf(reading.block);
    if (at >= 0 && document.activeElement !== this.scrub) this.scrub.value = String(at);
    else if (at >= 0 && chosen === null) this.scrub.value = String(at);
    setText(this.scrubbed, reading === undefined ? "block –" : `block ${reading.block}`);
    this.newest.setAttribute("aria-pressed", String(chosen === null));
    this.markSwitches();
  }

  /** Where along the slider a switch came into force, in the colour of its prompt. */
  private markSwitches(): void {
    const { readings, timeline } = this.store;
    const last = Math.max(1, readings.blocks.length - 1);
    const switched = readings.all.flatMap((reading, place) => (reading.policy === null ? [] : [{ place, block: reading.block }]));
    const key = JSON.stringify([last, switched, timeline.segments.map((segment) => segment.colour)]);
    if (this.marks.dataset.key === key) return;
    this.marks.dataset.key = key;
    this.marks.replaceChildren(...switched.map(({ place, block }) => {
      const mark = h("i", { class: "ls-switchmark" });
      mark.style.left = `${(100 * place) / last}%`;
      mark.style.background = colour(this.store.segmentAt(block)?.colour ?? 0);
      return mark;
    }));
  }
}
