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
  undo: "M9 5 3.5 10 9 15v-3.6h4.6a3.3 3.3 0 0 1 0 6.6H9v2h4.6a5.3 5.3 0 0 0 0-10.6H9z",
  redo: "M15 5l5.500 5-5.500 5v-3.600h-4.600a3.300 3.300 0 0 0 0 6.600H15v2h-4.600a5.300 5.300 0 0 1 0-10.600H15z",
  split: "M11 3h2v18h-2zM3 8h6v8H3zM15 8h6v8h-6z",
  double: "M4 4h11v3h-2V6H6v9h1v2H4zM9 9h11v11H9zM11 11v7h7v-7z",
  bin: "M9 3h6v2h5v2H4V5h5zM6 8h12l-1 13H7zM9.500 10.500v8H11v-8zM13 10.500v8h1.500v-8z",
  flag: "M6 3h2v1h10l-2.500 4L18 12H8v9H6z",
  magnet: "M5 4h4v8a3 3 0 0 0 6 0V4h4v8a7 7 0 0 1-14 0zM5 4v3h4V4zM15 4v3h4V4z",
  ripple: "M4 5h2v14H4zM9 8h5v8H9zM17 8h3v8h-3zM14 11h3v2h-3z",
  whole: "M3 5h2v14H3zM19 5h2v14h-2zM6 12l4-4v3h4V8l4 4-4 4v-3h-4v3z",
  fork: "M7 3a2 2 0 0 1 1 3.730V11h5a4 4 0 0 0 3-3.300A2 2 0 1 1 18 7.700 6 6 0 0 1 13 13H8v4.270A2 2 0 1 1 6 17.270V6.730A2 2 0 0 1 7 3z",
  file: "M6 3h8l4 4v14H6zM8 5v14h8V8h-3V5z",
  edit: "M4 20v-4L15.500 4.500l4 4L8 20zM6 17v1h1l9.700-9.500-1.200-1.200z",
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

/**
 * Set a text only where it differs, so that nothing is laid out anew without need.
 *
 * Where there is a text already, that one is changed: another node in its place would have the page look at every rule
 * that asks what an element holds.
 */
export function setText(element: Element, text: string): void {
  if (element.textContent === text) return;
  const { firstChild } = element;
  if (firstChild instanceof Text && firstChild === element.lastChild && text !== "") firstChild.data = text;
  else element.textContent = text;
}

/** Set an attribute only where it differs: the style sheet looks at it. */
export function put(element: Element, name: string, value: string): void {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

export function show(element: HTMLElement, visible: boolean): void {
  if (element.hidden === visible) element.hidden = !visible;
}

/** A place in the palette, or a colour of its own, as a CSS value. Anything else is no colour. */
export function colour(value: number | string): string {
  if (typeof value === "number") return `var(--ls-p${(value % 7) + 1})`;
  return /^#[0-9a-fA-F]{3,8}$/.test(value) ? value : "var(--ls-p1)";
}
