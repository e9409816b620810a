import { h } from "../dom";

const SVG = "http://www.w3.org/2000/svg";

/** A line of a chart, in shares of its width and height. */
export interface Stroke {
  points: [number, number][];
  colour: string;
  /** 0 for a line that is whole; else which of the dashes. */
  dash: number;
  label: string;
}

export interface Mark {
  at: number;
  colour: string;
  label: string;
}

const DASHES = ["", "5 4", "2 3", "9 3 2 3"];

/** Lines over a common axis, drawn again only when they differ. */
export class Chart {
  readonly element: HTMLElement;
  private readonly svg = document.createElementNS(SVG, "svg");
  private readonly dots = h("div", { class: "ls-dots" });
  private drawn = "";

  constructor(label: string) {
    this.svg.setAttribute("viewBox", "0 0 1000 100");
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("aria-hidden", "true");
    this.element = h("div", { class: "ls-chart", role: "img", "aria-label": label }, this.dots);
    this.element.prepend(this.svg);
  }

  draw(strokes: Stroke[], marks: Mark[], label: string): void {
    const key = JSON.stringify([strokes, marks]);
    if (this.element.getAttribute("aria-label") !== label) this.element.setAttribute("aria-label", label);
    if (key === this.drawn) return;
    this.drawn = key;
    this.svg.replaceChildren(...marks.map((mark) => rule(mark)), ...strokes.map((stroke) => path(stroke)));
    this.dots.replaceChildren(...strokes.flatMap((stroke) => {
      const last = stroke.points.at(-1);
      if (last === undefined) return [];
      const dot = h("i", {});
      dot.style.left = `${(100 * last[0]).toFixed(3)}%`;
      dot.style.bottom = `${(100 * last[1]).toFixed(2)}%`;
      dot.style.setProperty("--ls-c", stroke.colour);
      return [dot];
    }));
  }
}

function path(stroke: Stroke): SVGPathElement {
  const element = document.createElementNS(SVG, "path");
  element.setAttribute("d", stroke.points.map(([x, y], i) => `${i === 0 ? "M" : "L"}${(1000 * x).toFixed(2)} ${(100 - 100 * y).toFixed(2)}`).join(""));
  element.setAttribute("class", "ls-line");
  element.setAttribute("data-label", stroke.label);
  element.style.stroke = stroke.colour;
  element.style.strokeDasharray = DASHES[stroke.dash % DASHES.length] as string;
  return element;
}

function rule(mark: Mark): SVGLineElement {
  const element = document.createElementNS(SVG, "line");
  for (const [name, value] of Object.entries({ x1: 1000 * mark.at, x2: 1000 * mark.at, y1: 0, y2: 100 })) element.setAttribute(name, String(value));
  element.setAttribute("class", "ls-rule");
  element.setAttribute("data-label", mark.label);
  element.style.stroke = mark.colour;
  return element;
}
