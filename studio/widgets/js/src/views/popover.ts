import { h, show } from "../dom";

let numbers = 0;

/** A button that opens a small panel above the row of buttons; Escape and a click elsewhere close it. */
export class Popover {
  readonly element: HTMLElement;
  readonly button: HTMLButtonElement;
  readonly panel: HTMLElement;

  constructor(label: string, title: string, name: string, private readonly opened: () => void, ...content: (Node | string)[]) {
    const id = `ls-panel-${++numbers}`;
    this.button = h("button", { type: "button", title, "aria-haspopup": "dialog", "aria-expanded": "false", "aria-controls": id }, label);
    this.panel = h("div", { class: "ls-panel", id, role: "dialog", "aria-label": name, hidden: true }, ...content);
    this.element = h("span", { class: "ls-pop" }, this.button, this.panel);
    this.button.addEventListener("click", () => this.toggle());
    this.element.addEventListener("keydown", (event) => {
      if (event.isComposing || event.key !== "Escape" || !this.open) return;
      event.preventDefault();
      event.stopPropagation();
      this.close(true);
    });
  }

  get open(): boolean {
    return !this.panel.hidden;
  }

  toggle(): void {
    if (this.open) return this.close(true);
    show(this.panel, true);
    this.button.setAttribute("aria-expanded", "true");
    document.addEventListener("pointerdown", this.onElsewhere, true);
    this.opened();
    const first = this.panel.querySelector<HTMLElement>("[autofocus], input, select, button:not(:disabled)");
    (first ?? this.panel).focus();
    if (first instanceof HTMLInputElement && first.type === "text") first.select();
  }

  close(refocus = false): void {
    if (!this.open) return;
    show(this.panel, false);
    this.button.setAttribute("aria-expanded", "false");
    document.removeEventListener("pointerdown", this.onElsewhere, true);
    if (refocus) this.button.focus();
  }

  private onElsewhere = (event: Event): void => {
    if (!event.composedPath().includes(this.element)) this.close();
  };
}
