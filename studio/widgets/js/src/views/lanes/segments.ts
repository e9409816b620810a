import { colour, h, put, setText, show } from "../../dom";
import { Scale, snapped } from "../../editor/axis";
import type { Desk } from "../../editor/desk";
import { placeFor, reorder, resize, shift, type Edit } from "../../editor/edits";
import { endOf, indexAt, type Edge } from "../../editor/line";
import { partsOf, spelled } from "../../editor/shares";
import { clock } from "../../grid";
import { surface } from "../../paint";
import type { Segment, Timeline } from "../../types";
import { shades, type Scene } from "./lane";

export const LANE_HEIGHT = 40;
const EDGE = 7;
const MOVED = 4;
/** Narrower segments are painted together; text would not fit anyway. */
const NARROW = 7;
/** Where the text of a segment begins that reaches out to the left. */
const OUTSIDE = 24;

interface Drag {
  pointer: number;
  x: number;
  index: number;
  zone: Edge | "body";
  moved: boolean;
  /** From the edge to where it was taken hold of. */
  offset: number;
  line: Timeline;
  edit: Edit | null;
}

/** The prompts along the time axis: taken hold of, chosen, opened. */
export class SegmentLane {
  readonly element: HTMLElement;
  private readonly crowd = h("canvas", { class: "ls-crowd", "aria-hidden": "true" });
  private readonly list = h("div", {
    class: "ls-lane", role: "listbox", "aria-multiselectable": "true", "aria-orientation": "horizontal", "aria-label": "Prompts along the time axis",
  });
  private readonly segments = new Map<number, HTMLElement>();
  private scene: Scene | null = null;
  private drag: Drag | null = null;
  private pressed: HTMLElement | null = null;
  private drawn: unknown[] = [];
  private eased: Timeline | null = null;
  private easing: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly desk: Desk, private readonly open: (index: number, opener: HTMLElement) => void) {
    this.element = h("div", { class: "ls-lanebox" }, this.crowd, this.list);
    this.element.addEventListener("pointerdown", (event) => this.onDown(event));
    this.element.addEventListener("pointermove", (event) => this.onMove(event));
    this.element.addEventListener("pointerup", (event) => this.onUp(event));
    this.element.addEventListener("pointercancel", () => this.abort());
    this.element.addEventListener("lostpointercapture", () => this.desk.release());
    this.element.addEventListener("pointerleave", () => this.point(null));
    this.element.addEventListener("dblclick", (event) => this.onDouble(event));
    this.list.addEventListener("focusin", (event) => this.onFocus(event));
  }

  /** Whether something is being dragged. */
  get busy(): boolean {
    return this.drag?.moved === true;
  }

  get focused(): boolean {
    return this.list.contains(document.activeElement);
  }

  /** Put the focus on the segment that keys act on. */
  focus(): void {
    this.segments.get(this.desk.selection.focus)?.focus({ preventScroll: true });
  }

  draw(scene: Scene): void {
    this.scene = scene;
    const { desk, line, scale, paints } = scene;
    const { focus } = desk.selection;
    const key = [line, scale.axis.from, scale.axis.seconds, scale.width, desk.marked, focus, desk.made, paints.theme, desk.store.grid.blockAt(desk.store.playhead)];
    if (key.every((part, i) => part === this.drawn[i])) return;
    this.ease(line);
    this.drawn = key;
    const had = this.focused;
    const wide = this.visible(scene);
    this.drawCrowd(scene, wide);
    for (const [i, element] of this.segments) {
      if (wide.has(i)) continue;
      element.remove();
      this.segments.delete(i);
    }
    const colours = shades(line);
    for (const i of wide) this.drawSegment(scene, i, colours);
    if (had && !this.segments.get(focus)?.contains(document.activeElement)) this.focus();
  }

  /** Segments move softly where the timeline changed, and at once where the axis did. */
  private ease(line: Timeline): void {
    const before = this.eased;
    this.eased = line;
    if (before === null || before === line || this.drag !== null || line.segments.length > 120) return;
    this.list.classList.add("ls-easing");
    clearTimeout(this.easing);
    this.easing = setTimeout(() => this.list.classList.remove("ls-easing"), 280);
  }

  /** Segments that get an element of their own: those with room for text, and the one that has the focus. */
  private visible({ desk, line, scale }: Scene): Set<number> {
    const [first, last] = scale.blocks;
    const found = new Set<number>();
    for (let i = indexAt(line, first); i < line.segments.length; i++) {
      if ((line.segments[i]?.start ?? 0) > last) break;
      const [left, right] = this.extent(line, scale, i);
      if (right - left >= NARROW || desk.marked.length < 40 && desk.marked.includes(i)) found.add(i);
    }
    if (desk.selection.focus < line.segments.length) found.add(desk.selection.focus);
    return found;
  }

  private extent(line: Timeline, scale: Scale, i: number): [number, number] {
    const end = endOf(line, i);
    const left = scale.blockX(line.segments[i]?.start ?? 0);
    return [left, end === null ? Math.max(scale.width, left) : scale.blockX(end)];
  }

  private drawCrowd({ line, scale, paints, desk }: Scene, wide: Set<number>): void {
    const context = surface(this.crowd, scale.width, LANE_HEIGHT);
    if (context === null) return;
    const [first, last] = scale.blocks;
    const chosen = new Set(desk.marked);
    for (let i = indexAt(line, first); i < line.segments.length; i++) {
      const segment = line.segments[i] as Segment;
      if (segment.start > last) break;
      if (wide.has(i)) continue;
      const [left, right] = this.extent(line, scale, i);
      context.globalAlpha = segment.start < desk.made ? 0.62 : 0.34;
      context.fillStyle = paints.get(colour(segment.colour));
      context.fillRect(left, 0, Math.max(0.6, right - left - (right - left > 3 ? 1 : 0)), LANE_HEIGHT);
      if (!chosen.has(i)) continue;
      context.globalAlpha = 1;
      context.fillStyle = paints.get("var(--ls-accent)");
      context.fillRect(left, LANE_HEIGHT - 4, right - left, 4);
    }
    context.globalAlpha = 1;
  }

  private drawSegment(scene: Scene, i: number, colours: Map<string, string>): void {
    const { desk, line, scale } = scene;
    const segment = line.segments[i] as Segment;
    const element = this.segments.get(i) ?? this.add(i);
    const [left, right] = this.extent(line, scale, i);
    const shown = [Math.max(left, -OUTSIDE), Math.min(right, scale.width + OUTSIDE)] as const;
    const { style } = element;
    style.left = `${shown[0].toFixed(2)}px`;
    style.width = `${Math.max(2, shown[1] - shown[0] - 1).toFixed(2)}px`;
    const own = colour(segment.colour);
    style.setProperty("--ls-c", own);
    const on = desk.marked.includes(i);
    put(element, "data-phase", phaseOf(desk, line, i));
    put(element, "data-cut", left < -OUTSIDE ? "left" : "");
    put(element, "data-drag", String(this.busy && on));
    put(element, "data-slim", String(shown[1] - shown[0] < 34));
    put(element, "aria-selected", String(on));
    put(element, "tabindex", i === desk.selection.focus ? "0" : "-1");
    put(element, "aria-setsize", String(line.segments.length));
    const [fade, bands, text] = element.children as unknown as [HTMLElement, HTMLElement, HTMLElement];
    text.style.paddingLeft = left < 0 ? `${Math.min(-left, OUTSIDE).toFixed(0)}px` : "";
    setText(text, segment.prompt);
    this.drawFade(fade, scene, i, shown[0], colours);
    this.drawBands(bands, segment, colours);
    const label = describe(desk, line, i);
    if (element.getAttribute("aria-label") !== label) {
      element.setAttribute("aria-label", label);
      element.setAttribute("aria-posinset", String(i + 1));
      element.title = label;
    }
  }

  /** A transition: stripes of the prompt before and its own; slanted where it goes over a sphere. */
  private drawFade(fade: HTMLElement, { line, scale }: Scene, i: number, left: number, colours: Map<string, string>): void {
    const segment = line.segments[i] as Segment;
    const blocks = i > 0 ? (segment.transition?.blocks ?? 0) : 0;
    show(fade, blocks > 0);
    if (blocks === 0) return;
    const end = Math.min(scale.blockX(segment.start + blocks), scale.blockX(endOf(line, i) ?? Infinity));
    fade.style.width = `${Math.max(0, end - left).toFixed(1)}px`;
    fade.dataset.kind = segment.transition?.kind ?? "linear";
    fade.style.setProperty("--ls-before", colours.get(line.segments[i - 1]?.prompt ?? "") ?? "var(--ls-soft)");
  }

  /** A blend: a band for each prompt, as high as its share. */
  private drawBands(bands: HTMLElement, segment: Segment, colours: Map<string, string>): void {
    const parts = (segment.blend?.length ?? 0) > 0 ? [...partsOf(segment)] : [];
    show(bands, parts.length > 1);
    if (parts.length < 2) return;
    let at = 0;
    const stops = parts.map(([prompt, share]) => {
      const from = at;
      at += share * 100;
      return `${colours.get(prompt) ?? "var(--ls-soft)"} ${from.toFixed(2)}% ${at.toFixed(2)}%`;
    });
    const image = `linear-gradient(180deg, ${stops.join(", ")})`;
    if (bands.dataset.image !== image) bands.style.backgroundImage = bands.dataset.image = image;
  }

  private add(i: number): HTMLElement {
    const element = h(
      "div", { class: "ls-segment", role: "option", "data-index": i },
      h("i", { class: "ls-fade", hidden: true }), h("i", { class: "ls-bands", hidden: true }), h("span", { dir: "auto" }),
    );
    this.segments.set(i, element);
    // In order, so that a screen reader meets them as they follow each other.
    const next = [...this.segments.keys()].filter((other) => other > i).sort((a, b) => a - b)[0];
    this.list.insertBefore(element, next === undefined ? null : (this.segments.get(next) ?? null));
    return element;
  }

  private onFocus(event: FocusEvent): void {
    const index = Number((event.target as HTMLElement).dataset.index ?? -1);
    const { desk } = this;
    // Reached by Tab: it is chosen, so that the keys have something to act on. A press chooses by itself.
    if (index >= 0 && this.drag === null && desk.chosen.length === 0) desk.pick(index, "only");
  }

  // Pressing and dragging

  private x(event: { clientX: number }): number {
    return event.clientX - this.element.getBoundingClientRect().left;
  }

  private hit(x: number): { index: number; zone: Edge | "body" } {
    const { line, scale } = this.scene as Scene;
    const index = indexAt(line, scale.blockAt(x));
    const [left, right] = this.extent(line, scale, index);
    const reach = Math.min(EDGE, (right - left) / 4);
    if (x - left <= reach && index > 0) return { index, zone: "start" };
    if (right - x <= reach && endOf(line, index) !== null) return { index, zone: "end" };
    return { index, zone: "body" };
  }

  private onDown(event: PointerEvent): void {
    const { desk, scene } = this;
    if (event.button !== 0 || scene === null || desk.line.segments.length === 0) return;
    const x = this.x(event);
    const { index, zone } = this.hit(x);
    const [left, right] = this.extent(desk.line, scene.scale, index);
    const offset = zone === "body" ? 0 : x - (zone === "start" ? left : right);
    this.drag = { pointer: event.pointerId, x, index, zone, moved: false, offset, line: desk.store.timeline, edit: null };
    this.pressed = this.segments.get(index) ?? null;
    this.element.setPointerCapture(event.pointerId);
    desk.hold();
    // A press that is taken leaves text selected elsewhere, which would be copied in place of what is chosen here.
    getSelection()?.removeAllRanges();
    if (event.shiftKey) desk.pick(index, "range");
    else if (event.ctrlKey || event.metaKey) desk.pick(index, "toggle");
    else if (!desk.chosen.includes(index)) desk.pick(index, "only");
    else desk.selection = { ...desk.selection, focus: index };
    this.draw(scene);
    this.focus();
    event.preventDefault();
  }

  private onMove(event: PointerEvent): void {
    const { drag, scene, desk } = this;
    if (scene === null) return;
    const x = this.x(event);
    if (drag === null) {
      this.element.style.cursor = desk.editable && this.hit(x).zone !== "body" ? "ew-resize" : "";
      this.point(scene.scale.blockAt(x));
      return;
    }
    if (!desk.editable || (!drag.moved && Math.abs(x - drag.x) <= MOVED)) return;
    drag.moved = true;
    const { width, grid } = scene.scale;
    if (x < 0 || x > width) {
      desk.reach((x < 0 ? -0.02 : 0.02) * desk.axis.seconds);
      // What is sent is what lies under the pointer now, not what did before.
      this.scene = { ...scene, scale: new Scale(desk.axis, width, grid) };
    }
    drag.edit = this.editAt(drag, x, event.shiftKey);
    desk.sketch("operation" in drag.edit ? drag.edit.operation : null);
  }

  private editAt(drag: Drag, x: number, other: boolean): Edit {
    const { desk, scene } = this;
    const { scale } = scene as Scene;
    if (drag.zone !== "body") {
      const to = snapped(scale, x - drag.offset, desk.magnets());
      return resize(drag.line, drag.index, drag.zone, to, desk.ripple !== other);
    }
    const chosen = desk.chosen.includes(drag.index) ? desk.chosen : [drag.index];
    const place = reorder(drag.line, chosen, placeFor(drag.line, chosen, scale.blockAt(x)));
    if ("operation" in place) return place;
    const start = drag.line.segments[drag.index]?.start ?? 0;
    const to = snapped(scale, scale.blockX(start) + x - drag.x, desk.magnets().filter((block) => block !== start));
    return shift(drag.line, chosen, to - start);
  }

  private onUp(event: PointerEvent): void {
    const { drag, desk } = this;
    this.drag = null;
    desk.release();
    if (drag === null) return;
    if (!drag.moved) {
      const plain = !event.shiftKey && !event.ctrlKey && !event.metaKey;
      if (plain && desk.chosen.length > 1) desk.pick(drag.index, "only");
      return;
    }
    desk.sketch(null);
    const { edit } = drag;
    if (edit !== null && "operation" in edit && drag.line === desk.store.timeline) void desk.do(() => edit);
    else if (edit !== null && "operation" in edit) desk.say("the timeline has changed meanwhile; try again");
    else desk.redraw();
  }

  /** Let go of what is dragged; returns whether there was anything. */
  abort(): boolean {
    const { drag } = this;
    this.drag = null;
    this.desk.release();
    if (drag === null || !drag.moved) return false;
    this.desk.sketch(null);
    return true;
  }

  private onDouble(event: MouseEvent): void {
    if (this.scene === null || !this.desk.editable) return;
    const { index } = this.hit(this.x(event));
    this.open(index, this.segments.get(index) ?? this.pressed ?? this.element);
  }

  private point(block: number | null): void {
    if (this.desk.pointed === block) return;
    this.desk.pointed = block;
    this.desk.redraw();
  }
}

/** Whether a segment is over, in force at the playhead, being generated or still to come. */
function phaseOf(desk: Desk, line: Timeline, i: number): string {
  const { store } = desk;
  const start = line.segments[i]?.start ?? 0;
  const end = endOf(line, i);
  const at = store.grid.blockAt(store.playhead);
  if (start <= at && (end === null || end > at) && store.playback.frame >= 0) return "current";
  if (start >= store.nextBlock) return "next";
  return "past";
}

function describe(desk: Desk, line: Timeline, i: number): string {
  const { grid, nextBlock } = desk.store;
  const segment = line.segments[i] as Segment;
  const end = endOf(line, i);
  const when = end !== null && end <= nextBlock ? "generated" : segment.start < nextBlock ? "in force now" : "still to come";
  const long = end === null ? "without an end" : `for ${end - segment.start} blocks`;
  const soft = i > 0 && segment.transition !== undefined ? `, ${segment.transition.kind} over ${segment.transition.blocks} blocks` : "";
  const mixed = segment.blend?.length ? `, mixed: ${spelled(partsOf(segment))}` : "";
  const how = segment.policy === undefined ? "" : `, ${segment.policy}`;
  const note = segment.note ? `. ${segment.note}` : "";
  const at = `from ${clock(grid.blockSeconds(segment.start))} (block ${segment.start}) ${long}`;
  return `Prompt ${i + 1} of ${line.segments.length}, ${when}: ${segment.prompt} · ${at}${soft}${mixed}${how}${note}`;
}
