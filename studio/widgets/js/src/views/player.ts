import { colour, h, icon, put, setText, show } from "../dom";
import { clock } from "../grid";
import { TEMPOS } from "../playback";
import type { Store } from "../store";
import { DropView } from "./dropping";
import { Popover } from "./popover";
import { SaveView } from "./saving";
import { SeekView } from "./seek";
import { ForkView, TakesView } from "./takes";
import { WipeView } from "./wipe";

/** Width from which a picture is large. */
const LARGE = 400;
const GLOW_MS = 120;
const TOLD_MS = 120;

/** The picture, what state it is in, and the buttons that move in time. */
export class PlayerView {
  readonly element: HTMLElement;
  private readonly canvas = h("canvas", { class: "ls-picture", role: "img" });
  private readonly ambient = h("canvas", { class: "ls-ambient", width: 80, height: 48, "aria-hidden": "true" });
  private readonly mood = h("canvas", { width: 5, height: 3 });
  private readonly state = h("span");
  private readonly badge = h("div", { class: "ls-badge" }, h("span", { class: "ls-dot" }), this.state);
  private readonly flash = h("div", { class: "ls-badge ls-right ls-num", hidden: true });
  private readonly caption = h("div", { class: "ls-caption" }, h("span", { class: "ls-swatch" }), h("span", { dir: "auto" }));
  private readonly toggle = h("button", { class: "ls-primary ls-toggle", type: "button" });
  private readonly time = h("span", { class: "ls-time" });
  private readonly place = h("span", { class: "ls-muted" });
  private readonly nth = h("span", { class: "ls-muted ls-nth" });
  private readonly live = h("button", { class: "ls-golive", type: "button", title: "To the newest frame, and on from there (End)" }, h("span", { class: "ls-dot" }), "live");
  private readonly tempo = h(
    "select", { class: "ls-tempo ls-num", "aria-label": "Speed", title: "How fast to play ([ and ])" },
    ...TEMPOS.map((value) => h("option", { value }, `${value}×`)),
  );
  private readonly loop = h("button", { type: "button", class: "ls-loop" }, icon("loop"));
  private readonly full = h("button", { type: "button" }, icon("wide"));
  private readonly seed = h("input", {
    class: "ls-seed", type: "text", inputmode: "numeric", "aria-label": "Seed; Enter starts again with it", size: 6,
    title: "Seed of the noise: the same seed and prompts give the same video. Enter starts again with it.",
  });
  private readonly look = h("button", { type: "button", title: "See the cache that the model works with" }, "Cache");
  private readonly stage: HTMLElement;
  private readonly seek: SeekView;
  private readonly takes: TakesView;
  private readonly fork: ForkView;
  private readonly wipe: WipeView;
  private readonly save: SaveView;
  private readonly drop: DropView;
  private readonly more: Popover;
  private sized = "";
  private glow = -Infinity;
  private told = -Infinity;

  constructor(private readonly store: Store, openKeys: () => void) {
    this.seek = new SeekView(store);
    this.takes = new TakesView(store);
    this.fork = new ForkView(store);
    this.wipe = new WipeView(store);
    this.save = new SaveView(store);
    this.stage = h("div", { class: "ls-stage" }, this.ambient, this.canvas, this.wipe.element, this.badge, this.flash, this.caption);
    this.drop = new DropView(store, this.stage);
    this.stage.append(this.drop.element);
    const button = (name: "first" | "back" | "forward", label: string, action: (event: MouseEvent) => void) =>
      h("button", { type: "button", "aria-label": label, title: label, click: action }, icon(name));
    this.toggle.addEventListener("click", () => store.toggle());
    this.look.addEventListener("click", () => void store.command("watch", { on: true }));
    this.live.addEventListener("click", () => store.goLive());
    this.tempo.addEventListener("change", () => store.setTempo(Number(this.tempo.value)));
    this.loop.addEventListener("click", () => this.toggleLoop());
    this.full.addEventListener("click", () => this.toggleFull());
    this.seed.addEventListener("keydown", (event) => this.onSeedKey(event));
    this.seed.addEventListener("blur", () => this.showSeed());
    const again = h("button", { type: "button", title: "A new take from block 0; this one stays", click: () => this.restart() }, "Start again");
    const more = new Popover("", "More", "More", () => this.showSeed(),
      h("div", { class: "ls-formpair" }, h("label", { class: "ls-formrow" }, h("span", { class: "ls-muted" }, "seed"), this.seed), again),
      h("div", { class: "ls-row" }, this.drop.button, h("button", { type: "button", click: () => (more.close(), openKeys()) }, "Keys (?)")),
    );
    more.button.append(icon("more"));
    more.button.setAttribute("aria-label", "More");
    this.more = more;
    const toStart = button("first", "To the beginning (Home)", () => this.toStart());
    toStart.classList.add("ls-first");
    const bar = h(
      "div", { class: "ls-bar" },
      this.toggle,
      toStart,
      button("back", "One block back (left arrow); with Shift one frame", (event) => (event.shiftKey ? store.stepFrame(-1) : store.stepBack())),
      button("forward", "One block on (right arrow); with Shift one frame", (event) => (event.shiftKey ? store.stepFrame(1) : store.stepForward())),
      h("span", { class: "ls-position ls-num" }, this.time, this.place, this.nth),
      this.live,
      h("span", { class: "ls-grow" }),
      this.tempo,
      this.loop,
      this.takes.popover.element,
      this.fork.popover.element,
      this.save.popover.element,
      this.look,
      this.full,
      more.element,
    );
    this.element = h("section", { class: "ls-card ls-player", tabindex: -1, "aria-label": "Player" }, this.stage, this.seek.element, bar);
    this.element.addEventListener("fullscreenchange", () => this.showFull());
    this.showFull();
    new ResizeObserver(() => this.resize()).observe(this.stage);
  }

  update(): void {
    const { store } = this;
    const { label, kind } = situation(store);
    setText(this.state, label);
    put(this.badge, "data-kind", kind);
    this.updateToggle(store.playback.running);
    show(this.look, store.hello?.watchable === true && !store.watching);
    for (const part of [this.seek, this.takes, this.fork, this.wipe, this.save, this.drop]) part.update();
    this.updatePosition();
    this.updateFlash();
    this.updateCaption();
    this.updateLoop();
    const tempo = String(store.playback.tempo);
    if (this.tempo.value !== tempo) this.tempo.value = tempo;
    show(this.live, !store.playback.atEdge && store.film.end > 0);
    if (document.activeElement !== this.seed) this.showSeed();
    const size = `${store.hello?.width ?? 0}x${store.hello?.height ?? 0}`;
    if (size !== this.sized) this.resize();
  }

  draw(picture: ImageBitmap, frame: number): void {
    // Without transparency what lies behind it need not be drawn at all.
    const context = this.canvas.getContext("2d", { alpha: false });
    if (context === null) return;
    context.imageSmoothingEnabled = true;
    // Small pictures are enlarged with care; large ones need none, and it would cost more than all the rest.
    context.imageSmoothingQuality = picture.width < LARGE ? "high" : "low";
    context.drawImage(picture, 0, 0, this.canvas.width, this.canvas.height);
    this.canvas.dataset.frame = String(frame);
    this.canvas.classList.add("ls-shown");
    this.drawAmbient(picture);
    this.seek.moveKnob();
    this.updateCaption();
    const now = performance.now();
    // Words that change make the page lay itself out; so often is as often as they can be read.
    if (this.store.playback.running && now - this.told < TOLD_MS) return;
    this.told = now;
    this.seek.tell();
    this.updatePosition();
  }

  drawRival(picture: ImageBitmap | null): void {
    this.wipe.draw(picture);
  }

  toStart(): void {
    this.store.seek(this.store.film.first);
  }

  /** Fill the screen, or leave it. */
  toggleFull(): void {
    const root = this.element;
    if (document.fullscreenElement === root) void document.exitFullscreen();
    else root.requestFullscreen?.().then(() => root.focus()).catch((error: unknown) => this.store.refuse(`this page may not fill the screen: ${String(error)}`));
  }

  /** Loop over the block that is shown, or end the loop. */
  toggleLoop(): void {
    const { store } = this;
    if (store.playback.range !== null) return store.setRange(null);
    const block = store.grid.blockAt(store.playhead);
    store.setRange({ from: store.grid.start(block), to: store.grid.start(block + 1) });
  }

  /** Put a notice over the picture. */
  cover(notice: HTMLElement): void {
    this.stage.append(notice);
  }

  /** Let the surroundings take on the picture's colours, slowly and without its shapes. */
  private drawAmbient(picture: ImageBitmap): void {
    const mood = this.mood.getContext("2d");
    const context = this.ambient.getContext("2d");
    const now = performance.now();
    if (mood === null || context === null || now - this.glow < GLOW_MS) return;
    mood.globalAlpha = this.glow < 0 ? 1 : 0.25;
    this.glow = now;
    mood.imageSmoothingQuality = picture.width < LARGE ? "high" : "low";
    mood.drawImage(picture, 0, 0, this.mood.width, this.mood.height);
    // In two steps: one large one would show the steps of the interpolation.
    context.imageSmoothingQuality = "high";
    context.drawImage(this.mood, 0, 0, this.ambient.width, this.ambient.height);
  }

  private resize(): void {
    const { hello } = this.store;
    const ratio = hello === null ? 1 : hello.width / hello.height;
    this.sized = `${hello?.width ?? 0}x${hello?.height ?? 0}`;
    const { clientWidth, clientHeight } = this.stage;
    if (clientWidth === 0) return;
    const width = Math.min(clientWidth, Math.round(clientHeight * ratio));
    const height = Math.round(width / ratio);
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    const density = Math.min(devicePixelRatio || 1, 2);
    const pixels = [Math.max(1, Math.round(width * density)), Math.max(1, Math.round(height * density))] as const;
    if (this.canvas.width === pixels[0] && this.canvas.height === pixels[1]) return;
    [this.canvas.width, this.canvas.height] = pixels;
    this.wipe.resize(width, height, pixels);
    this.store.redraw();
  }

  private showFull(): void {
    const on = document.fullscreenElement === this.element;
    const label = on ? "Leave the full screen (F)" : "Full screen (F)";
    this.full.replaceChildren(icon(on ? "narrow" : "wide"));
    this.full.setAttribute("aria-label", label);
    this.full.title = label;
  }

  private updateLoop(): void {
    const { store } = this;
    const { range } = store.playback;
    put(this.loop, "aria-pressed", String(range !== null));
    const told = range === null
      ? "Loop over this block (L); I and O set where it begins and ends"
      : `Loops ${clock(store.grid.seconds(range.from))} to ${clock(store.grid.seconds(range.to))}; press to play on (L)`;
    if (this.loop.title === told) return;
    this.loop.title = told;
    this.loop.setAttribute("aria-label", told);
  }

  private updateToggle(running: boolean): void {
    const label = running ? "Pause (space)" : "Play (space)";
    if (this.toggle.getAttribute("aria-label") === label) return;
    this.toggle.setAttribute("aria-label", label);
    this.toggle.title = label;
    this.toggle.replaceChildren(icon(running ? "pause" : "play"));
  }

  private updatePosition(): void {
    const { store } = this;
    const frame = store.playhead;
    setText(this.time, clock(store.grid.seconds(frame)));
    const end = store.timeline.length === null ? null : store.grid.blockSeconds(store.timeline.length);
    const total = end === null ? (store.playback.atEdge ? "" : ` / ${clock(store.grid.seconds(store.film.end))}`) : ` / ${clock(end)}`;
    setText(this.place, `${total} · block ${store.grid.blockAt(frame)}`);
    setText(this.nth, ` · frame ${frame}`);
  }

  private updateFlash(): void {
    const { flash } = this.store;
    const visible = flash !== null && performance.now() < flash.until;
    show(this.flash, visible);
    if (flash !== null && visible) {
      setText(this.flash, `new prompt at ${clock(flash.at)} · on screen ${flash.after.toFixed(1)} s after Enter`);
    }
  }

  private updateCaption(): void {
    const { store } = this;
    const segment = store.segmentAt(store.grid.blockAt(store.playhead));
    const [swatch, text] = this.caption.children as unknown as [HTMLElement, HTMLElement];
    show(this.caption, segment !== undefined);
    if (segment === undefined) return;
    const own = colour(segment.colour);
    if (swatch.dataset.colour !== own) swatch.style.background = swatch.dataset.colour = own;
    setText(text, segment.prompt);
    const label = `Generated video: ${segment.prompt.slice(0, 200)}`;
    put(this.canvas, "aria-label", label);
  }

  private showSeed(): void {
    const seed = String(this.store.stats?.seed ?? "");
    if (this.seed.value !== seed) this.seed.value = seed;
    this.seed.removeAttribute("aria-invalid");
  }

  private onSeedKey(event: KeyboardEvent): void {
    if (event.isComposing) return;
    if (event.key === "Escape") this.showSeed();
    if (event.key !== "Enter") return;
    event.preventDefault();
    this.restart();
  }

  private restart(): void {
    const text = this.seed.value.trim();
    const seed = Number(text);
    const valid = /^\d{1,16}$/.test(text) && Number.isSafeInteger(seed);
    if (!valid) {
      this.seed.setAttribute("aria-invalid", "true");
      this.store.refuse(`the seed must be a whole number from 0 up, got “${text.slice(0, 20)}”`);
      return;
    }
    this.more.close();
    this.store.restart(seed);
  }
}

/** The state in a word or two, and how to mark it. */
export function situation(store: Store): { label: string; kind: string } {
  const { contact } = store.link;
  if (contact === "restarted") return { label: "disconnected", kind: "off" };
  if (store.hello === null) return { label: contact === "lost" ? "disconnected" : "connecting", kind: "wait" };
  if (store.source === "error") return { label: "stopped by an error", kind: "error" };
  if (store.source === "closed") return { label: "closed", kind: "off" };
  if (contact === "lost") return { label: "no answer from the kernel", kind: "wait" };
  if (store.film.size === 0 && store.source !== "idle" && store.source !== "paused") return { label: "warming up", kind: "wait" };
  // The last frames may still be under way when the model has made them.
  const { length } = store.timeline;
  const whole = length === null || store.film.end >= store.grid.start(length) || !store.playback.running;
  const ended = store.source === "finished" && whole && store.playhead >= store.film.end - 1;
  if (ended) return { label: "finished", kind: "off" };
  if (store.scrubbing) return { label: "looking", kind: "off" };
  if (!store.playback.running) return { label: store.source === "idle" ? "ready" : "paused", kind: "off" };
  if (store.playback.starved) return { label: "waiting for frames", kind: "wait" };
  if (store.source === "finished") return { label: "playing", kind: "live" };
  const { speed, tempo, atEdge, range } = store.playback;
  if (range !== null) return { label: "looping", kind: "off" };
  if (!atEdge) return { label: tempo === 1 ? "replay" : `replay at ${tempo}×`, kind: "off" };
  if (tempo < 1) return { label: `live at ${tempo}×`, kind: "live" };
  return { label: speed < 0.95 ? `live at ${speed.toFixed(1)}× speed` : "live", kind: "live" };
}
