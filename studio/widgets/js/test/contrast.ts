/** A colour as red, green and blue from 0 to 1. */
export type Rgb = readonly [number, number, number];

export function rgb(hex: string): Rgb {
  const full = hex.length === 4 ? hex.replace(/[0-9a-f]/gi, "$&$&") : hex;
  return [1, 3, 5].map((at) => parseInt(full.slice(at, at + 2), 16) / 255) as unknown as Rgb;
}

/** A share of one colour over another, as `color-mix(in srgb, ...)` has it. */
export function mixed(top: Rgb, share: number, under: Rgb): Rgb {
  return top.map((channel, i) => channel * share + (under[i] ?? 0) * (1 - share)) as unknown as Rgb;
}

/** How bright a colour is, 0 to 1: the relative luminance of WCAG 2.2. */
export function luminance(colour: Rgb): number {
  const [r, g, b] = colour.map((channel) => (channel <= 0.04045 ? channel / 12.92 : ((channel + 0.055) / 1.055) ** 2.4));
  return 0.2126 * (r ?? 0) + 0.7152 * (g ?? 0) + 0.0722 * (b ?? 0);
}

/** The contrast of two colours, 1 to 21. */
export function contrast(a: Rgb, b: Rgb): number {
  const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y) as [number, number];
  return (high + 0.05) / (low + 0.05);
}
