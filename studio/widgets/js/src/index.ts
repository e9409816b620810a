import { h, setText, show } from "./dom";
import { keep, listen } from "./keys";
import { LabStore } from "./lab/store";
import { Store } from "./store";
import { followTheme } from "./theme";
import type { Model } from "./types";
import { ComposerView } from "./views/composer";
import { HelpView } from "./views/help";
import { InspectorView } from "./views/inspector";
import { CurvesLane } from "./views/curves";
import { LabView } from "./views/lab";
import { NoticeView } from "./views/notice";
import { PlayerView, situation } from "./views/player";
import { StatusView } from "./views/status";
import { TimelineView } from "./views/timeline";

interface Opened {
  model: Model;
  el: HTMLElement;
}

/** Build a view of the cache that stands alone. */
function mountCache(store: Store, { model, el }: Opened): () => void {
  const kind = String(model.get("view"));
  const inspector = new InspectorView(store, kind, model);
  const root = h("div", { class: "ls-studio", tabindex: -1, role: "region", "aria-label": "What the model sees" }, inspector.element);
  const setWidth = () => (root.style.width = String(model.get("width") ?? "100%"));
  setWidth();
  el.replaceChildren(root);
  const view = { update: () => inspector.update(), draw: () => {} };
  const leave = followTheme(root);
  // Keys that move within a view must not move the notebook's cells.
  const release = keep(root);
  model.on("change:width", setWidth);
  store.attach(view);
  view.update();
  return () => {
    model.off("change:width", setWidth);
    leave();
    release();
    store.detach(view);
    inspector.dispose();
  };
}

/** Build a recache lab. */
function mountLab(store: LabStore, { model, el }: Opened): () => void {
  const lab = new LabView(store);
  const root = h("div", { class: "ls-studio", tabindex: -1, role: "region", "aria-label": "Recache lab" }, lab.element);
  const setWidth = () => (root.style.width = String(model.get("width") ?? "100%"));
  setWidth();
  el.replaceChildren(root);
  const leave = followTheme(root);
  const release = keep(root);
  model.on("change:width", setWidth);
  store.attach(lab);
  lab.update();
  return () => {
    model.off("change:width", setWidth);
    leave();
    release();
    store.detach(lab);
  };
}

/** Hide the output that stands for this widget where no kernel runs; returns what shows it again. */
function hideStill(key: string): () => void {
  if (!/^[0-9a-f]{8,64}$/.test(key)) return () => {};
  const style = document.createElement("style");
  style.textContent = `.jp-OutputArea-child:has(.ls-still-${key}), .ls-still-${key} { display: none !important; }`;
  document.head.append(style);
  return () => style.remove();
}

/** Build one view of the studio; returns what takes it down again. */
function mount(store: Store, { model, el }: Opened): () => void {
  const help = new HelpView();
  const player = new PlayerView(store, () => help.toggle());
  const composer = new ComposerView(store);
  const timeline = new TimelineView(store, (prompt) => composer.offerPrompt(prompt));
  const curves = new CurvesLane(store, () => timeline.desk.axis);
  timeline.addLane(curves.element, () => curves.update());
  const clips = listenToClips(() => root, timeline);
  const status = new StatusView(store);
  const inspector = new InspectorView(store, "studio", model);
  const notice = new NoticeView(store);
  const spoken = h("div", { class: "ls-spoken", "aria-live": "polite" });
  player.cover(notice.element);
  const grid = h("div", { class: "ls-grid" }, player.element, inspector.element, timeline.element, composer.element, status.element);
  const root = h("div", { class: "ls-studio", tabindex: 0, role: "region", "aria-label": "Live studio" }, grid, help.element, spoken);
  const setWidth = () => (root.style.width = String(model.get("width") ?? "100%"));
  setWidth();
  el.replaceChildren(root);
  const unveil = hideStill(String(model.get("key") ?? ""));

  const view = {
    update() {
      const inspecting = store.hello?.watchable === true && (store.watching || store.trouble !== null);
      show(inspector.element, inspecting);
      grid.toggleAttribute("data-inspect", inspecting);
      for (const part of [player, composer, timeline, curves, status, notice]) part.update();
      if (inspecting) inspector.update();
      // Short waits come and go; read aloud they would only disturb.
      const { label, kind } = situation(store);
      if (kind !== "wait") setText(spoken, `${label}. ${store.promptInForce}`);
    },
    draw(picture: ImageBitmap, frame: number) {
      player.draw(picture, frame);
      timeline.moveHead();
    },
    pictured() {
      timeline.redraw();
    },
    drawRival(picture: ImageBitmap | null) {
      player.drawRival(picture);
    },
  };
  const leave = [
    followTheme(root),
    listen(root, store, {
      prompt: () => composer.focus(),
      help: () => help.toggle(),
      escape: () => help.close() || timeline.escape(),
      timeline: (event) => timeline.key(event),
      quick: (key) => composer.quick.choose(key),
      start: () => player.toStart(),
      fullscreen: () => player.toggleFull(),
      loop: () => player.toggleLoop(),
    }),
  ];
  model.on("change:width", setWidth);
  store.attach(view);
  view.update();
  return () => {
    model.off("change:width", setWidth);
    clips();
    for (const action of leave) action();
    unveil();
    store.detach(view);
    inspector.dispose();
  };
}

/** Copying and pasting reach the whole page: here they are told to the timeline of the studio that has the focus. */
function listenToClips(studio: () => HTMLElement, timeline: TimelineView): () => void {
  const has = (event: Event) => {
    const root = studio();
    const inside = root.contains(event.target as Node) || root.contains(document.activeElement);
    return inside && !timeline.element.contains(event.target as Node);
  };
  const copy = (event: ClipboardEvent) => has(event) && timeline.onCopy(event, event.type === "cut");
  const paste = (event: ClipboardEvent) => has(event) && timeline.onPaste(event);
  addEventListener("copy", copy);
  addEventListener("cut", copy);
  addEventListener("paste", paste);
  return () => {
    removeEventListener("copy", copy);
    removeEventListener("cut", copy);
    removeEventListener("paste", paste);
  };
}

export default () => {
  let store: Store | null = null;
  let lab: LabStore | null = null;
  return {
    initialize({ model }: { model: Model }) {
      if (model.get("view") === "lab") {
        const made = new LabStore(model);
        lab = made;
        return () => made.destroy();
      }
      const made = new Store(model);
      store = made;
      return () => made.destroy();
    },
    render(opened: Opened) {
      if (opened.model.get("view") === "lab") return mountLab((lab ??= new LabStore(opened.model)), opened);
      store ??= new Store(opened.model);
      const alone = (opened.model.get("view") ?? "studio") !== "studio";
      return alone ? mountCache(store, opened) : mount(store, opened);
    },
  };
};
