import { colour, h, icon, setText, show } from "../dom";
import { plain } from "../editor/clip";
import type { Desk } from "../editor/desk";
import { appendAt } from "../editor/edits";
import { SEGMENT_BLOCKS, endOf } from "../editor/line";
import { clock } from "../grid";
import type { Operation, Segment, Timeline, Transition, Weighted } from "../types";

const APPEND_GAP = 4;
const AHEAD = 3;
const COLOURS = 7;
const POLICIES: readonly [string, string][] = [
  ["", "memory: as set"], ["recache", "recache"], ["keep", "keep"], ["clear", "clear"],
];
const SINKS: readonly [string, string][] = [["", "sink: as set"], ["keep", "sink: keep"], ["rewrite", "sink: rewrite"]];
const HEXES = ["#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#0072b2", "#f0e442"];

/** The form of a segment: its text, what is mixed in, how it begins, where it lies; shown in the lanes while it is filled in. */
export class SegmentForm {
  readonly element: HTMLElement;
  private readonly text = h("textarea", { class: "ls-input ls-formtext", rows: 2, dir: "auto", spellcheck: "false", "aria-label": "Text of this prompt" });
  private readonly weight = number("Weight of this prompt in the blend", 0, 100, "any");
  private readonly parts = h("div", { class: "ls-parts" });
  private readonly policy = choice("What happens to the memory of the prompt before", POLICIES);
  private readonly sink = choice("What happens to the first frames in the memory", SINKS);
  private readonly fade = number("Blocks over which the prompt before goes over into this one; 0 for at once", 0, 1000);
  private readonly kind = choice("How it goes over", [["linear", "linear"], ["spherical", "spherical"]]);
  private readonly start = number("First block", 0, 10_000_000);
  private readonly blocks = number("Length in blocks; empty for no end", 1, 10_000_000);
  private readonly swatches = h("div", { class: "ls-swatches", role: "radiogroup", "aria-label": "Colour" });
  private readonly note = h("input", { class: "ls-input ls-formnote", type: "text", placeholder: "note", "aria-label": "Note" });
  private readonly told = h("span", { class: "ls-muted ls-num ls-editnote", role: "status" });
  private readonly drop = h("button", { type: "button" }, "Remove");
  private readonly reuse = h("button", { type: "button", title: "Put this text into the prompt box" }, "Use again");
  private readonly apply = h("button", { type: "button", class: "ls-primary" }, "Apply", icon("enter"));
  private original: Segment | null = null;
  private index = -1;
  private colour = "";
  private opener: HTMLElement | null = null;
  private sending = false;
  /** Whether somebody chose the block where a new prompt begins. */
  private placed = false;

  constructor(private readonly desk: Desk, reuse: (prompt: string) => void) {
    const more = h("button", { type: "button", class: "ls-link", click: () => this.addPart({ prompt: "", weight: 1 }, true) }, "mix in another prompt");
    const field = (label: string, ...inside: HTMLElement[]) => h("label", { class: "ls-field" }, h("span", { class: "ls-muted" }, label), ...inside);
    this.element = h(
      "div", { class: "ls-editor", role: "dialog", "aria-label": "Edit a prompt of the timeline", hidden: true },
      h("div", { class: "ls-part" }, this.text, this.weight),
      this.parts,
      h("div", { class: "ls-editrow" }, more, h("span", { class: "ls-grow" }), field("over", this.fade), h("span", { class: "ls-muted" }, "blocks"), this.kind),
      h("div", { class: "ls-editrow" }, field("from block", this.start), field("for", this.blocks), this.policy, this.sink),
      h("div", { class: "ls-editrow" }, this.swatches, this.note),
      h("div", { class: "ls-editrow" }, this.told, h("span", { class: "ls-grow" }), this.reuse, this.drop, h("button", { type: "button", click: () => this.close() }, "Cancel"), this.apply),
    );
    this.text.addEventListener("keydown", (event) => this.onText(event));
    this.element.addEventListener("keydown", (event) => this.onKey(event));
    this.start.addEventListener("input", () => (this.placed = true));
    this.element.addEventListener("input", () => this.show());
    this.element.addEventListener("change", () => this.show());
    this.apply.addEventListener("click", () => void this.commit());
    this.drop.addEventListener("click", () => void this.remove());
    this.reuse.addEventListener("click", () => {
      const prompt = this.text.value;
      this.close();
      reuse(prompt);
    });
  }

  get open(): boolean {
    return !this.element.hidden;
  }

  /** Open the form of a segment. */
  edit(index: number, opener: HTMLElement): void {
    const segment = this.desk.store.timeline.segments[index];
    if (segment === undefined || !this.desk.editable) return;
    this.desk.pick(index, "only");
    this.begin(index, segment, opener);
  }

  /** Open the form of a new segment at the end, or at the cursor. */
  add(opener: HTMLElement): void {
    const { desk } = this;
    const { timeline, nextBlock } = desk.store;
    if (!desk.editable) return;
    const start = desk.cursor !== null && desk.cursor > nextBlock ? desk.cursor : appendAt(timeline, nextBlock, APPEND_GAP);
    this.begin(-1, { prompt: timeline.segments.at(-1)?.prompt ?? "", start, colour: timeline.segments.length % COLOURS }, opener);
  }

  close(refocus = true): void {
    if (!this.open) return;
    show(this.element, false);
    this.desk.draft = null;
    this.desk.editing = null;
    this.desk.redraw();
    if (!refocus) return;
    if (this.opener?.isConnected) this.opener.focus();
    else this.element.closest<HTMLElement>(".ls-studio")?.focus();
  }

  /** Keep to the segment while the timeline moves under it; close where somebody else took it away. */
  place(x: (block: number) => number, room: number): void {
    if (!this.open) return;
    if (this.index >= 0 && !this.sending && this.desk.store.timeline.segments[this.index]?.start !== this.original?.start) return this.close();
    this.keepAhead();
    const left = x(this.index < 0 ? amount(this.start.value, 0) : (this.original?.start ?? 0));
    this.element.style.left = `${Math.max(0, Math.min(left, room - this.element.offsetWidth)).toFixed(0)}px`;
  }

  /** A new prompt whose block nobody chose stays ahead of what is made while its text is being written. */
  private keepAhead(): void {
    const { nextBlock } = this.desk.store;
    if (this.index >= 0 || this.placed || amount(this.start.value, 0) > nextBlock) return;
    this.start.value = String(nextBlock + AHEAD);
    this.show();
  }

  private begin(index: number, segment: Segment, opener: HTMLElement): void {
    const { desk } = this;
    this.index = index;
    this.placed = false;
    this.original = segment;
    this.opener = opener;
    desk.editing = index;
    this.text.value = segment.prompt;
    this.weight.value = String(segment.weight ?? 1);
    this.parts.replaceChildren();
    for (const part of segment.blend ?? []) this.addPart(part, false);
    this.policy.value = segment.policy ?? "";
    this.sink.value = segment.sink_policy ?? "";
    this.fade.value = String(segment.transition?.blocks ?? 0);
    this.kind.value = segment.transition?.kind ?? "linear";
    this.start.value = String(segment.start);
    const end = index < 0 ? null : endOf(desk.store.timeline, index);
    this.blocks.value = end === null ? "" : String(end - segment.start);
    this.note.value = segment.note ?? "";
    this.colour = typeof segment.colour === "string" ? segment.colour : "";
    this.drawSwatches(segment);
    show(this.drop, index >= 0 && desk.store.timeline.segments.length > 1);
    show(this.element, true);
    this.show();
    desk.show(segment.start);
    this.text.focus();
    this.text.select();
  }

  private drawSwatches(segment: Segment): void {
    const automatic = typeof segment.colour === "number" ? colour(segment.colour) : "var(--ls-soft)";
    const options: [string, string, string][] = [["", "as given", automatic], ...HEXES.map((hex, i): [string, string, string] => [hex, `colour ${i + 1}`, hex])];
    const own = this.colour !== "" && !HEXES.includes(this.colour) ? [[this.colour, "its own", this.colour] as [string, string, string]] : [];
    this.swatches.replaceChildren(
      ...[...options, ...own].map(([value, label, css]) => {
        const button = h("button", { type: "button", role: "radio", class: "ls-colour", "aria-label": label, title: label, "aria-checked": String(value === this.colour), "data-value": value });
        button.style.setProperty("--ls-c", css);
        button.addEventListener("click", () => {
          this.colour = value;
          for (const other of this.swatches.children) other.setAttribute("aria-checked", String((other as HTMLElement).dataset.value === value));
          this.show();
        });
        return button;
      }),
    );
  }

  private addPart(part: Weighted, focus: boolean): void {
    const prompt = h("input", { class: "ls-input", type: "text", dir: "auto", spellcheck: "false", "aria-label": "A prompt to mix in" });
    const weight = number("Its weight", 0, 100, "any");
    prompt.value = part.prompt;
    weight.value = String(part.weight);
    const row = h("div", { class: "ls-part" }, prompt, weight);
    const drop = h("button", { type: "button", "aria-label": "Mix this prompt in no more", title: "Mix this prompt in no more" }, icon("less"));
    drop.addEventListener("click", () => {
      row.remove();
      this.text.focus();
      this.show();
    });
    row.append(drop);
    this.parts.append(row);
    this.show();
    if (focus) prompt.focus();
  }

  /** What the form says. */
  private read(): Segment {
    const blend: Weighted[] = [...this.parts.children].flatMap((row) => {
      const [prompt, weight] = row.querySelectorAll("input");
      return prompt && prompt.value.trim() !== "" ? [{ prompt: prompt.value.trim(), weight: amount(weight?.value ?? "1", 1) }] : [];
    });
    const blocks = Math.round(amount(this.fade.value, 0));
    const weight = amount(this.weight.value, 1);
    const found: Segment = { prompt: this.text.value.trim(), start: this.original?.start ?? 0, colour: this.colour || this.plainColour() };
    if (this.policy.value !== "") found.policy = this.policy.value;
    if (this.sink.value !== "") found.sink_policy = this.sink.value;
    if (this.note.value.trim() !== "") found.note = this.note.value.trim();
    if (blend.length > 0) Object.assign(found, { blend, weight });
    if (blocks > 0) found.transition = { blocks, kind: this.kind.value as Transition["kind"] };
    return found;
  }

  private plainColour(): number | string {
    const { original } = this;
    return typeof original?.colour === "number" ? original.colour : 0;
  }

  /** Show in the lanes what the form says. */
  private show(): void {
    const { desk } = this;
    if (!this.open || this.original === null) return;
    const found = this.read();
    show(this.weight, this.parts.childElementCount > 0);
    const line = desk.store.timeline;
    const start = Math.round(amount(this.start.value, 0));
    if (this.index >= 0) desk.draft = { ...line, segments: line.segments.map((segment, i) => (i === this.index ? found : segment)) };
    else desk.draft = this.added(line, { ...found, start });
    const { grid, nextBlock } = desk.store;
    const end = this.index < 0 ? null : endOf(line, this.index);
    const made = this.index >= 0 && end !== null && end <= nextBlock;
    show(this.reuse, made);
    const place = `from ${clock(grid.blockSeconds(start))} (block ${start})`;
    setText(this.told, made ? `${place}, generated already` : this.index >= 0 && start < nextBlock ? `${place}, in force now` : place);
    this.told.classList.remove("ls-warn");
    desk.redraw();
  }

  /** The timeline with a new segment in its place, as the kernel will put it. */
  private added(line: Timeline, segment: Segment): Timeline {
    const segments = [...line.segments.filter(({ start }) => start !== segment.start), segment].sort((a, b) => a.start - b.start);
    const last = segments.at(-1)?.start ?? 0;
    const { length } = line;
    return { ...line, segments, length: length !== null && length <= last ? last + SEGMENT_BLOCKS : length };
  }

  /** What is to be done so that the timeline says what the form says. */
  private operations(): Operation[] {
    const found = this.read();
    const start = Math.round(amount(this.start.value, 0));
    const blocks = this.blocks.value.trim() === "" ? null : Math.max(1, Math.round(amount(this.blocks.value, 1)));
    if (this.index < 0) {
      const put: Operation = { op: "put", segment: plain(found, start) };
      const { length } = this.desk.store.timeline;
      return blocks === null || length === null ? [put] : [put, { op: "length", length: start + blocks }];
    }
    const { original, index } = this;
    const before = plain(original as Segment, 0);
    const after = plain(found, 0);
    const names = ["prompt", "policy", "sink_policy", "colour", "note", "weight", "blend", "transition"];
    const changes = Object.fromEntries(
      names.filter((name) => JSON.stringify(before[name]) !== JSON.stringify(after[name])).map((name) => [name, after[name] ?? null]),
    );
    const operations: Operation[] = Object.keys(changes).length > 0 ? [{ op: "change", segments: [index], changes }] : [];
    return [...operations, ...this.moves(start, blocks)];
  }

  private moves(start: number, blocks: number | null): Operation[] {
    const line = this.desk.store.timeline;
    const { ripple } = this.desk;
    const was = line.segments[this.index]?.start ?? 0;
    const end = endOf(line, this.index);
    const length = end === null ? null : end - was;
    const moves: Operation[] = [];
    if (start !== was) moves.push({ op: "resize", segment_index: this.index, edge: "start", to: start });
    if (blocks === null && length !== null && line.length !== null && this.index === line.segments.length - 1) {
      moves.push({ op: "length", length: null });
    } else if (blocks !== null && (blocks !== length || start !== was)) {
      const to = start + blocks;
      if (to !== end) moves.push({ op: "resize", segment_index: this.index, edge: "end", to, ripple: ripple && end !== null });
    }
    return moves;
  }

  private async commit(): Promise<void> {
    if (this.text.value.trim() === "") return this.warn("write what to see, or remove the prompt");
    this.keepAhead();
    const operations = this.operations();
    const [first] = operations;
    if (first === undefined) return this.close();
    const { desk } = this;
    this.sending = true;
    const reply = await desk.send(operations.length === 1 ? first : { op: "batch", operations });
    this.sending = false;
    // Held back, it is asked about elsewhere, and there the focus is now.
    if (reply === null || reply.error === null || reply.past) {
      this.close(!reply?.past);
      desk.show(Math.round(amount(this.start.value, 0)));
    }
    else this.warn(reply.error);
  }

  private async remove(): Promise<void> {
    this.desk.selection = { chosen: [this.index], anchor: this.index, focus: this.index };
    this.close();
    await this.desk.remove();
  }

  private warn(text: string): void {
    setText(this.told, text);
    this.told.classList.add("ls-warn");
  }

  private onText(event: KeyboardEvent): void {
    if (event.isComposing || event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    void this.commit();
  }

  private onKey(event: KeyboardEvent): void {
    if (event.isComposing) return;
    if (event.key === "Escape") {
      event.preventDefault();
      event.stopPropagation();
      this.close();
    } else if (event.key === "Enter" && event.target instanceof HTMLInputElement) {
      event.preventDefault();
      void this.commit();
    }
  }
}

function number(label: string, least: number, most: number, step: number | "any" = 1): HTMLInputElement {
  return h("input", { class: "ls-input ls-count", type: "number", min: least, max: most, step, "aria-label": label, title: label });
}

function choice(label: string, options: readonly [string, string][]): HTMLSelectElement {
  return h("select", { "aria-label": label, title: label }, ...options.map(([value, text]) => h("option", { value }, text)));
}

function amount(text: string, otherwise: number): number {
  const value = Number(text);
  return text.trim() === "" || !Number.isFinite(value) || value < 0 ? otherwise : value;
}
