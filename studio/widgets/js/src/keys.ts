import type { Store } from "./store";

/** Keys with Ctrl or Cmd that mean something while text is edited; all others stay the notebook's (save, find, ...). */
const EDITING = new Set(["a", "c", "v", "x", "z", "y", "enter", "arrowleft", "arrowright", "backspace", "home", "end"]);

function isNotebooks(event: KeyboardEvent): boolean {
  return (event.ctrlKey || event.metaKey) && !EDITING.has(event.key.toLowerCase());
}

/** Whether something is part of an open panel. */
export function inPanel(element: Element | null): boolean {
  return element !== null && element.closest('[role="dialog"], [role="alertdialog"]') !== null;
}

/** Keep keys from the notebook whose focus is in a part of the page, all but the notebook's own; returns what ends it. */
export function keep(root: HTMLElement): () => void {
  const onKey = (event: KeyboardEvent) => {
    if (!isNotebooks(event)) event.stopPropagation();
  };
  // Some front ends look at keys before the elements do; they let those alone whose target carries the attribute.
  const onAnyKey = (event: KeyboardEvent) => {
    if (!root.contains(event.target as Node)) return;
    if (isNotebooks(event)) root.removeAttribute("data-lm-suppress-shortcuts");
    else root.setAttribute("data-lm-suppress-shortcuts", "true");
  };
  root.setAttribute("data-lm-suppress-shortcuts", "true");
  root.addEventListener("keydown", onKey);
  addEventListener("keydown", onAnyKey, true);
  return () => {
    root.removeEventListener("keydown", onKey);
    removeEventListener("keydown", onAnyKey, true);
  };
}

export interface Doors {
  prompt(): void;
  help(): void;
  /** Close what is open; returns whether there was anything. */
  escape(): boolean;
  start(): void;
  fullscreen(): void;
  loop(): void;
  /** Whether a key was meant for the timeline. */
  timeline(event: KeyboardEvent): boolean;
  /** Switch to a quick prompt; returns whether there is one. */
  quick(key: number): boolean;
}

/** Steer by keys while the studio has the focus, without taking any from text boxes or from the notebook. */
export function listen(root: HTMLElement, store: Store, doors: Doors): () => void {
  const onKey = (event: KeyboardEvent) => {
    if (isNotebooks(event)) return;
    if (event.defaultPrevented || event.isComposing) return;
    const target = event.target as HTMLElement;
    if (event.key === "Escape") return void doors.escape();
    if (target.closest("input, textarea, select") !== null) return;
    // Space and Enter press the button that has the focus.
    if ((event.key === " " || event.key === "Enter") && target.closest("button, summary") !== null) return;
    // What the keys of an open panel do not mean to it, they must not do to the prompts behind it.
    const behind = inPanel(target);
    if (!behind && doors.timeline(event)) return event.preventDefault();
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (!behind && /^[1-9]$/.test(event.key) && doors.quick(Number(event.key))) return event.preventDefault();
    const action = {
      " ": () => store.toggle(),
      ArrowLeft: () => (event.shiftKey ? store.stepFrame(-1) : store.stepBack()),
      ArrowRight: () => (event.shiftKey ? store.stepFrame(1) : store.stepForward()),
      ",": () => store.stepFrame(-1),
      ".": () => store.stepFrame(1),
      Home: doors.start,
      End: () => store.goLive(),
      "[": () => store.changeTempo(-1),
      "]": () => store.changeTempo(1),
      i: () => store.markRange("from"),
      o: () => store.markRange("to"),
      l: doors.loop,
      f: doors.fullscreen,
      "/": doors.prompt,
      "?": doors.help,
    }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (action === undefined) return;
    event.preventDefault();
    action();
  };
  const leave = keep(root);
  root.addEventListener("keydown", onKey);
  return () => {
    root.removeEventListener("keydown", onKey);
    leave();
  };
}
