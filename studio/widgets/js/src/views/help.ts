import { h, show } from "../dom";

const KEYS: readonly [string, string][] = [
  ["Space", "play, pause"],
  ["← →", "one block back, one block on; with Shift one frame"],
  [", .", "one frame back, one frame on"],
  ["Home End", "to the beginning, to the newest frame"],
  ["I O", "begin or end the loop here"],
  ["L", "loop over this block, or play on"],
  ["[ ]", "slower, faster"],
  ["F", "full screen"],
  ["/", "go to the prompt box"],
  ["Enter", "in the prompt box: switch to this prompt"],
  ["Shift Enter", "in the prompt box: a new line"],
  ["Escape", "leave without changing anything"],
  ["?", "these keys"],
];

/** The sheet of keys. */
export class HelpView {
  readonly element: HTMLElement;
  private readonly button = h("button", { type: "button", click: () => this.close() }, "Close");
  private opener: HTMLElement | null = null;

  constructor() {
    const rows = KEYS.flatMap(([keys, meaning]) => [h("dt", {}, ...keys.split(" ").map((key) => h("kbd", {}, key))), h("dd", {}, meaning)]);
    this.element = h(
      "div", { class: "ls-help", role: "dialog", "aria-label": "Keys", hidden: true },
      h("h2", {}, "Keys"), h("dl", {}, ...rows), h("div", { class: "ls-row" }, this.button),
    );
    this.element.addEventListener("keydown", (event) => {
      if (event.key === "Tab") event.preventDefault();
    });
  }

  get open(): boolean {
    return !this.element.hidden;
  }

  toggle(): void {
    if (this.open) return this.close();
    this.opener = document.activeElement instanceof HTMLElement ? document.activeElement : null;
    show(this.element, true);
    this.button.focus();
  }

  close(): void {
    if (!this.open) return;
    show(this.element, false);
    this.opener?.focus();
  }
}
