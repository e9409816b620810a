import { expect, it } from "vitest";
import { lightness } from "../src/theme";

it.each([["rgb(255, 255, 255)", 1], ["rgb(0, 0, 0)", 0], ["color(srgb 1 1 1)", 1], ["rgba(0, 0, 0, 0)", null], ["", null]])(
  "lightness of %s", (css, value) => (value === null ? expect(lightness(css)).toBeNull() : expect(lightness(css)).toBeCloseTo(value)),
);
