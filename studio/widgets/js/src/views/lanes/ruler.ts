import { colour, h, setText, show } from "../../dom";
import { snapped, ticks } from "../../editor/axis";
import type { Desk } from "../../editor/desk";
import { clock, shortClock } from "../../grid";
import type { Marker, Operation } from "../../types";
import type { Scene } from "./lane";

const MOVED = 4;
/** A switch asked for more blocks ahead than this was planned: its line would tell nothing and hide others. */
const PLANNED_BLOCKS = 4;

/** Seconds, markers, and where prompts were asked for and took effect. Press it to go there. */
export class Ruler {
  readonly element: HTMLElement;
  private readonly loop = h("div", { class: "ls-looprange", "aria-hidden": "true", hidden: true });
  private readonly labels = h("div", { class: "ls-times ls-num", "aria-hidden": "true" });
  private readonly switches = h("div", { class: "ls-marks" });
  private readonly flags = h("div", { class: "ls-flags", role: "list", "aria-label": "Markers" });
  private readonly buttons = new Map<string, HTMLButtonElement>();
  private drawn: unknown[] = [];
  private asked = "";
  private scene: Scene | null = null;
  private drag: { marker: Marker; x: number; moved: boolean; to: number } | null = null;
  private pressed: HTMLElement | null = null;
  private scrubbing = false;
  private waiting: number | null = null;

  constructor(private readonly desk: Desk, private readonly rename: (marker: Marker, at: HTMLElement) => void) {
    this.element = h("div", { class: "ls-axis" }, this.loop, this.labels, this.switches, this.flags);
    this.element.addEventListener("pointerdown", (event) => this.onDown(event));
    this.element.addEventListener("pointermove", (event) => this.onMove(event));
    this.element.addEventListener("pointerup", () => this.onUp());
    this.element.addEventListener("pointercancel", () => this.stop());
    this.element.addEventListener("lostpointercapture", () => this.desk.release());
    this.element.addEventListener("dblclick", () => this.onDouble());
  }

  draw(scene: Scene): void {
    this.scene = scene;
    const { line, scale } = scene;
    const key = [scale.axis.from, scale.axis.seconds, scale.width];
    const moved = !key.every((part, i) => part === this.drawn[i]);
    this.drawn = key;
    if (moved) this.drawLabels(scene);
    this.drawSwitches(scene);
    this.drawFlags(line.markers);
    const { range } = this.desk.store.playback;
    show(this.loop, range !== null);
    if (range === null) return;
    const [left, right] = [range.from, range.to].map((frame) => Math.max(-4, Math.min(scale.width + 4, scale.x(scale.grid.seconds(frame))))) as [number, number];
    this.loop.style.left = `${left.toFixed(1)}px`;
    this.loop.style.width = `${Math.max(2, right - left).toFixed(1)}px`;
  }

  private drawLabels({ scale }: Scene): void {
    const every = ticks(scale.axis, scale.width);
    const fine = (every[1] ?? 1) - (every[0] ?? 0) < 1;
    while (this.labels.childElementCount > every.length) this.labels.lastElementChild?.remove();
    while (this.labels.childElementCount < every.length) this.labels.append(h("span"));
    every.forEach((at, i) => {
      const label = this.labels.children[i] as HTMLElement;
      const x = scale.x(at);
      setText(label, fine ? clock(at) : shortClock(at));
      label.style.left = `${x.toFixed(1)}px`;
      label.className = x < 16 ? "ls-firstlabel" : x > scale.width - 16 ? "ls-lastlabel" : "";
    });
  }

  private drawSwitches({ line, scale, desk }: Scene): void {
    const { store } = desk;
    const shown = store.switches.filter((item) => scale.x(store.grid.seconds(item.effective_frame)) > -20 && scale.x(store.grid.seconds(item.requested_frame)) < scale.width + 20);
    const key = JSON.stringify([shown, scale.axis, scale.width, line.segments.length]);
    if (key === this.asked) return;
    this.asked = key;
    this.switches.replaceChildren(
      ...shown.map((item) => {
        const planned = item.effective_block - item.requested_block > PLANNED_BLOCKS;
        const effective = scale.x(store.grid.seconds(item.effective_frame));
        const requested = planned ? effective : scale.x(store.grid.seconds(item.requested_frame));
        const late = item.latency_s === null ? "" : `, first frame ${item.latency_s.toFixed(2)} s later`;
        const asked = clock(store.grid.seconds(item.requested_frame));
        const held = clock(store.grid.blockSeconds(item.effective_block));
        const title = `${item.policy}: asked for at ${asked}, in force from ${held} (block ${item.effective_block})${late}`;
        const element = h("span", { class: "ls-mark", title });
        element.style.left = `${Math.min(requested, effective)}px`;
        element.style.width = `${Math.abs(effective - requested)}px`;
        const segment = line.segments.find((candidate) => candidate.start === item.effective_block);
        element.style.setProperty("--ls-c", segment === undefined ? "currentColor" : colour(segment.colour));
        return element;
      }),
    );
  }

  private drawFlags(markers: Marker[]): void {
    const { scale } = this.scene as Scene;
    const kept = new Set<string>();
    markers.forEach((marker, i) => {
      const x = scale.blockX(marker.block);
      if (x < -12 || x > scale.width + 12) return;
      const key = String(i);
      kept.add(key);
      const button = this.buttons.get(key) ?? this.addFlag(key);
      const name = marker.name || "marker";
      const at = `${clock(scale.grid.blockSeconds(marker.block))} (block ${marker.block})`;
      button.dataset.block = String(marker.block);
      button.style.left = `${x.toFixed(1)}px`;
      button.style.setProperty("--ls-c", marker.colour ?? "var(--ls-ink)");
      const label = `Marker ${name}, at ${at}. Enter goes there, F2 names it, Alt and an arrow key move it, Delete removes it.`;
      if (button.getAttribute("aria-label") !== label) {
        button.setAttribute("aria-label", label);
        button.title = `${name} · ${at}`;
        setText(button.lastElementChild as Element, name);
      }
    });
    for (const [key, button] of this.buttons) {
      if (kept.has(key)) continue;
      if (document.activeElement === button) this.element.closest<HTMLElement>(".ls-studio")?.focus();
      button.parentElement?.remove();
      this.buttons.delete(key);
    }
  }

  private addFlag(key: string): HTMLButtonElement {
    const button = h("button", { type: "button", class: "ls-flag" }, h("i"), h("span"));
    button.addEventListener("keydown", (event) => this.onFlagKey(event, button));
    this.buttons.set(key, button);
    this.flags.append(h("div", { role: "listitem" }, button));
    return button;
  }

  private withMarker(button: HTMLElement, action: (marker: Marker) => void): void {
    const found = this.desk.line.markers.find((marker) => String(marker.block) === button.dataset.block);
    if (found !== undefined) action(found);
  }

  private onFlagKey(event: KeyboardEvent, button: HTMLElement): void {
    if (event.ctrlKey || event.metaKey) return;
    const by = event.altKey ? ({ ArrowLeft: -1, ArrowRight: 1 }[event.key] ?? 0) : 0;
    let action: ((marker: Marker) => void) | null = null;
    if (by !== 0) action = ({ block }) => void this.desk.send({ op: "move mark", at: block, to: Math.max(0, block + by) });
    else if (event.key === "Delete" || event.key === "Backspace") action = ({ block }) => void this.desk.send({ op: "unmark", at: block });
    else if (event.key === "F2") action = (marker) => this.rename(marker, button);
    else if (event.key === "Enter") action = ({ block }) => this.desk.go(this.desk.store.grid.blockSeconds(block));
    if (action === null) return;
    event.preventDefault();
    event.stopPropagation();
    this.withMarker(button, action);
  }

  // Pressing and dragging

  private x(event: PointerEvent): number {
    return event.clientX - this.element.getBoundingClientRect().left;
  }

  private onDown(event: PointerEvent): void {
    if (event.button !== 0 || this.scene === null) return;
    const flag = (event.target as HTMLElement).closest<HTMLElement>(".ls-flag");
    this.pressed = flag;
    this.element.setPointerCapture(event.pointerId);
    this.desk.hold();
    if (flag !== null) {
      this.withMarker(flag, (marker) => (this.drag = { marker, x: this.x(event), moved: false, to: marker.block }));
      flag.focus();
    } else {
      this.scrubbing = true;
      this.desk.store.scrub(true);
      this.onMove(event);
    }
  }

  private onMove(event: PointerEvent): void {
    const { scene, drag } = this;
    if (scene === null) return;
    const x = this.x(event);
    if (this.scrubbing) {
      // Once a picture of the screen is enough.
      const first = this.waiting === null;
      this.waiting = scene.scale.seconds(x);
      if (first) requestAnimationFrame(() => this.scrub());
    } else if (drag !== null && (drag.moved || Math.abs(x - drag.x) > MOVED)) {
      drag.moved = true;
      drag.to = snapped(scene.scale, x, this.desk.magnets().filter((block) => block !== drag.marker.block));
      this.desk.sketch(this.operation(drag));
    }
  }

  private scrub(): void {
    const at = this.waiting;
    this.waiting = null;
    if (at !== null) this.desk.go(at);
  }

  private operation({ marker, to }: { marker: Marker; to: number }): Operation {
    return { op: "move mark", at: marker.block, to };
  }

  private onUp(): void {
    const { drag } = this;
    this.stop();
    if (drag === null) return;
    if (!drag.moved) this.desk.go(this.desk.store.grid.blockSeconds(drag.marker.block));
    else if (drag.to !== drag.marker.block) void this.desk.send(this.operation(drag));
  }

  private stop(): void {
    if (this.scrubbing) this.desk.store.scrub(false);
    this.scrubbing = false;
    if (this.drag?.moved) this.desk.sketch(null);
    this.drag = null;
    this.desk.release();
  }

  /** Name the marker that was pressed twice: while the pointer is captured, the marker itself hears of no clicks. */
  private onDouble(): void {
    const { pressed } = this;
    if (pressed !== null) this.withMarker(pressed, (marker) => this.rename(marker, pressed));
  }
}
