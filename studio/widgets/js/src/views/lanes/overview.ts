import { colour, h } from "../../dom";

import type { Desk } from "../../editor/desk";
import { shortClock } from "../../grid";
import { surface } from "../../paint";
import type { Scene } from "./lane";

const HEIGHT = 14;

/** The whole video in one strip, with a window over what the lanes show. */
export class Overview {
  readonly element: HTMLElement;
  private readonly canvas = h("canvas", { class: "ls-whole", "aria-hidden": "true" });
  private readonly window = h("div", {
    class: "ls-window", role: "slider", tabindex: 0, "aria-label": "What the timeline shows; arrow keys move it, plus and minus zoom",
  });
  private readonly head = h("div", { class: "ls-wholehead", "aria-hidden": "true" });
  private drawn: unknown[] = [];
  private grip: { pointer: number; offset: number } | null = null;

  constructor(private readonly desk: Desk) {
    this.element = h("div", { class: "ls-overview" }, this.canvas, this.head, this.window);
    this.element.addEventListener("pointerdown", (event) => this.onDown(event));
    this.element.addEventListener("pointermove", (event) => this.onMove(event));
    for (const end of ["pointerup", "pointercancel"]) this.element.addEventListener(end, () => (this.grip = null));
    this.window.addEventListener("keydown", (event) => this.onKey(event));
  }

  draw({ line, scale, paints }: Scene): void {
    const { desk } = this;
    const { axis } = desk;
    const whole = desk.extent;
    const share = (seconds: number) => `${((seconds / whole) * 100).toFixed(3)}%`;
    this.window.style.left = share(axis.from);
    this.window.style.width = share(Math.min(axis.seconds, whole));
    const { grid } = desk.store;
    this.head.style.left = share(Math.min(whole, grid.seconds(desk.store.playhead)));
    const from = Math.round(axis.from * 10) / 10;
    const text = `${shortClock(axis.from)} to ${shortClock(axis.from + axis.seconds)} of ${shortClock(whole)}`;
    if (this.window.getAttribute("aria-valuetext") !== text) {
      this.window.setAttribute("aria-valuetext", text);
      this.window.setAttribute("aria-valuemin", "0");
      this.window.setAttribute("aria-valuemax", String(Math.round(whole)));
      this.window.setAttribute("aria-valuenow", String(from));
    }
    const key = [line, whole, scale.width, desk.made, paints.theme];
    if (key.every((part, i) => part === this.drawn[i])) return;
    this.drawn = key;
    const context = surface(this.canvas, scale.width, HEIGHT);
    if (context === null) return;
    const x = (block: number) => (grid.blockSeconds(block) / whole) * scale.width;
    line.segments.forEach((segment, i) => {
      const left = x(segment.start);
      const next = line.segments[i + 1]?.start ?? line.length;
      context.fillStyle = paints.get(colour(segment.colour));
      context.globalAlpha = segment.start < desk.made ? 0.95 : 0.5;
      context.fillRect(left, 4, (next === null ? scale.width : x(next)) - left, 6);
    });
    context.globalAlpha = 1;
    context.fillStyle = paints.get("var(--ls-ink)");
    for (const marker of line.markers) context.fillRect(x(marker.block), 1, 1, HEIGHT - 2);
    context.fillStyle = paints.get("var(--ls-soft)");
    context.fillRect(0, 12, x(desk.made), 1.5);
  }

  private seconds(event: PointerEvent): number {
    const box = this.element.getBoundingClientRect();
    return ((event.clientX - box.left) / Math.max(1, box.width)) * this.desk.extent;
  }

  private onDown(event: PointerEvent): void {
    if (event.button !== 0) return;
    const at = this.seconds(event);
    const { axis } = this.desk;
    const inside = at >= axis.from && at <= axis.from + axis.seconds;
    this.grip = { pointer: event.pointerId, offset: inside ? at - axis.from : axis.seconds / 2 };
    this.element.setPointerCapture(event.pointerId);
    this.window.focus({ preventScroll: true });
    event.preventDefault();
    this.onMove(event);
  }

  private onMove(event: PointerEvent): void {
    if (this.grip === null) return;
    this.desk.pan(this.seconds(event) - this.grip.offset - this.desk.axis.from);
  }

  private onKey(event: KeyboardEvent): void {
    const { desk } = this;
    const by = { ArrowLeft: -0.2, ArrowRight: 0.2, PageUp: -0.9, PageDown: 0.9 }[event.key];
    if (by !== undefined) desk.pan(by * desk.axis.seconds);
    else if (event.key === "Home") desk.pan(-desk.extent);
    else if (event.key === "End") desk.pan(desk.extent);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

