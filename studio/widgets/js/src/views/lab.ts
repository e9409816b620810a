import { colour, h, icon, setText, show } from "../dom";
import { clock } from "../grid";
import type { LabStore, Lane } from "../lab/store";
import type { LabBlock, LabSettings, Policy } from "../lab/types";
import { percentage } from "../readings";
import type { SlotFields } from "../types";
import { Chart, type Stroke } from "./chart";

/** The first two colours of the palette belong to the prompts. */
export const runColour = (run: number) => `var(--ls-p${run + 3})`;

const MEANING: Record<string, string> = {
  clear: "Forget everything and begin again",
  keep: "Leave the cache as it is",
  recache: "Read the frames once more under the new prompt; the sink as this model does it",
  "recache, sink: keep": "Read the window once more under the new prompt; the sink stays as it was",
  "recache, sink: rewrite": "Read everything once more under the new prompt; the oldest frames read become the sink",
};

const HEADS: [string, string, string[]][] = [
  ["policy", "", ["policy"]],
  ["left of the first prompt in the cache", "How far the cache is from what it would hold under the second prompt alone: 1 is the distance between the two prompts, 0 nothing; measured against the same pictures under each prompt alone", ["before", "after", "first block", "last block"]],
  ["the film's end shows", "As the judge says, 0 to 1 for the probe", ["shows first", "shows then"]],
  ["picture", "Difference of the pictures at the switch, over that elsewhere in the film", ["jump"]],
  ["old words", "At the end: share of the attention that finds a word of the first prompt in the cache", ["old words"]],
  ["cost of the switch", "Seconds of the recache, and as a share of the time of a block; both without the time that the probes took", ["recache (s)", "share of a block"]],
];
const SHOWN_WORDS = 4;
const SHORT: Record<string, string> = {
  policy: "", before: "before", after: "after", "first block": "first block", "last block": "at the end", "shows first": "first", "shows then": "second",
  "old words": "in the cache", jump: "jump", "recache (s)": "seconds", "share of a block": "of a block",
};

function nameOf(policy: Policy): string {
  return typeof policy === "string" ? policy : `${policy[0]}, sink: ${policy[1]}`;
}

/** One policy: its film and its cache. */
class Column {
  readonly element: HTMLElement;
  readonly canvas = h("canvas", { class: "ls-labfilm", width: 8, height: 8, role: "img" });
  private readonly title = h("span", { class: "ls-heading" });
  private readonly swatch = h("i", { class: "ls-runkey", "aria-hidden": "true" });
  private readonly moment = h("span", { class: "ls-aside ls-muted ls-num" });
  private readonly strip = h("div", { class: "ls-ministrip", role: "group" });
  private drawn = -1;

  constructor(private readonly store: LabStore, private readonly run: number, private readonly told: (text: string | null) => void) {
    this.swatch.style.setProperty("--ls-c", runColour(run));
    this.swatch.dataset.dash = String(run);
    this.element = h(
      "div", { class: "ls-run" },
      h("div", { class: "ls-runhead" }, this.swatch, this.title, h("span", { class: "ls-grow" }), this.moment),
      this.canvas, this.strip,
    );
    this.strip.addEventListener("mouseleave", () => {
      store.point(null);
      told(null);
    });
  }

  update(name: string): void {
    const { store } = this;
    setText(this.title, name);
    this.element.title = MEANING[name] ?? "";
    this.canvas.setAttribute("aria-label", `Film under ${name}`);
    this.element.style.setProperty("--ls-ratio", `${store.settings?.width ?? 1} / ${store.settings?.height ?? 1}`);
    const block = this.lane?.blocks.get(store.block);
    const at = store.settings?.at ?? 0;
    setText(this.moment, block === undefined ? "" : block.block < at ? "before the switch" : block.block === at ? "the switch" : `${block.block - at} after`);
    this.drawStrip(block);
  }

  draw(): void {
    const { frame } = this.store.pace;
    const picture = this.lane?.decoder.picture(frame);
    if (picture === undefined || frame === this.drawn) return;
    if (this.canvas.width !== picture.width || this.canvas.height !== picture.height) [this.canvas.width, this.canvas.height] = [picture.width, picture.height];
    this.canvas.getContext("2d")?.drawImage(picture, 0, 0);
    this.canvas.dataset.frame = String(frame);
    this.drawn = frame;
  }

  forget(): void {
    this.drawn = -1;
  }

  private get lane(): Lane | undefined {
    return this.store.lanes[this.run];
  }

  private drawStrip(block: LabBlock | undefined): void {
    const slots = block?.slots ?? [];
    this.strip.setAttribute("aria-label", "What the block could see");
    while (this.strip.children.length > slots.length) this.strip.lastElementChild?.remove();
    while (this.strip.children.length < slots.length) this.strip.append(this.makeCell(this.strip.children.length));
    const sink = slots.filter((slot) => slot[1] === "sink").length;
    const most = Math.max(0.01, ...(block?.shares ?? []));
    slots.forEach(([frame, role, prompt, written], i) => {
      const cell = this.strip.children[i] as HTMLElement;
      cell.style.setProperty("--ls-c", prompt === null ? "transparent" : colour(prompt));
      cell.style.setProperty("--ls-h", String((block?.shares[i] ?? 0) / most));
      cell.dataset.role = role;
      cell.dataset.written = written ?? "";
      cell.dataset.prompt = prompt === null ? "" : String(prompt);
      cell.dataset.own = String(frame !== null && block?.own.includes(frame));
      cell.dataset.frame = frame === null ? "" : String(frame);
      cell.dataset.on = String(frame !== null && frame === this.store.pointed);
      cell.dataset.apart = String(i === sink && sink > 0);
    });
  }

  private makeCell(place: number): HTMLElement {
    const cell = h("span", { class: "ls-mini" }, h("i"), h("b"));
    cell.addEventListener("mouseenter", () => {
      const block = this.lane?.blocks.get(this.store.block);
      const slot = block?.slots[place];
      if (block === undefined || slot === undefined) return;
      this.store.point(slot[0]);
      this.told(this.describe(block, slot, place));
    });
    return cell;
  }

  private describe(block: LabBlock, [frame, role, prompt, written, at]: SlotFields, place: number): string {
    const name = this.store.settings?.names[this.run] ?? "";
    if (frame === null) return `${name}: an empty slot`;
    const under = prompt === null ? "" : ` under “${prompt === 0 ? this.store.settings?.first : this.store.settings?.then}”`;
    const how = written === "recache" ? `recomputed by the recache before block ${at}` : `written at block ${at}`;
    return `${name} · latent frame ${frame}, ${role} · ${how}${under} · ${percentage(block.shares[place] ?? NaN)} of the attention`;
  }
}

/** The recache lab. */
export class LabView {
  readonly element: HTMLElement;
  private readonly inputs = { first: this.makePrompt("first", 0), then: this.makePrompt("then", 1) };
  private readonly at = h("input", { type: "range", class: "ls-scrub", min: 1, step: 1, "aria-label": "Block of the switch" });
  private readonly atTold = h("span", { class: "ls-num ls-muted" });
  private readonly seed = h("input", { class: "ls-seed", type: "number", min: 0, step: 1, "aria-label": "Seed" });
  private readonly chips = h("div", { class: "ls-labchips", role: "group", "aria-label": "Policies, two to four" });
  private readonly note = h("span", { class: "ls-labnote ls-num", role: "status" });
  private readonly columns = h("div", { class: "ls-runs" });
  private readonly play = h("button", { type: "button", class: "ls-primary", "aria-label": "Play or pause" });
  private readonly scrub = h("input", { type: "range", class: "ls-scrub", min: 0, step: 1, value: 0, "aria-label": "Frame" });
  private readonly switchMark = h("i", { class: "ls-switchmark", "aria-hidden": "true" });
  private readonly time = h("span", { class: "ls-num ls-labtime" });
  private readonly detail = h("div", { class: "ls-detail ls-num", "aria-live": "polite" });
  private readonly left = new Chart("Left of the first prompt");
  private readonly shows = new Chart("What the film shows of the second prompt");
  private readonly spoken = new Chart("Words of the first prompt, found in the cache");
  private readonly faults = h("div", { class: "ls-trouble ls-labfaults", role: "status", hidden: true });
  private readonly heads: HTMLElement[] = [];
  private readonly judged: HTMLElement;
  private readonly traced: HTMLElement;
  private readonly legend = h("div", { class: "ls-legend ls-runlegend" });
  private readonly table = h("table", { class: "ls-labtable" });
  private runs: Column[] = [];
  private key = "";
  private hovered: string | null = null;
  private playing: boolean | null = null;

  constructor(private readonly store: LabStore) {
    this.at.addEventListener("input", () => this.tellSwitch(Number(this.at.value)));
    this.at.addEventListener("change", () => void store.change({ at: Number(this.at.value) }));
    this.seed.addEventListener("change", () => void store.change({ seed: Number(this.seed.value) }));
    this.play.addEventListener("click", () => store.toggle());
    this.scrub.addEventListener("input", () => {
      if (store.pace.running) store.toggle();
      store.seek(Number(this.scrub.value));
    });
    this.traced = this.frame("Words of the first prompt in the cache", "Share of the attention that finds a word of the first prompt in the notes it looks at: the attention on each slot times what the pass that wrote it had heard", this.spoken);
    this.judged = this.frame("What the film shows of the second prompt", "As the judge says about the latest frames: 0 nothing of it, 1 all of it", this.shows);
    this.element = h(
      "div", { class: "ls-lab" },
      h("section", { class: "ls-card ls-labset", "aria-label": "What is compared" },
        h("div", { class: "ls-labprompts" }, this.inputs.first.parentElement, this.inputs.then.parentElement),
        h("div", { class: "ls-labrow" }, h("label", { class: "ls-labat" }, h("span", {}, "switch"), this.at, this.atTold), h("label", { class: "ls-labseed" }, h("span", {}, "seed"), this.seed), this.chips, this.note),
      ),
      h("section", { class: "ls-card ls-labfilms", "aria-label": "Films side by side" },
        this.columns,
        h("div", { class: "ls-labtransport" }, this.play, h("div", { class: "ls-scrubbox" }, this.scrub, this.switchMark), this.time),
        this.detail,
      ),
      h("section", { class: "ls-card ls-labcurves", "aria-label": "What each policy leaves" },
        h("div", { class: "ls-labcharts" }, this.frame("What the cache keeps of the first prompt", "1 is the distance between the prompts, as if nothing had been switched; 0 is as if it had always been the second", this.left), this.traced, this.judged),
        this.faults,
        this.legend,
        h("div", { class: "ls-tablebox" }, this.table),
      ),
    );
  }

  update(): void {
    const { store } = this;
    const { settings } = store;
    show(this.element, true);
    if (settings === null) {
      setText(this.note, "Waiting for the kernel.");
      return;
    }
    this.drawSettings();
    if (this.runs.length !== settings.policies.length) {
      this.runs = settings.policies.map((_, run) => new Column(store, run, (text) => this.tell(text)));
      this.columns.replaceChildren(...this.runs.map((run) => run.element));
      this.columns.style.setProperty("--ls-runs", String(this.runs.length));
      this.columns.dataset.runs = String(this.runs.length);
    }
    const key = JSON.stringify([settings.version, settings.names]);
    if (key !== this.key) {
      this.key = key;
      for (const run of this.runs) run.forget();
      this.drawLegend(settings.names);
    }
    this.runs.forEach((run, i) => run.update(settings.names[i] ?? ""));
    this.drawTransport();
    this.drawCharts();
    this.drawTable();
    this.tell(this.hovered);
    this.draw();
  }

  draw(): void {
    for (const run of this.runs) run.draw();
    const { store } = this;
    const { frame } = store.pace;
    if (document.activeElement !== this.scrub || store.pace.running) this.scrub.value = String(frame);
    setText(this.time, `${clock(store.grid.seconds(frame))} · block ${store.block}`);
    for (const head of this.heads) head.style.left = `${(100 * store.grid.seconds(frame)) / Math.max(1e-6, store.grid.blockSeconds(store.settings?.blocks ?? 1))}%`;
  }

  private makePrompt(name: "first" | "then", prompt: number): HTMLInputElement {
    const input = h("input", { class: "ls-input", type: "text", dir: "auto", spellcheck: "false", "aria-label": name === "first" ? "First prompt" : "Second prompt" });
    const label = h("label", { class: "ls-labprompt" }, h("span", {}, name === "first" ? "first" : "then"), input);
    label.style.setProperty("--ls-c", colour(prompt));
    input.addEventListener("input", () => this.store.touched());
    input.addEventListener("change", () => void this.store.change({ [name]: input.value.trim() }));
    return input;
  }

  private frame(title: string, meaning: string, chart: Chart): HTMLElement {
    const head = h("div", { class: "ls-curvehead", "aria-hidden": "true" });
    this.heads.push(head);
    return h("div", { class: "ls-labchart" }, h("div", { class: "ls-heading", title: meaning }, title), h("div", { class: "ls-plot" }, chart.element, head, h("span", { class: "ls-scale ls-num" })));
  }

  private drawSettings(): void {
    const { settings, refusal } = this.store;
    if (settings === null) return;
    for (const name of ["first", "then"] as const) if (document.activeElement !== this.inputs[name]) this.inputs[name].value = settings[name];
    this.at.max = String(settings.blocks - 1);
    if (document.activeElement !== this.at) this.at.value = String(settings.at);
    this.tellSwitch(Number(this.at.value));
    if (document.activeElement !== this.seed) this.seed.value = String(settings.seed);
    const chosen = settings.policies.map(nameOf);
    while (this.chips.children.length < settings.choices.length) this.chips.append(this.makeChip(settings.choices[this.chips.children.length] as Policy));
    for (const chip of this.chips.children as HTMLCollectionOf<HTMLButtonElement>) {
      const run = chosen.indexOf(chip.dataset.name ?? "");
      chip.setAttribute("aria-pressed", String(run >= 0));
      chip.disabled = run >= 0 ? chosen.length <= 2 : chosen.length >= 4;
      chip.style.setProperty("--ls-c", run >= 0 ? runColour(run) : "transparent");
    }
    const made = this.store.lanes.reduce((sum, lane) => sum + lane.blocks.size, 0);
    const all = settings.policies.length * settings.blocks;
    const doing = { making: `making block ${Math.min(made, all)} of ${all}`, ready: "", closed: "closed: run the cell again", error: settings.error ?? "something went wrong" }[settings.state];
    const strange = this.strange(settings);
    const pending = this.pending(settings);
    setText(this.note, refusal ?? (settings.state === "error" ? doing : pending ?? ([doing, strange].filter(Boolean).join("; "))));
    this.note.classList.toggle("ls-warn", refusal !== null || settings.state === "error" || (pending === null && doing === "" && strange !== ""));
    this.element.dataset.state = settings.state;
  }

  /** What stands in a box and was not asked for yet. */
  private pending(settings: LabSettings): string | null {
    const changed = (["first", "then"] as const).some((name) => this.inputs[name].value.trim() !== settings[name]);
    return changed ? "Enter makes the films with this prompt" : null;
  }

  private strange({ name, unknown }: LabSettings): string {
    if (unknown.length === 0) return "";
    const named = unknown.slice(0, SHOWN_WORDS).map(({ word, nearest }) => (nearest === null ? `“${word}”` : `“${word}” (nearest: ${nearest})`));
    return `not in the ${name}’s world: ${named.join(", ")}${unknown.length > SHOWN_WORDS ? ` and ${unknown.length - SHOWN_WORDS} more` : ""}`;
  }

  private makeChip(policy: Policy): HTMLButtonElement {
    const name = nameOf(policy);
    const chip = h("button", { type: "button", class: "ls-chip ls-runchip", title: MEANING[name] ?? "", "data-name": name }, h("i", { class: "ls-runkey" }), name);
    chip.addEventListener("click", () => {
      const chosen = this.store.settings?.policies ?? [];
      const on = chosen.some((one) => nameOf(one) === name);
      const wanted = on ? chosen.filter((one) => nameOf(one) !== name) : (this.store.settings?.choices ?? []).filter((one) => nameOf(one) === name || chosen.some((other) => nameOf(other) === nameOf(one)));
      void this.store.change({ policies: wanted });
    });
    return chip;
  }

  private tellSwitch(at: number): void {
    setText(this.atTold, `block ${at}, ${clock(this.store.grid.blockSeconds(at))}`);
  }

  private tell(text: string | null): void {
    this.hovered = text;
    setText(this.detail, text ?? "Point at a slot: where it comes from, under every policy. Hatched slots were written by a recache, dashed ones by the block itself.");
  }

  private drawTransport(): void {
    const { store } = this;
    const { settings, pace } = store;
    if (settings === null) return;
    if (this.playing !== pace.running) {
      this.playing = pace.running;
      this.play.replaceChildren(icon(pace.running ? "pause" : "play"));
    }
    const frames = store.grid.start(settings.blocks);
    this.scrub.max = String(frames - 1);
    this.switchMark.style.left = `${(100 * store.grid.start(settings.at)) / frames}%`;
    this.switchMark.title = `The switch: block ${settings.at}`;
  }

  private drawCharts(): void {
    const { store } = this;
    const { settings } = store;
    if (settings === null) return;
    const seconds = store.grid.blockSeconds(settings.blocks);
    const place = (block: number) => store.grid.blockSeconds(block) / seconds;
    const mark = { at: place(settings.at), colour: "var(--ls-edge)", label: "switch" };
    const sorted = store.lanes.map((lane) => [...lane.blocks.values()].sort((a, b) => a.block - b.block));
    const residue: Stroke[] = sorted.map((blocks, run) => ({
      points: blocks.flatMap((block) => (["before", "after", "made"] as const).flatMap((moment) => {
        const value = block.residue[moment];
        return value === null || value === undefined ? [] : [[place(block.block + Number(moment === "made")), value] as [number, number]];
      })),
      colour: runColour(run), dash: run, label: settings.names[run] ?? "",
    }));
    const shown = (number: string): [number, number][][] => sorted.map((blocks) => blocks.flatMap((block) => {
      const value = block.alignment[number];
      return value === null || value === undefined ? [] : [[place(block.block + 1), value] as [number, number]];
    }));
    const second: Stroke[] = shown("1").map((points, run) => ({ points, colour: runColour(run), dash: run, label: settings.names[run] ?? "" }));
    const top = scale([...residue.flatMap((stroke) => stroke.points), [0, 1]]);
    const height = scale(second.flatMap((stroke) => stroke.points));
    this.plot(this.left, residue, top, [mark]);
    this.plot(this.shows, second, height, [mark]);
    show(this.judged, settings.judged);
    const old: Stroke[] = sorted.map((blocks, run) => ({
      points: blocks.flatMap((block) => (block.words[0] === undefined ? [] : [[place(block.block + 1), block.words[0]] as [number, number]])),
      colour: runColour(run), dash: run, label: settings.names[run] ?? "",
    }));
    this.plot(this.spoken, old, scale(old.flatMap((stroke) => stroke.points)), [mark]);
    // A place that may stay empty is given up only once all is made: nothing moves meanwhile.
    show(this.traced, settings.state !== "ready" || old.some((stroke) => stroke.points.length > 0));
    const faults = sorted.flatMap((blocks, run) => blocks.flatMap((block) => block.warnings.map((fault) => `${settings.names[run]}: ${fault}`)));
    show(this.faults, faults.length > 0);
    if (this.faults.dataset.count !== String(faults.length)) {
      this.faults.dataset.count = String(faults.length);
      this.faults.replaceChildren(...faults.map((fault) => h("p", {}, fault)));
    }
  }

  private plot(chart: Chart, strokes: Stroke[], top: number, marks: { at: number; colour: string; label: string }[]): void {
    const told = strokes.map((stroke) => `${stroke.label}: ${stroke.points.at(-1)?.[1].toFixed(2) ?? "nothing yet"}`).join("; ");
    chart.draw(strokes.map((stroke) => ({ ...stroke, points: stroke.points.map(([x, y]) => [x, Math.max(0, y / top)] as [number, number]) })), marks, told);
    setText(chart.element.parentElement?.querySelector(".ls-scale") as Element, strokes.some((stroke) => stroke.points.length > 0) ? String(top) : "");
  }

  private drawLegend(names: string[]): void {
    this.legend.replaceChildren(...names.map((name, run) => {
      const mark = h("i", { class: "ls-runkey" });
      mark.style.setProperty("--ls-c", runColour(run));
      mark.dataset.dash = String(run);
      return h("span", { class: "ls-entry", title: MEANING[name] ?? "" }, mark, h("span", {}, name));
    }));
  }

  private drawTable(): void {
    const { table, settings } = this.store;
    const key = JSON.stringify([table, settings?.names]);
    if (settings === null || this.table.dataset.key === key) return;
    this.table.dataset.key = key;
    const heads = HEADS.filter(([title]) => settings.judged || title !== "the film's end shows");
    const columns = heads.flatMap(([, , names]) => names);
    const rows = settings.names.map((name, run) => {
      const values = table?.rows[run];
      return h("tr", {}, ...columns.map((column) => {
        if (column === "policy") {
          const mark = h("i", { class: "ls-runkey" });
          mark.style.setProperty("--ls-c", runColour(run));
          mark.dataset.dash = String(run);
          return h("th", { scope: "row" }, mark, name);
        }
        return h("td", { class: "ls-num", "data-column": column }, number(column, values?.[table?.columns.indexOf(column) ?? -1] ?? null));
      }));
    });
    this.table.replaceChildren(
      h("thead", {},
        h("tr", {}, ...heads.map(([title, meaning, names]) => h("th", { colspan: names.length, scope: "colgroup", title: meaning }, title === "policy" ? "" : title))),
        h("tr", {}, ...columns.map((column) => h("th", { scope: "col" }, SHORT[column] ?? column))),
      ),
      h("tbody", {}, ...rows),
    );
  }
}

function number(column: string, value: string | number | null): string {
  if (value === null || typeof value === "string") return "–";
  if (column === "old words") return percentage(value);
  if (column === "share of a block") return value === 0 ? "–" : `${(100 * value).toFixed(0)} %`;
  if (column === "recache (s)") return value === 0 ? "–" : value.toFixed(2);
  return value.toFixed(column === "jump" ? 1 : 2);
}

function scale(points: [number, number][]): number {
  const most = Math.max(0, ...points.map(([, value]) => value));
  return [0.25, 0.5, 1, 1.25, 1.5, 2, 3, 5, 10].find((top) => top >= most - 1e-3) ?? most;
}
