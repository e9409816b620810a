import { h, show } from "../dom";

const KEYS: readonly [string, readonly [string, string][]][] = [
  ["Playing", [
    ["Space", "play, pause"],
    ["← →", "one block back, one block on; with Shift a frame"],
    [", .", "one frame back, one frame on"],
    ["Home End", "to the beginning, to the newest frame"],
    ["I O", "begin or end the loop here"],
    ["L", "loop over this block, or play on"],
    ["[ ]", "slower, faster"],
    ["F", "full screen"],
  ]],
  ["Prompts", [
    ["/", "go to the prompt box"],
    ["Enter", "in a box: apply; Shift Enter begins a new line"],
    ["1 … 9", "switch to a quick prompt"],
    ["Escape", "leave without changing anything"],
  ]],
  ["Choosing", [
    ["↑ ↓", "the prompt before, the next; with Shift several"],
    ["Ctrl A", "all of them"],
    ["Enter", "open the form of the chosen one"],
    ["A", "add a prompt at the end"],
  ]],
  ["Editing", [
    ["S", "split at the playhead"],
    ["D", "duplicate"],
    ["Delete", "remove; with Shift what follows moves up"],
    ["Alt ← →", "move it a block earlier, later; a marker too"],
    ["Shift Alt ← →", "change places with the one before, after"],
    ["< >", "its beginning a block earlier, later"],
    ["{ }", "its end a block earlier, later"],
    ["R N", "an edge moves all that follows; edges catch"],
    ["M", "set or remove a marker; F2 names it"],
    ["Ctrl Z", "undo; with Shift do it again"],
    ["Ctrl C", "copy, Ctrl X cut, Ctrl V insert, in any studio"],
  ]],
  ["Looking", [
    ["+ − 0", "show less, more, all"],
    ["?", "these keys"],
  ]],
];

/** The sheet of keys. */
export class HelpView {
  readonly element: HTMLElement;
  private readonly button = h("button", { type: "button", click: () => this.close() }, "Close");
  private opener: HTMLElement | null = null;

  constructor() {
    const groups = KEYS.map(([title, keys]) => {
      const rows = keys.flatMap(([names, meaning]) => [h("dt", {}, ...names.split(" ").map((key) => h("kbd", {}, key))), h("dd", {}, meaning)]);
      return h("section", {}, h("h3", {}, title), h("dl", {}, ...rows));
    });
    this.element = h(
      "div", { class: "ls-help", role: "dialog", "aria-label": "Keys", hidden: true },
      h("h2", {}, "Keys"), h("div", { class: "ls-helpgroups" }, ...groups), h("div", { class: "ls-row" }, this.button),
    );
    this.element.addEventListener("keydown", (event) => {
      if (event.key === "Tab") event.preventDefault();
    });
  }

  get open(): boolean {
    return !this.element.hidden;
  }

  toggle(): void {
    if (this.close()) return;
    this.opener = document.activeElement instanceof HTMLElement ? document.activeElement : null;
    show(this.element, true);
    this.button.focus();
  }

  /** Returns whether it was open. */
  close(): boolean {
    if (!this.open) return false;
    show(this.element, false);
    this.opener?.focus();
    return true;
  }
}
