import { h, setText, show } from "../dom";
import type { Store } from "../store";

/** One sentence and a remedy, over the picture; what lies behind it is one click away. */
export class NoticeView {
  readonly element: HTMLElement;
  private readonly text = h("p", { dir: "auto" });
  private readonly remedy = h("p", { class: "ls-muted" }, "“Go on” tries again from the last good block; another prompt or seed may help.");
  private readonly trace = h("pre");
  private readonly details = h("details", {}, h("summary", {}, "What happened"), this.trace);
  private readonly goOn = h("button", { type: "button", class: "ls-primary" }, "Go on");

  constructor(private readonly store: Store) {
    this.goOn.addEventListener("click", () => {
      store.error = null;
      store.play();
    });
    this.element = h("div", { class: "ls-notice", role: "alert", hidden: true }, this.text, this.remedy, this.details, h("div", { class: "ls-row" }, this.goOn));
  }

  update(): void {
    const { error } = this.store;
    const broken = cutOff(this.store);
    const text = broken ?? error?.message ?? "";
    show(this.element, text !== "");
    if (text === "") return;
    setText(this.text, text);
    setText(this.trace, error?.traceback ?? "");
    show(this.details, broken === null && (error?.traceback ?? "") !== "");
    show(this.remedy, broken === null);
    show(this.goOn, broken === null);
  }
}

/** Why nothing can be steered from here at the moment; null if it can. */
export function cutOff(store: Store): string | null {
  switch (store.link.contact) {
    case "restarted":
      return "The kernel was restarted: run the cell again.";
    case "lost":
      return store.hello === null
        ? "No answer from the kernel: run the cell again."
        : "No answer from the kernel. If it was stopped or restarted, run the cell again.";
    case "deaf":
      return "The kernel is busy with a cell, and this front end cannot reach it meanwhile. Steer from code, or wait until the cell ends.";
    default:
      return store.source === "closed" ? "This session is closed: open another and run the cell again." : null;
  }
}
