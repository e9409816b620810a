import { h } from "../../dom";
import { runs } from "../../editor/shares";
import { surface } from "../../paint";
import { shades, type Scene } from "./lane";

export const MIX_HEIGHT = 24;

/** The effective weight of every prompt at every block: bands that add up to the height of the lane. */
export class MixLane {
  readonly element = h("canvas", { class: "ls-mix", "aria-hidden": "true" });
  private drawn: unknown[] = [];

  draw({ line, scale, paints }: Scene): void {
    const key = [line, scale.axis.from, scale.axis.seconds, scale.width, paints.theme];
    if (key.every((part, i) => part === this.drawn[i])) return;
    this.drawn = key;
    const context = surface(this.element, scale.width, MIX_HEIGHT);
    if (context === null) return;
    const colours = shades(line);
    const [first, last] = scale.blocks;
    const ground = paints.get("var(--ls-card)");
    for (const { from, to, shares } of runs(line, first, last + 1)) {
      const left = scale.blockX(from);
      const right = Math.min(scale.width, to === null ? scale.width : scale.blockX(to));
      let top = 0;
      for (const [prompt, share] of shares) {
        context.fillStyle = paints.get(colours.get(prompt) ?? "var(--ls-soft)");
        context.fillRect(left, top, right - left + 0.3, MIX_HEIGHT * share + 0.3);
        top += MIX_HEIGHT * share;
      }
      // A mixed block stands apart, so that the steps can be counted.
      if (to === from + 1 && right - left > 4) {
        context.fillStyle = ground;
        context.fillRect(right - 1, 0, 1, MIX_HEIGHT);
      }
    }
  }
}
