type Child = Node | string | null;
type Props = Record<string, string | number | boolean | ((event: never) => void) | undefined>;

/** Make an element. Text becomes text nodes and attributes are set as such: nothing is ever parsed as markup. */
export function h<K extends keyof HTMLElementTagNameMap>(tag: K, props: Props = {}, ...children: Child[]): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value as EventListener);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child): child is Node | string => child !== null));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

const SHAPES = {
  play: "M7 4.5v15l12-7.5z",
  pause: "M6.5 5h4v14h-4zM13.5 5h4v14h-4z",
  back: "M16 5v14L6 12z",
  forward: "M8 5v14l10-7z",
  add: "M11 5h2v6h6v2h-6v6h-2v-6H5v-2h6z",
  enter: "M19 5h2v8H8.4l3.3 3.3-1.4 1.4L4.6 12l5.7-5.7 1.4 1.4L8.4 11H19z",
  less: "M5 11h14v2H5z",
  first: "M5 5h2.6v14H5zM19 5v14L9 12z",
  wide: "M4 4h6v2H6v4H4zM14 4h6v6h-2V6h-4zM4 14h2v4h4v2H4zM18 14h2v6h-6v-2h4z",
  narrow: "M8 4h2v6H4V8h4zM14 4h2v4h4v2h-6zM4 14h6v6H8v-4H4zM14 14h6v2h-4v4h-2z",
  loop: "M7 6h9V3l5 4.5L16 12V9H8v4H5V8a2 2 0 0 1 2-2zM17 18H8v3l-5-4.500L8 12v3h8v-4h3v5a2 2 0 0 1-2 2z",
  more: "M4 10h4v4H4zM10 10h4v4h-4zM16 10h4v4h-4z",
  pen: "M4 20l1-5L15.500 4.500l4 4L9 19zM6.700 16l1.300 1.300 8-8-1.300-1.300z",
  cross: "M6.400 5L12 10.600 17.600 5 19 6.400 13.400 12 19 17.600 17.600 19 12 13.400 6.400 19 5 17.600 10.600 12 5 6.400z",
} as const;

export function icon(name: keyof typeof SHAPES): SVGSVGElement {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", "ls-icon");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", SHAPES[name]);
  svg.append(path);
  return svg;
}

/** Set a text only where it differs, so that nothing is laid out anew without need. */
export function setText(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

export function show(element: HTMLElement, visible: boolean): void {
  if (element.hidden === visible) element.hidden = !visible;
}

/** A place in the palette, or a colour of its own, as a CSS value. Anything else is no colour. */
export function colour(value: number | string): string {
  if (typeof value === "number") return `var(--ls-p${(value % 7) + 1})`;
  return /^#[0-9a-fA-F]{3,8}$/.test(value) ? value : "var(--ls-p1)";
}
