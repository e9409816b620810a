import { h, setText, show } from "../dom";
import type { Desk } from "../editor/desk";
import { clock } from "../grid";
import type { Choice } from "../types";

const CHOICES: readonly [Choice, string, string][] = [
  ["keep", "Keep what was made", "only what is still to come changes"],
  ["fork", "Fork", "another take begins there; this one stays as it is"],
  ["regenerate", "Make it again", "from there on, in place of this take"],
];

/** Asks what to do about an edit that would change what was generated. */
export class PastView {
  readonly element: HTMLElement;
  private readonly why = h("p");
  private readonly buttons: HTMLButtonElement[];
  private opener: HTMLElement | null = null;
  /** Whether the answer to what was asked here is awaited. */
  private settling = false;
  /** Whether this view asked: all of them show the question, and only this one takes the focus. */
  private mine = false;

  constructor(private readonly desk: Desk) {
    this.buttons = CHOICES.map(([choice, name, meaning]) =>
      h("button", { type: "button", class: "ls-choose", "data-choice": choice, click: () => this.settle(choice) }, h("b", {}, name), h("span", { class: "ls-muted" }, meaning)),
    );
    const cancel = h("button", { type: "button", click: () => this.settle(null) }, "Cancel");
    this.buttons.push(cancel);
    this.element = h(
      "div", { class: "ls-past", role: "alertdialog", "aria-modal": "true", "aria-label": "This changes what was generated", hidden: true },
      this.why, ...this.buttons.slice(0, -1), h("div", { class: "ls-row" }, cancel),
    );
    this.element.addEventListener("keydown", (event) => this.onKey(event));
  }

  /** Let the edit be; returns whether there was one. */
  cancel(): boolean {
    if (this.element.hidden) return false;
    this.settle(null);
    return true;
  }

  update(): void {
    const { held, grid } = this.desk.store;
    if (held === null) {
      if (!this.element.hidden) this.leave();
      return;
    }
    const from = `${clock(grid.blockSeconds(held.past.block))} (block ${held.past.block})`;
    setText(this.why, `This changes what was generated from ${from} on; ${held.past.begun} blocks have begun.`);
    for (const button of this.buttons) {
      const { choice } = button.dataset;
      if (choice !== undefined) show(button, held.past.choices.includes(choice as Choice));
    }
    if (!this.element.hidden) return;
    this.mine = this.desk.asking || this.settling;
    this.opener = this.mine && document.activeElement instanceof HTMLElement ? document.activeElement : null;
    show(this.element, true);
    if (this.mine) this.buttons[0]?.focus();
  }

  private leave(): void {
    const at = document.activeElement;
    const inside = this.element.contains(at) || (this.mine && at === document.body);
    show(this.element, false);
    if (!inside) return; // It was answered in another view, where the focus stays.
    const studio = this.element.closest<HTMLElement>(".ls-studio");
    if (this.opener?.isConnected && studio?.contains(this.opener) && !this.opener.closest("[hidden]")) this.opener.focus();
    else studio?.focus();
  }

  private settle(choice: Choice | null): void {
    const asked = this.desk.store.settle(choice);
    this.update();
    this.settling = asked !== null;
    void asked?.then((reply) => {
      this.settling = false;
      if (reply.error !== null && !reply.past) this.desk.say(reply.error);
    });
  }

  private onKey(event: KeyboardEvent): void {
    if (event.key === "Escape") {
      event.preventDefault();
      event.stopPropagation();
      this.settle(null);
      return;
    }
    const steps: Record<string, number> = { Tab: event.shiftKey ? -1 : 1, ArrowDown: 1, ArrowUp: -1 };
    const by = steps[event.key];
    if (by === undefined) return;
    // It is answered before anything else is done.
    event.preventDefault();
    event.stopPropagation();
    const shown = this.buttons.filter((button) => !button.hidden);
    const at = shown.indexOf(document.activeElement as HTMLButtonElement);
    shown[(at + by + shown.length) % shown.length]?.focus();
  }
}
