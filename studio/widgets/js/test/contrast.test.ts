import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { contrast, luminance, mixed, rgb, type Rgb } from "./contrast";

const [sheet, timeline] = ["style", "timeline"].map((name) => readFileSync(new URL(`../src/${name}.css`, import.meta.url), "utf8")) as [string, string];

const LEAST = 4.5;
/** Ground and ink of JupyterLab's themes (layout-color0 and ui-font-color0), and the pure ones of other front ends. */
const THEMES: Record<string, [Rgb, Rgb]> = {
  light: [rgb("#ffffff"), mixed(rgb("#000000"), 1, rgb("#ffffff"))],
  dark: [rgb("#111111"), rgb("#ffffff")],
  "high contrast": [rgb("#000000"), rgb("#ffffff")],
};

const palette = [...sheet.matchAll(/--ls-p\d: (#[0-9a-f]{6})/g)].map((found) => rgb(found[1] as string));
/** Shares of a segment's colour behind its text, as the style sheet has them. */
const shares = [...timeline.matchAll(/\.ls-segment[^{]*\{[^}]*--ls-fill: color-mix\(in srgb, var\(--ls-c\) (\d+)%, var\(--ls-ground\)\)/g)].map((found) => Number(found[1]) / 100);

function named(name: string): number {
  const found = new RegExp(`--ls-${name}: color-mix\\(in srgb, var\\(--ls-ink\\) ([\\d.]+)%, var\\(--ls-ground\\)\\)`).exec(sheet);
  if (found === null) throw new Error(`the style sheet has no --ls-${name}`);
  return Number(found[1]) / 100;
}

it("the style sheet says what this looks for", () => {
  expect(palette).toHaveLength(7);
  expect(shares).toHaveLength(3);
});

it("contrast is counted as WCAG counts it", () => {
  expect(contrast(rgb("#000"), rgb("#fff"))).toBeCloseTo(21);
  expect(contrast(rgb("#777777"), rgb("#ffffff"))).toBeCloseTo(4.48, 1);
  expect(luminance(rgb("#ff0000"))).toBeCloseTo(0.2126);
});

describe.each(Object.entries(THEMES))("in the %s theme", (_, [ground, ink]) => {
  it("prompts can be read on every colour, one's own included", () => {
    for (const colour of [...palette, rgb("#ffffff"), rgb("#000000"), rgb("#808080"), rgb("#ff0000"), rgb("#0000ff"), rgb("#ffff00")]) {
      for (const share of shares) expect(contrast(ink, mixed(colour, share, ground)), `${colour} ${share}`).toBeGreaterThanOrEqual(LEAST);
    }
  });

  it("soft text can be read on cards, raised and plain ground", () => {
    const soft = mixed(ink, named("soft"), ground);
    for (const under of [ground, mixed(ink, named("card"), ground), mixed(ink, named("raised"), ground)]) {
      expect(contrast(soft, under)).toBeGreaterThanOrEqual(LEAST);
    }
  });

  it("edges of boxes, of the window and the playhead stand out by 3 to 1", () => {
    const edge = mixed(ink, named("edge"), ground);
    for (const under of [ground, mixed(ink, named("card"), ground)]) expect(contrast(edge, under)).toBeGreaterThanOrEqual(3);
    expect(contrast(ink, mixed(ink, named("card"), ground))).toBeGreaterThanOrEqual(LEAST);
  });
});
