import { colour, h, setText, show } from "../dom";
import { decodeJpeg } from "../darkroom";
import { clock, shortClock } from "../grid";
import { percentage, scaleTop, wordShares, type Reading } from "../readings";
import { span, ticks } from "../lane";
import { tintOf } from "../prompts";
import type { Store } from "../store";
import { waiting } from "./cache";
import { PinBar } from "./pin";

interface Row {
  prompt: string;
  word: string;
  index: number;
  tint: string;
  /** Share of cross-attention by block, while its prompt is in force. */
  shares: Map<number, number>;
  /** Share of the attention that finds it in the cache by block, once another prompt is in force. */
  left: Map<number, number>;
}

/** A row a word, time along the axis: how much each block attends to it; and where in the picture. */
export class WordsView {
  readonly element: HTMLElement;
  readonly title = "Words";
  private readonly pins: PinBar;
  private readonly scale = h("span", { class: "ls-muted ls-num" });
  private readonly ruler = h("div", { class: "ls-ruler ls-num", "aria-hidden": "true" });
  private readonly list = h("div", { class: "ls-words", role: "group", "aria-label": "Words of the prompts over time" });
  private readonly head = h("div", { class: "ls-wordhead", "aria-hidden": "true" });
  private readonly pointed = h("div", { class: "ls-pointed", "aria-hidden": "true", hidden: true });
  private readonly detail = h("div", { class: "ls-detail ls-num", "aria-live": "polite" });
  private readonly heats = h("div", { class: "ls-heats" });
  private readonly empty = h("div", { class: "ls-empty" });
  private readonly body: HTMLElement;
  private rows: Row[] = [];
  private key = "";
  private chosen: { prompt: string; index: number } | null = null;
  private drawing = 0;
  private heated = "";
  private readonly resized = new ResizeObserver(() => {
    this.key = "";
    this.update();
  });

  constructor(private readonly store: Store) {
    this.pins = new PinBar(store);
    this.body = h(
      "div", { class: "ls-seen" },
      h("div", { class: "ls-headrow" },
        h("span", { class: "ls-heading", title: "Share of the cross-attention of each block's last denoising step, from sampled queries. What is missing to 100 % falls on the end of the prompt and on padding. Half height: the prompt is no longer in force, and the word is found in the cache alone: the attention on each slot times what the pass that wrote it had heard of the word." }, "Which words it listens to"),
        this.scale, h("span", { class: "ls-grow" }), this.pins.element),
      h("div", { class: "ls-wordaxis" }, h("span"), this.ruler),
      h("div", { class: "ls-wordbox" }, this.list, h("div", { class: "ls-wordover" }, h("span"), h("div", { class: "ls-over" }, this.pointed, this.head))),
      this.detail,
      this.heats,
    );
    this.element = h("div", { class: "ls-pane" }, this.empty, this.body);
    this.resized.observe(this.list);
  }

  dispose(): void {
    this.resized.disconnect();
  }

  update(): void {
    const { store } = this;
    const reading = store.reading;
    const told = store.readings.all.filter((one) => one.words !== null);
    const silent = reading !== undefined && told.length === 0;
    setText(this.empty, silent ? "This text encoder does not tell which token belongs to which word." : waiting(store));
    show(this.empty, reading === undefined || silent);
    this.body.classList.toggle("ls-blank", reading === undefined || silent);
    if (reading === undefined || silent || this.element.hidden) return;
    this.pins.update();
    const seconds = span(store.timeline, store.grid, store.grid.blockSeconds((store.readings.latest?.block ?? 0) + 1));
    const key = JSON.stringify([store.pin, told.length, told.at(-1)?.block, seconds, this.list.clientWidth, this.chosen, store.timeline.segments.map((one) => one.colour), store.timeline.turns, store.hello?.take]);
    if (key !== this.key) {
      this.key = key;
      this.rows = this.collect(told);
      this.draw(seconds);
    }
    show(this.head, true);
    const pointed = store.pointed === null ? null : Math.floor(store.pointed / Math.max(1, reading.own.length));
    show(this.pointed, pointed !== null);
    if (pointed !== null) {
      const at = (block: number) => Math.min(100, (100 * store.grid.blockSeconds(block)) / seconds);
      this.pointed.style.left = `${at(pointed)}%`;
      this.pointed.style.width = `${at(pointed + 1) - at(pointed)}%`;
    }
    for (const figure of this.heats.children) (figure as HTMLElement).dataset.on = String((figure as HTMLElement).dataset.frame === String(store.pointed));
    this.head.style.left = `${Math.min(100, (100 * store.grid.blockSeconds(reading.block)) / seconds)}%`;
    this.drawHeat(reading);
  }

  private collect(told: Reading[]): Row[] {
    const rows = new Map<string, Row>();
    const rowOf = (prompt: string, index: number, word: string, tint: () => string): Row => {
      const key = `${prompt}\n${index}`;
      const row = rows.get(key) ?? { prompt, word, index, tint: tint(), shares: new Map(), left: new Map() };
      rows.set(key, row);
      return row;
    };
    for (const reading of told) {
      const found = wordShares(reading, this.store.pin);
      const segment = this.store.segmentAt(reading.block);
      reading.words?.forEach((word, index) => {
        rowOf(reading.prompt, index, word, () => colour(segment?.colour ?? 0)).shares.set(reading.block, found[index] as number);
      });
      for (const { prompt, index, word, share } of reading.trace ?? []) {
        const text = reading.prompts[String(prompt)];
        if (text === undefined || text === reading.prompt) continue;
        const { left } = rowOf(text, index, word, () => tintOf(this.store.timeline, prompt));
        left.set(reading.block, (left.get(reading.block) ?? 0) + share);
      }
    }
    // The words of a prompt stand together, the prompts in the order in which they came.
    const prompts = [...new Set([...rows.values()].map((row) => row.prompt))];
    return [...rows.values()].sort((a, b) => prompts.indexOf(a.prompt) - prompts.indexOf(b.prompt) || a.index - b.index);
  }

  private draw(seconds: number): void {
    const { store } = this;
    const top = scaleTop(this.rows.flatMap((row) => [...row.shares.values()]));
    setText(this.scale, `full colour is ${top} %`);
    this.ruler.replaceChildren(...ticks(seconds, Math.max(1, this.ruler.clientWidth)).map((at) => {
      const label = h("span", {}, shortClock(at));
      const share = at / seconds;
      label.style.left = `${100 * share}%`;
      label.className = share < 0.02 ? "ls-firstlabel" : share > 0.97 ? "ls-lastlabel" : "";
      return label;
    }));
    while (this.list.children.length > this.rows.length) this.list.lastElementChild?.remove();
    while (this.list.children.length < this.rows.length) this.list.append(this.makeRow(this.list.children.length));
    this.rows.forEach((row, i) => {
      const button = this.list.children[i] as HTMLButtonElement;
      const first = i === 0 || this.rows[i - 1]?.prompt !== row.prompt;
      const [label, canvas] = button.children as unknown as [HTMLElement, HTMLCanvasElement];
      button.classList.toggle("ls-firstword", first);
      button.style.setProperty("--ls-c", row.tint);
      setText(label, row.word);
      const on = this.chosen?.prompt === row.prompt && this.chosen.index === row.index;
      button.setAttribute("aria-pressed", String(on));
      const latest = [...row.shares.entries()].at(-1);
      const left = [...row.left.entries()].at(-1);
      button.setAttribute("aria-label", `${row.word}, of “${row.prompt}”: ${latest === undefined ? "" : `${percentage(latest[1])} at block ${latest[0]}`}${left === undefined ? "" : `, ${percentage(left[1])} through the cache at block ${left[0]}`}`);
      const density = Math.min(devicePixelRatio || 1, 2);
      const [width, height] = [Math.max(1, Math.round(canvas.clientWidth * density)), Math.max(1, Math.round(canvas.clientHeight * density))];
      [canvas.width, canvas.height] = [width, height];
      const context = canvas.getContext("2d");
      if (context === null) return;
      const tint = getComputedStyle(label).getPropertyValue("border-left-color");
      context.fillStyle = tint;
      const fill = (block: number, share: number, from: number, high: number) => {
        const start = Math.round((store.grid.blockSeconds(block) / seconds) * width);
        const end = Math.round((store.grid.blockSeconds(block + 1) / seconds) * width);
        context.globalAlpha = Math.min(1, (100 * share) / top);
        context.fillRect(start, from, Math.max(1, end - start - (end - start > 6 ? density : 0)), high);
      };
      for (const [block, share] of row.shares) fill(block, share, 0, height);
      for (const [block, share] of row.left) fill(block, share, Math.round(height / 4), Math.round(height / 2));
    });
  }

  private makeRow(place: number): HTMLButtonElement {
    const button = h("button", { type: "button", class: "ls-word" }, h("span", { dir: "auto" }), h("canvas", { "aria-hidden": "true" }));
    button.addEventListener("click", () => {
      const row = this.rows[place];
      if (row === undefined) return;
      const same = this.chosen?.prompt === row.prompt && this.chosen.index === row.index;
      this.chosen = same ? null : { prompt: row.prompt, index: row.index };
      this.update();
    });
    return button;
  }

  private makeHeat(): HTMLElement {
    const figure = h("figure", { class: "ls-heat" }, h("canvas"), h("div", { class: "ls-heatover" }), h("figcaption", { class: "ls-num" }));
    figure.addEventListener("mouseenter", () => this.store.point(Number(figure.dataset.frame)));
    figure.addEventListener("mouseleave", () => this.store.point(null));
    return figure;
  }

  /** What is left of a word whose prompt is not in force. */
  private silent(reading: Reading, at: string): string {
    const { chosen } = this;
    const row = this.rows.find((one) => one.prompt === chosen?.prompt && one.index === chosen.index);
    const left = row?.left.get(reading.block);
    const elsewhere = `At ${at} the network is given another prompt.`;
    if (row === undefined || reading.trace === null) return elsewhere;
    if (left === undefined) return `${elsewhere} “${row.word}” is ${(row.shares.keys().next().value ?? 0) > reading.block ? "not" : "no longer"} in the cache.`;
    return `${elsewhere} “${row.word}” is heard through the cache alone: ${percentage(left)} of the attention finds it there.`;
  }

  /** The frames that the shown block made, and where in them the chosen word is listened to. */
  private drawHeat(reading: Reading): void {
    const { chosen, store } = this;
    const spoken = chosen !== null && chosen.prompt === reading.prompt && reading.words !== null;
    const at = `block ${reading.block}, ${clock(store.grid.blockSeconds(reading.block))}`;
    if (chosen === null) setText(this.detail, `Click a word to see where in the picture it is listened to.${this.rows.some((row) => row.left.size > 0) ? " Half height: no longer asked for, found in the cache alone." : ""}`);
    else if (!spoken) setText(this.detail, this.silent(reading, at));
    else setText(this.detail, `“${reading.words?.[chosen.index] ?? ""}” at ${at}: ${percentage(wordShares(reading, store.pin)[chosen.index] as number)} of the cross-attention; below all layers and heads, by position.`);
    const key = JSON.stringify([reading.take, reading.block, chosen, spoken]);
    if (key === this.heated) return;
    this.heated = key;
    const drawing = ++this.drawing;
    const tint = this.rows.find((row) => row.prompt === reading.prompt)?.tint ?? "var(--ls-accent)";
    while (this.heats.children.length > reading.own.length) this.heats.lastElementChild?.remove();
    while (this.heats.children.length < reading.own.length) this.heats.append(this.makeHeat());
    const values = spoken ? heatOf(reading, chosen.index) : null;
    const most = values === null ? 0 : Math.max(...values.flat());
    reading.own.forEach((frame, i) => {
      (this.heats.children[i] as HTMLElement).dataset.frame = String(frame);
      const [canvas, over, caption] = this.heats.children[i]?.children as unknown as [HTMLCanvasElement, HTMLElement, HTMLElement];
      const jpeg = store.readings.picture(frame);
      if (jpeg !== undefined) {
        decodeJpeg(jpeg).then((bitmap) => {
          if (drawing === this.drawing) {
            [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
            canvas.getContext("2d")?.drawImage(bitmap, 0, 0);
          }
          bitmap.close();
        }, (error) => store.fail(error));
      }
      const cells = values?.[i] ?? [];
      (this.heats.children[i] as HTMLElement).dataset.heated = String(cells.length > 0);
      over.style.setProperty("--ls-c", tint);
      over.style.gridTemplateColumns = `repeat(${reading.grid[1]}, 1fr)`;
      over.style.gridTemplateRows = `repeat(${Math.max(1, reading.grid[0])}, 1fr)`;
      over.replaceChildren(...cells.map((value) => {
        const cell = h("i", { title: percentage(value) });
        cell.style.opacity = String(most > 0 ? 0.7 * (value / most) : 0);
        return cell;
      }));
      const mean = cells.reduce((sum, value) => sum + value, 0) / Math.max(1, cells.length);
      caption.title = cells.length === 0 ? "" : `Latent frame ${frame}: the mean over the picture, and the strongest position`;
      setText(caption, cells.length === 0 ? `frame ${frame}` : `${frame}: ${percentage(mean)}, up to ${percentage(Math.max(...cells))}`);
    });
  }
}

/** Attention to a word by own frame and sampled position. */
function heatOf(reading: Reading, word: number): number[][] {
  const words = reading.words?.length ?? 0;
  const samples = reading.grid[0] * reading.grid[1];
  return reading.own.map((_, frame) => Array.from({ length: samples }, (_, i) => reading.heat[(frame * samples + i) * words + word] as number));
}
