/** The lightness of a CSS colour, 0 to 1; null for what is no opaque colour. */
export function lightness(css: string): number | null {
  const parts = css.match(/[\d.]+/g)?.map(Number) ?? [];
  const [r, g, b, alpha] = parts;
  if (r === undefined || g === undefined || b === undefined || alpha === 0) return null;
  const scale = css.startsWith("color(") ? 1 : 255;
  const linear = (channel: number) => (channel <= 0.04045 ? channel / 12.92 : ((channel + 0.055) / 1.055) ** 2.4);
  return 0.2126 * linear(r / scale) + 0.7152 * linear(g / scale) + 0.0722 * linear(b / scale);
}

/** Follow the page's theme: tells the style sheet whether the ground is dark, and what is legible on the accent. */
export function followTheme(root: HTMLElement): () => void {
  const probe = document.createElement("span");
  probe.hidden = true;
  root.append(probe);
  const read = (value: string) => {
    probe.style.color = value;
    return lightness(getComputedStyle(probe).color);
  };
  const look = () => {
    const ground = read("var(--ls-ground)") ?? 1;
    const accent = read("var(--ls-accent)") ?? 0.2;
    root.dataset.theme = ground < 0.2 ? "dark" : "light";
    root.dataset.onaccent = accent > 0.22 ? "dark" : "light";
  };
  look();
  const observer = new MutationObserver(look);
  for (const element of [document.documentElement, document.body]) {
    observer.observe(element, { attributes: true, attributeFilter: ["class", "style", "data-jp-theme-light", "data-jp-theme-name", "data-theme"] });
  }
  // A theme's style sheet may arrive after its name.
  const late = setInterval(look, 2000);
  return () => {
    observer.disconnect();
    clearInterval(late);
    probe.remove();
  };
}
