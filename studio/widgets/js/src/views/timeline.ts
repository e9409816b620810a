import { h, icon, setText, show } from "../dom";
import { Scale, type Axis } from "../editor/axis";
import { count, Desk } from "../editor/desk";
import { sharesAt, spelled } from "../editor/shares";
import { clock } from "../grid";
import { inPanel } from "../keys";
import { Paints } from "../paint";
import type { Store } from "../store";
import type { Marker } from "../types";
import { FramesLane } from "./lanes/frames";
import { MixLane } from "./lanes/mix";
import { Overview } from "./lanes/overview";
import { Ruler } from "./lanes/ruler";
import { SegmentLane } from "./lanes/segments";
import { TakesLane } from "./lanes/takes";
import { PastView } from "./past";
import { SegmentForm } from "./segmentform";
import { Tools } from "./tools";

/** Prompts, pictures, weights and takes along one time axis, and everything that edits them. */
export class TimelineView {
  readonly element: HTMLElement;
  readonly desk: Desk;
  private readonly ruler: Ruler;
  private readonly frames = new FramesLane();
  private readonly segments: SegmentLane;
  private readonly mix = new MixLane();
  private readonly takes: TakesLane;
  private readonly overview: Overview;
  private readonly tools: Tools;
  private readonly form: SegmentForm;
  private readonly past: PastView;
  private readonly blocks = h("div", { class: "ls-blocks", "aria-hidden": "true" });
  private readonly future = h("div", { class: "ls-future", "aria-hidden": "true" });
  private readonly ahead = h("div", { class: "ls-future ls-ahead", "aria-hidden": "true" });
  private readonly head = h("div", { class: "ls-head", "aria-hidden": "true" });
  private readonly cursor = h("div", { class: "ls-cursor", "aria-hidden": "true", hidden: true });
  private readonly lines = h("div", { class: "ls-markerlines", "aria-hidden": "true" });
  private readonly over = h("div", { class: "ls-over" });
  private readonly told = h("span", { class: "ls-told", "aria-hidden": "true" });
  /** Only what was done is read aloud: what is shown changes with every block. */
  private readonly spoken = h("span", { class: "ls-spoken", role: "status" });
  private readonly chosen = h("span", { class: "ls-num ls-muted" });
  private readonly naming = h("input", { class: "ls-input ls-naming", type: "text", maxlength: 200, hidden: true, "aria-label": "Name of this marker; Enter applies it" });
  private readonly overlay: HTMLElement;
  private readonly lookers: (() => void)[] = [];
  private looked: Axis | null = null;
  private readonly paints: Paints;
  private named: Marker | null = null;
  private scheduled = false;
  /** What had the focus when a key chose a segment. */
  private focusing: Element | null = null;
  private width = 0;

  constructor(private readonly store: Store, reuse: (prompt: string) => void) {
    const desk = new Desk(store, () => this.schedule());
    this.desk = desk;
    this.form = new SegmentForm(desk, reuse);
    this.segments = new SegmentLane(desk, (index, opener) => this.form.edit(index, opener));
    this.ruler = new Ruler(desk, (marker, at) => this.name(marker, at));
    this.takes = new TakesLane(desk);
    this.overview = new Overview(desk);
    this.tools = new Tools(desk);
    this.past = new PastView(desk);
    const add = h("button", { type: "button", class: "ls-add", "aria-label": "Add a prompt at the end (A)", title: "Add a prompt at the end (A)" }, icon("add"));
    add.addEventListener("click", () => this.form.add(add));
    this.over.append(this.lines, this.cursor, this.head, this.form.element);
    const label = (text: string, ...more: HTMLElement[]) => h("div", { class: "ls-label" }, h("span", {}, text), ...more);
    const track = (name: Node, lane: Node) => h("div", { class: "ls-track" }, name, lane);
    this.segments.element.append(this.blocks, this.future);
    this.overlay = h("div", { class: "ls-track ls-overlay" }, h("span"), this.over);
    this.element = h(
      "section", { class: "ls-card ls-timeline", "aria-label": "Timeline" },
      this.tools.element,
      track(h("span"), this.overview.element),
      h("div", { class: "ls-lanes" },
        track(h("span"), this.ruler.element),
        track(label("frames"), h("div", { class: "ls-framebox" }, this.frames.element, this.ahead)),
        track(label("prompts", add), this.segments.element),
        track(label("weights"), h("div", { class: "ls-mixbox" }, this.mix.element)),
        this.overlay,
      ),
      h("div", { class: "ls-taketrack" }, label("takes"), this.takes.element),
      h("div", { class: "ls-track ls-telling" }, h("span"), h("div", { class: "ls-info" }, this.told, this.chosen), this.spoken),
      this.naming, this.past.element,
    );
    this.paints = new Paints(this.element);
    this.listen();
    // The width is told, not asked for: asking in the midst of changes has the page laid out at once.
    new ResizeObserver(([entry]) => {
      this.width = Math.round(entry?.contentRect.width ?? 0);
      this.update();
    }).observe(this.over);
  }

  /** Take in another lane under the same axis, with a label of its own; `look` draws it when the axis has moved. */
  addLane(lane: HTMLElement, look: () => void): void {
    this.overlay.before(lane);
    this.lookers.push(look);
  }

  /** Whether something is open that Escape closes first; closes it. */
  escape(): boolean {
    if (this.past.cancel() || this.segments.abort()) return true;
    if (this.form.open) {
      this.form.close();
      return true;
    }
    if (this.desk.cursor !== null) {
      this.desk.cursor = null;
    } else if (this.desk.chosen.length > 0) {
      this.desk.unpick();
    } else {
      return false;
    }
    this.schedule();
    return true;
  }

  /** Whether a key was meant for the timeline. */
  key(event: KeyboardEvent): boolean {
    if (!this.past.element.hidden) return false;
    const { target } = event;
    const inside = this.segments.focused;
    if (event.key === "Enter" && !event.ctrlKey && (inside || target === this.element.closest(".ls-studio")) && this.desk.chosen.length > 0) {
      this.form.edit(this.desk.selection.focus, inside ? (document.activeElement as HTMLElement) : this.element);
      return true;
    }
    if (event.key.toLowerCase() === "a" && !event.ctrlKey && !event.metaKey && !event.altKey) {
      this.form.add(inside ? (document.activeElement as HTMLElement) : (target as HTMLElement));
      return true;
    }
    const moves = event.key === "ArrowDown" || event.key === "ArrowUp";
    if (!this.desk.key(event)) return false;
    // The focus goes with the choice, so that it can be seen and read aloud: with the next picture, however many keys
    // come before it.
    if (moves) {
      this.focusing = document.activeElement;
      this.schedule();
    }
    return true;
  }

  update(): void {
    this.desk.update();
    this.past.update();
    this.draw();
    if (this.focusing !== null && this.focusing === document.activeElement) this.segments.focus();
    this.focusing = null;
  }

  /** The playhead moves with every frame; the rest only where the axis runs under it. */
  moveHead(): void {
    const { axis } = this.desk;
    this.desk.follow();
    if (axis !== this.desk.axis) this.draw();
    else this.placeHead();
  }

  /** Draw it again, with the screen's next picture. */
  redraw(): void {
    this.schedule();
  }

  private schedule(): void {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      this.store.guard(() => this.update());
    });
  }

  private get scale(): Scale {
    return new Scale(this.desk.axis, this.width, this.store.grid);
  }

  private draw(): void {
    if (this.width === 0) return;
    const { desk } = this;
    const scale = this.scale;
    const scene = { desk, line: desk.line, scale, paints: this.paints };
    this.ruler.draw(scene);
    this.frames.draw(scene);
    this.segments.draw(scene);
    this.mix.draw(scene);
    this.takes.draw(scene);
    this.overview.draw(scene);
    this.tools.update();
    this.drawGrid(scale);
    const made = `${Math.max(0, Math.min(scale.width, scale.blockX(desk.made))).toFixed(1)}px`;
    this.future.style.left = this.ahead.style.left = made;
    this.drawLines(scale);
    this.placeHead();
    if (this.looked !== desk.axis) for (const look of this.lookers) look();
    this.looked = desk.axis;
    this.tell();
    if (this.form.open) this.form.place((block) => scale.blockX(block), this.width);
  }

  private drawGrid(scale: Scale): void {
    const wide = scale.blockWidth;
    const shown = wide >= 5;
    this.blocks.style.setProperty("--ls-block", shown ? `${wide}px` : "100%");
    this.blocks.style.setProperty("--ls-offset", shown ? `${(scale.blockX(1) % wide).toFixed(2)}px` : "-2px");
  }

  private drawLines(scale: Scale): void {
    const { markers } = this.desk.line;
    const shown = markers.map((marker) => scale.blockX(marker.block)).filter((x) => x >= 0 && x <= scale.width);
    while (this.lines.childElementCount > shown.length) this.lines.lastElementChild?.remove();
    while (this.lines.childElementCount < shown.length) this.lines.append(h("i"));
    shown.forEach((x, i) => ((this.lines.children[i] as HTMLElement).style.left = `${x.toFixed(1)}px`));
  }

  private placeHead(): void {
    const { store, desk } = this;
    const scale = this.scale;
    const x = scale.x(store.grid.seconds(store.playhead));
    show(this.head, store.playback.frame >= 0 && x >= -1 && x <= this.width + 1);
    this.head.style.transform = `translateX(${x.toFixed(1)}px)`;
    show(this.cursor, desk.cursor !== null);
    if (desk.cursor !== null) this.cursor.style.transform = `translateX(${scale.blockX(desk.cursor).toFixed(1)}px)`;
  }

  /** One line: what was said last, else the weights at the block that is pointed at or shown. */
  private tell(): void {
    const { desk, store } = this;
    const { grid } = store;
    const block = desk.pointed ?? desk.cursor ?? grid.blockAt(store.playhead);
    const length = desk.line.length;
    const known = desk.line.segments.length > 0 && (length === null || block < length);
    const weights = known ? ` · ${spelled(sharesAt(desk.line, block))}` : "";
    setText(this.told, desk.told ?? `block ${block} · ${clock(grid.blockSeconds(block))}${weights}`);
    this.told.classList.toggle("ls-strong", desk.told !== null);
    setText(this.spoken, desk.told ?? "");
    const all = desk.line.segments.length;
    const end = length === null ? "" : ` · ${clock(grid.blockSeconds(length))}`;
    setText(this.chosen, desk.chosen.length > 0 ? `${desk.chosen.length} of ${count(all, "prompt")} chosen${end}` : `${count(all, "prompt")}${end}`);
  }

  // What reaches the card as a whole

  private listen(): void {
    const { element, desk } = this;
    element.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    element.addEventListener("copy", (event) => this.onCopy(event, false));
    element.addEventListener("cut", (event) => this.onCopy(event, true));
    element.addEventListener("paste", (event) => this.onPaste(event));
    element.addEventListener("dragover", (event) => event.dataTransfer?.types.includes("Files") && event.preventDefault());
    element.addEventListener("drop", (event) => {
      const file = event.dataTransfer?.files[0];
      if (file === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      void file.text().then((text) => desk.open(file.name, text));
    });
    this.naming.addEventListener("keydown", (event) => {
      if (event.isComposing || (event.key !== "Enter" && event.key !== "Escape")) return;
      event.preventDefault();
      event.stopPropagation();
      this.stopNaming(event.key === "Enter");
    });
    this.naming.addEventListener("blur", () => this.stopNaming(false));
  }

  private onWheel(event: WheelEvent): void {
    const x = event.clientX - this.over.getBoundingClientRect().left;
    const sideways = event.shiftKey ? event.deltaY || event.deltaX : event.deltaX;
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      this.desk.zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) / 150), this.scale.seconds(Math.max(0, x)));
    } else if (Math.abs(sideways) > Math.abs(event.shiftKey ? 0 : event.deltaY)) {
      event.preventDefault();
      this.desk.pan((sideways / Math.max(1, this.width)) * this.desk.axis.seconds);
    }
  }

  /** Whether text of this studio is selected, as that of an error: it is what is to be copied then. */
  private get reading(): boolean {
    const selection = getSelection();
    const studio = this.element.closest(".ls-studio") ?? this.element;
    return selection !== null && !selection.isCollapsed && selection.containsNode(studio, true);
  }

  /** Copy what is chosen; text boxes and panels keep their own, and so does text that is selected. */
  onCopy(event: ClipboardEvent, cut: boolean): void {
    if (keepsItsOwn(event.target) || this.reading) return;
    const text = this.desk.copy();
    if (text === null) return;
    event.clipboardData?.setData("text/plain", text);
    event.preventDefault();
    event.stopPropagation();
    if (cut) void this.desk.remove(true);
  }

  onPaste(event: ClipboardEvent): void {
    if (keepsItsOwn(event.target)) return;
    event.preventDefault();
    event.stopPropagation();
    void this.desk.paste(event.clipboardData?.getData("text/plain") ?? "");
  }

  // Naming a marker

  private name(marker: Marker, at: HTMLElement): void {
    if (!this.desk.editable) return;
    this.named = marker;
    const [box, card] = [at.getBoundingClientRect(), this.element.getBoundingClientRect()];
    this.naming.style.left = `${Math.max(8, Math.min(box.left - card.left, card.width - 190))}px`;
    this.naming.style.top = `${box.top - card.top - 4}px`;
    this.naming.value = marker.name ?? "";
    show(this.naming, true);
    this.naming.focus();
    this.naming.select();
  }

  private stopNaming(apply: boolean): void {
    const marker = this.named;
    if (marker === null) return;
    this.named = null;
    const name = this.naming.value.trim();
    show(this.naming, false);
    this.element.querySelector<HTMLElement>(`.ls-flag[data-block="${marker.block}"]`)?.focus();
    if (apply && name !== (marker.name ?? "")) void this.desk.send({ op: "mark", marker: { ...marker, name } });
  }
}

/** Whether what is copied or inserted somewhere concerns no prompts: in text boxes and panels, and where one has the focus. */
function keepsItsOwn(target: EventTarget | null): boolean {
  return [target, document.activeElement].some((at) => at instanceof HTMLElement && (at.closest("input, textarea, select") !== null || inPanel(at)));
}
