const FRESH_MS = 1500;

/** Turns the style sheet's colours into those that a canvas understands, and again when the theme has changed. */
export class Paints {
  private readonly probe = document.createElement("span");
  private known = new Map<string, string>();
  private at = 0;

  constructor(root: HTMLElement) {
    this.probe.hidden = true;
    root.append(this.probe);
  }

  get(css: string): string {
    const now = performance.now();
    if (now - this.at > FRESH_MS) {
      this.known.clear();
      this.at = now;
    }
    let found = this.known.get(css);
    if (found === undefined) {
      this.probe.style.color = css;
      found = getComputedStyle(this.probe).color || "#888";
      this.known.set(css, found);
    }
    return found;
  }

  /** Everything that a drawing depends on besides its content: changes with the theme. */
  get theme(): string {
    return this.get("var(--ls-ground)") + this.get("var(--ls-ink)");
  }
}

/** A canvas as sharp as the screen; null while it has no size. */
export function surface(canvas: HTMLCanvasElement, width: number, height: number): CanvasRenderingContext2D | null {
  const density = Math.min(devicePixelRatio || 1, 2);
  const [w, h] = [Math.round(width * density), Math.round(height * density)];
  if (w === 0 || h === 0) return null;
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const context = canvas.getContext("2d");
  context?.setTransform(density, 0, 0, density, 0, 0);
  context?.clearRect(0, 0, width, height);
  return context;
}
