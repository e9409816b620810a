import { h, setText, show } from "../dom";
import { kinds, parts, percentage, PARTS, scaleTop, telling, type HeadKind, type Part } from "../readings";
import type { Store } from "../store";
import { waiting } from "./cache";

const NAMES: Record<Part, string> = { sink: "the sink", between: "the window between", own: "its own block" };
const KIND: Record<HeadKind, string> = { sink: "sink head", own: "self-block head", dynamic: "dynamic head" };
const MARK: Record<HeadKind, string> = { sink: "S", own: "B", dynamic: "" };
const ORDER: HeadKind[] = ["sink", "own", "dynamic"];

/** Every head of every layer: how much it looks at one part of the cache. */
export class HeadsView {
  readonly element: HTMLElement;
  readonly title = "Heads";
  private readonly heading = h("span", { class: "ls-heading" });
  private readonly part = h("select", { "aria-label": "What the heads look at" });
  private readonly order = h("select", { "aria-label": "Order of the heads" });
  private readonly grid = h("div", { class: "ls-heads", role: "group", "aria-label": "Layers and heads" });
  private readonly detail = h("div", { class: "ls-detail ls-num", "aria-live": "polite" });
  private readonly scale = h("span", { class: "ls-num" });
  private readonly counts = h("div", { class: "ls-legend ls-num" });
  private readonly empty = h("div", { class: "ls-empty" });
  private readonly body: HTMLElement;
  private at = 0;
  private pointed: number | null = null;

  constructor(private readonly store: Store) {
    this.part.append(...PARTS.map((part) => h("option", { value: part }, `on ${NAMES[part]}`)));
    this.order.append(h("option", { value: "layer" }, "by layer"), h("option", { value: "kind" }, "by what they do"));
    for (const select of [this.part, this.order]) select.addEventListener("change", () => this.update());
    this.grid.addEventListener("keydown", (event) => this.onKey(event));
    this.grid.addEventListener("mouseleave", () => this.point(null));
    this.body = h(
      "div", { class: "ls-seen" },
      h("div", { class: "ls-headrow" }, this.heading, h("span", { class: "ls-grow" }), h("span", { class: "ls-pins" }, this.part, this.order)),
      h("div", { class: "ls-axes ls-muted" }, h("span", {}, "a row a layer, a column a head"), h("span", { class: "ls-ramp", "aria-hidden": "true" }), this.scale),
      this.grid,
      this.detail,
      this.counts,
    );
    this.element = h("div", { class: "ls-pane" }, this.empty, this.body);
  }

  update(): void {
    const { store } = this;
    const reading = store.reading;
    setText(this.empty, waiting(store));
    show(this.empty, reading === undefined);
    this.body.classList.toggle("ls-blank", reading === undefined);
    if (reading === undefined) return;
    const found = parts(reading);
    const told = kinds(store.readings.all);
    const part = PARTS.indexOf(this.part.value as Part);
    const heads = reading.heads;
    const rows = found.map((_, row) => row);
    if (this.order.value === "kind" && told !== null) {
      const rank = (row: number) => ORDER.indexOf(told[row] as HeadKind);
      rows.sort((a, b) => rank(a) - rank(b) || (found[b]?.[part] ?? 0) - (found[a]?.[part] ?? 0));
    }
    const top = scaleTop(found.map((shares) => shares[part] ?? 0));
    setText(this.scale, `0 to ${top} % of the attention`);
    setText(this.heading, `What the heads of block ${reading.block} look at`);
    this.grid.style.setProperty("--ls-heads", String(heads));
    this.grid.style.setProperty("--ls-layers", String(reading.layers.length));
    while (this.grid.children.length > rows.length) this.grid.lastElementChild?.remove();
    while (this.grid.children.length < rows.length) this.grid.append(this.makeCell(this.grid.children.length));
    rows.forEach((row, place) => {
      const cell = this.grid.children[place] as HTMLButtonElement;
      const share = found[row]?.[part] ?? 0;
      const [layer, head] = [reading.layers[Math.floor(row / heads)] as number, row % heads];
      cell.style.setProperty("--ls-s", `${((1e4 * share) / top).toFixed(2)}%`);
      cell.dataset.row = String(row);
      const depth = (100 * share) / top;
      cell.dataset.strong = depth > 0.92 ? "full" : String(depth > 0.75);
      cell.tabIndex = place === this.at ? 0 : -1;
      const pinned = store.pin.layer === layer && store.pin.head === head;
      cell.setAttribute("aria-pressed", String(pinned));
      setText(cell, told === null ? "" : MARK[told[row] as HeadKind]);
      cell.setAttribute("aria-label", this.describe(row));
    });
    const count = (kind: HeadKind) => told?.filter((one) => one === kind).length ?? 0;
    const tellers = store.readings.all.filter(telling).length;
    setText(this.counts, told === null
      ? "What each head is for shows once a block sees the sink, itself and something between."
      : `S ${count("sink")} sink heads · B ${count("own")} self-block heads · ${count("dynamic")} dynamic, over ${tellers} block${tellers > 1 ? "s" : ""}`);
    const shown = this.pointed ?? this.pinnedRow();
    setText(this.detail, shown === null ? "Point at a head to read its shares; click pins it in every view." : this.describe(shown));
  }

  private pinnedRow(): number | null {
    const { pin, reading } = this.store;
    if (pin.layer === null || pin.head === null || reading === undefined) return null;
    return reading.layers.indexOf(pin.layer) * reading.heads + pin.head;
  }

  private describe(row: number): string {
    const { reading, readings } = this.store;
    const found = reading === undefined ? undefined : parts(reading)[row];
    if (reading === undefined || found === undefined) return "";
    const kind = kinds(readings.all)?.[row];
    const told = PARTS.map((part, i) => `${NAMES[part]} ${percentage(found[i] ?? 0)}`).join(", ");
    return `Layer ${reading.layers[Math.floor(row / reading.heads)]}, head ${row % reading.heads}: ${told}${kind === undefined ? "" : ` · ${KIND[kind]}`}`;
  }

  private makeCell(place: number): HTMLButtonElement {
    const cell = h("button", { type: "button", class: "ls-head-cell" });
    const row = () => Number(cell.dataset.row);
    cell.addEventListener("mouseenter", () => this.point(row()));
    cell.addEventListener("focus", () => {
      this.at = place;
      this.point(row());
    });
    cell.addEventListener("click", () => {
      const { reading, pin } = this.store;
      if (reading === undefined) return;
      const next = { layer: reading.layers[Math.floor(row() / reading.heads)] as number, head: row() % reading.heads };
      const same = pin.layer === next.layer && pin.head === next.head;
      this.store.pinTo(same ? { layer: null, head: null } : next);
    });
    return cell;
  }

  private point(row: number | null): void {
    this.pointed = row;
    const shown = row ?? this.pinnedRow();
    setText(this.detail, shown === null ? "Point at a head to read its shares; click pins it in every view." : this.describe(shown));
  }

  private onKey(event: KeyboardEvent): void {
    const heads = this.store.reading?.heads ?? 1;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -heads, ArrowDown: heads }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const next = this.at + step;
    if (next < 0 || next >= this.grid.children.length) return;
    this.at = next;
    [...this.grid.children].forEach((cell, i) => ((cell as HTMLElement).tabIndex = i === next ? 0 : -1));
    (this.grid.children[next] as HTMLElement).focus();
  }
}
