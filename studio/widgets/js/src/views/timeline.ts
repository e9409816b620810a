import { colour, h, icon, setText, show } from "../dom";
import { clock, shortClock } from "../grid";
import { appendAt, marks, pieces, span, ticks, type Piece } from "../lane";
import type { Store } from "../store";

const APPEND_GAP = 4;

/** What can be done with a segment: a new one be placed, one to come edited, the one in force changed from now on. */
type Reach = "new" | "ahead" | "now" | "made";

interface Editing {
  /** Index of the segment, or -1 for a new one at the end. */
  index: number;
  start: number;
}

/** The prompts along the time axis: where each begins, what plays now, what is still to come. */
export class TimelineView {
  readonly element: HTMLElement;
  private readonly ruler = h("div", { class: "ls-ruler ls-num", "aria-hidden": "true" });
  private readonly switches = h("div", { class: "ls-marks" });
  private readonly lane = h("div", { class: "ls-lane", role: "list", "aria-label": "Prompts along the time axis" });
  private readonly blocks = h("div", { class: "ls-blocks", "aria-hidden": "true" });
  private readonly future = h("div", { class: "ls-future", "aria-hidden": "true" });
  private readonly head = h("div", { class: "ls-head", "aria-hidden": "true" });
  private readonly over = h("div", { class: "ls-over" });
  private readonly input = h("input", { class: "ls-input", type: "text", dir: "auto", "aria-label": "Text of this prompt", spellcheck: "false" });
  private readonly note = h("span", { class: "ls-muted ls-num ls-editnote" });
  private readonly apply = h("button", { type: "button", class: "ls-primary" }, "Apply", icon("enter"));
  private readonly drop = h("button", { type: "button" }, "Remove");
  private readonly again = h("button", { type: "button", class: "ls-primary" }, "Use again");
  private readonly earlier = h("button", { type: "button", "aria-label": "One block earlier", title: "One block earlier" }, icon("less"));
  private readonly later = h("button", { type: "button", "aria-label": "One block later", title: "One block later" }, icon("add"));
  private readonly editor: HTMLElement;
  private editing: Editing | null = null;
  private opener: HTMLElement | null = null;
  private segments: HTMLButtonElement[] = [];
  private seconds = 20;
  private drawn = "";

  constructor(private readonly store: Store, private readonly reuse: (prompt: string) => void) {
    const add = h(
      "button", { type: "button", class: "ls-add", "aria-label": "Add a prompt at the end", title: "Add a prompt at the end" }, icon("add"),
    );
    add.addEventListener("click", () => this.openNew(add));
    const cancel = h("button", { type: "button", click: () => this.close() }, "Cancel");
    this.editor = h(
      "div", { class: "ls-editor", role: "group", "aria-label": "Edit a prompt of the timeline", hidden: true },
      this.input,
      h("div", { class: "ls-editrow" }, this.earlier, this.later, this.note, h("span", { class: "ls-grow" }), this.drop, cancel, this.again, this.apply),
    );
    this.input.addEventListener("keydown", (event) => this.onKey(event));
    this.editor.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.preventDefault();
      this.close();
    });
    this.apply.addEventListener("click", () => void this.commit());
    this.drop.addEventListener("click", () => void this.remove());
    this.again.addEventListener("click", () => {
      const prompt = this.input.value;
      this.close();
      this.reuse(prompt);
    });
    this.earlier.addEventListener("click", () => this.shift(-1));
    this.later.addEventListener("click", () => this.shift(1));
    this.over.append(this.head, this.editor);
    this.element = h(
      "section", { class: "ls-card ls-timeline", "aria-label": "Timeline" },
      h("div", { class: "ls-track ls-top" }, h("span"), h("div", { class: "ls-axis" }, this.ruler, this.switches)),
      h("div", { class: "ls-lanes" },
        h("div", { class: "ls-track" }, h("div", { class: "ls-label" }, h("span", {}, "prompts"), add), h("div", { class: "ls-lanebox" }, this.lane, this.blocks, this.future)),
        h("div", { class: "ls-track ls-overlay" }, h("span"), this.over),
      ),
    );
    new ResizeObserver(() => this.update()).observe(this.element);
  }

  update(): void {
    const { store } = this;
    const { grid, timeline } = store;
    this.seconds = span(timeline, grid, grid.seconds(Math.max(store.film.end, store.playhead)));
    this.drawRuler();
    this.drawSegments(pieces(timeline, grid, this.seconds, store.playhead));
    this.drawMarks();
    this.future.style.left = percent(Math.min(1, grid.seconds(store.film.end) / this.seconds));
    this.moveHead();
    if (this.editing !== null) this.place();
  }

  /** The playhead moves with every frame; nothing else here does. */
  moveHead(): void {
    const { store } = this;
    show(this.head, store.playback.frame >= 0);
    this.head.style.left = percent(Math.min(1, store.grid.seconds(store.playhead) / this.seconds));
  }

  private drawRuler(): void {
    const width = this.ruler.clientWidth;
    const key = `${this.seconds} ${width}`;
    if (width === 0 || key === this.drawn) return;
    this.drawn = key;
    this.ruler.replaceChildren(
      ...ticks(this.seconds, width).map((at) => {
        const label = h("span", {}, shortClock(at));
        label.style.left = percent(at / this.seconds);
        const share = at / this.seconds;
        label.className = share < 0.02 ? "ls-firstlabel" : share > 0.97 ? "ls-lastlabel" : "";
        return label;
      }),
    );
    const { grid } = this.store;
    const block = (grid.size.rest / grid.fps / this.seconds) * width;
    const offset = ((grid.size.first - grid.size.rest) / grid.fps / this.seconds) * width;
    this.blocks.style.setProperty("--ls-block", block >= 5 ? `${block}px` : "100%");
    this.blocks.style.setProperty("--ls-offset", block >= 5 ? `${offset}px` : "0px");
  }

  private drawSegments(all: Piece[]): void {
    while (this.segments.length > all.length) this.segments.pop()?.parentElement?.remove();
    while (this.segments.length < all.length) {
      const button = h("button", { type: "button", class: "ls-segment" }, h("span", { dir: "auto" }));
      const index = this.segments.length;
      button.addEventListener("click", () => this.open(index, button));
      this.segments.push(button);
      this.lane.append(h("div", { role: "listitem" }, button));
    }
    all.forEach((piece, i) => this.drawSegment(this.segments[i] as HTMLButtonElement, piece, all.length));
  }

  private drawSegment(button: HTMLButtonElement, piece: Piece, count: number): void {
    const { segment, phase } = piece;
    const at = clock(this.store.grid.blockSeconds(segment.start));
    const when = { past: "over", current: "in force now", next: "still to come" }[phase];
    const text = `${segment.prompt} · from ${at} (block ${segment.start})${segment.policy === undefined ? "" : `, ${segment.policy}`}`;
    button.style.setProperty("--ls-c", colour(segment.colour));
    button.style.left = percent(piece.left);
    button.style.width = percent(piece.width);
    button.dataset.phase = phase;
    if (button.title !== text) {
      button.title = text;
      setText(button.firstElementChild as Element, segment.prompt);
    }
    const label = `Prompt ${piece.index + 1} of ${count}, ${when}: ${text}. Enter edits it.`;
    if (button.getAttribute("aria-label") !== label) button.setAttribute("aria-label", label);
  }

  private drawMarks(): void {
    const { store } = this;
    const all = marks(store.switches, store.grid, this.seconds);
    const key = JSON.stringify([all, this.seconds]);
    if (this.switches.dataset.key === key) return;
    this.switches.dataset.key = key;
    this.switches.replaceChildren(
      ...all.map((mark) => {
        const { requested_frame, effective_block, latency_s, policy } = mark.switch;
        const asked = clock(store.grid.seconds(requested_frame));
        const held = clock(store.grid.blockSeconds(effective_block));
        const late = latency_s === null ? "" : `, first frame ${latency_s.toFixed(2)} s later`;
        const element = h("span", { class: "ls-mark", title: `${policy}: asked for at ${asked}, in force from ${held} (block ${effective_block})${late}` });
        element.style.left = percent(Math.min(mark.requested, mark.effective));
        element.style.width = percent(Math.abs(mark.effective - mark.requested));
        const segment = store.timeline.segments.find((candidate) => candidate.start === effective_block);
        element.style.setProperty("--ls-c", segment === undefined ? "currentColor" : colour(segment.colour));
        return element;
      }),
    );
  }

  // Editing in place

  private open(index: number, opener: HTMLElement): void {
    const segment = this.store.timeline.segments[index];
    if (segment !== undefined) this.begin({ index, start: segment.start }, segment.prompt, opener);
  }

  private openNew(opener: HTMLElement): void {
    const { store } = this;
    this.begin({ index: -1, start: appendAt(store.timeline, store.nextBlock, APPEND_GAP) }, store.timeline.segments.at(-1)?.prompt ?? "", opener);
  }

  private begin(editing: Editing, text: string, opener: HTMLElement): void {
    this.editing = editing;
    this.opener = opener;
    this.store.refusal = null;
    this.input.value = text;
    show(this.editor, true);
    this.place();
    this.input.focus();
    this.input.select();
  }

  private close(): void {
    if (this.editing === null) return;
    this.editing = null;
    show(this.editor, false);
    this.opener?.focus();
  }

  private shift(by: number): void {
    if (this.editing === null) return;
    const { store } = this;
    const last = store.timeline.segments.at(-1)?.start ?? 0;
    this.editing.start = Math.max(last + 1, store.nextBlock, this.editing.start + by);
    this.place();
  }

  private place(): void {
    const { store, editing } = this;
    if (editing === null) return;
    const segment = store.timeline.segments[editing.index];
    if (editing.index >= 0 && segment?.start !== editing.start) return this.close();
    const left = Math.min(1, store.grid.blockSeconds(editing.start) / this.seconds) * this.over.clientWidth;
    const room = this.over.clientWidth - this.editor.offsetWidth;
    this.editor.style.left = `${Math.max(0, Math.min(left, room))}px`;
    const reach = this.reach(editing);
    for (const button of [this.earlier, this.later]) show(button, reach === "new");
    show(this.drop, reach === "ahead" && store.timeline.segments.length > 1);
    show(this.apply, reach !== "made");
    show(this.again, reach === "made");
    this.input.readOnly = reach === "made";
    const at = (block: number) => `${clock(store.grid.blockSeconds(block))} (block ${block})`;
    const told = {
      new: `starts at ${at(editing.start)}`,
      ahead: `from ${at(editing.start)}`,
      now: `changes at ${at(store.nextBlock)}`,
      made: "generated already",
    }[reach];
    setText(this.note, store.refusal ?? told);
    this.note.classList.toggle("ls-warn", store.refusal !== null);
  }

  private reach(editing: Editing): Reach {
    const { segments } = this.store.timeline;
    const next = this.store.nextBlock;
    if (editing.index < 0) return "new";
    if (editing.start >= next) return "ahead";
    return (segments[editing.index + 1]?.start ?? Infinity) > next ? "now" : "made";
  }

  private onKey(event: KeyboardEvent): void {
    if (event.isComposing) return;
    if (event.key === "Enter") {
      event.preventDefault();
      void this.commit();
    } else if (this.editing !== null && this.editing.index < 0 && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
      event.preventDefault();
      this.shift(event.key === "ArrowUp" ? 1 : -1);
    }
  }

  private async commit(): Promise<void> {
    const { editing, store } = this;
    if (editing === null) return;
    const prompt = this.input.value.trim();
    const { index, start } = editing;
    const reach = this.reach(editing);
    if (reach === "made") return;
    const reply = await {
      new: () => store.edit({ op: "put", segment: { prompt, start_block: start } }),
      ahead: () => store.edit({ op: "change", segments: [index], changes: { prompt } }),
      now: () => store.command("switch", { prompt, policy: null, at: null }),
    }[reach]();
    if (reply.error === null) this.close();
    else this.place();
  }

  private async remove(): Promise<void> {
    const { editing, store } = this;
    if (editing === null) return;
    const reply = await store.edit({ op: "remove", segments: [editing.index] });
    if (reply.error === null) this.close();
    else this.place();
  }
}

function percent(share: number): string {
  return `${(share * 100).toFixed(3)}%`;
}
