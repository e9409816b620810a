import { h, icon, put, setText } from "../dom";
import type { Desk } from "../editor/desk";

type Name = Parameters<typeof icon>[0];

const FORMATS: readonly [string, string][] = [
  ["json", "the studio’s JSON"], ["longlive", "LongLive’s JSON lines"], ["scope", "Scope’s JSON"], ["txt", "plain text, a prompt a line"],
];
const NAMES: Record<string, string> = {
  put: "a prompt", paste: "an insertion", insert: "an insertion", remove: "a removal", split: "a split", duplicate: "a copy", reorder: "another order",
  slide: "a move", resize: "another length", change: "a change", mark: "a marker", unmark: "a marker", "move mark": "a marker", length: "another end",
  seed: "another seed", replace: "another timeline", batch: "an edit", fork: "the fork",
};

/** The buttons of the timeline: each has a key as well. */
export class Tools {
  readonly element: HTMLElement;
  private readonly undo = this.button("undo", "Undo (Ctrl Z)", () => this.desk.undo());
  private readonly redo = this.button("redo", "Do it again (Shift Ctrl Z)", () => this.desk.redo());
  private readonly chosen: HTMLButtonElement[];
  private readonly edits: HTMLButtonElement[];
  private readonly ripple = this.button("ripple", "An edge moves all that follows (R)", () => this.desk.toggleRipple());
  private readonly magnet = this.button("magnet", "Edges catch on markers, the playhead and what was generated (N)", () => this.desk.toggleSnap());
  private readonly seen = h("span", { class: "ls-seen-s ls-num ls-muted", title: "Seconds shown" });
  private readonly fit = this.button("whole", "Show all of it (0)", () => this.desk.fit());
  private readonly files = h("select", { class: "ls-files", "aria-label": "Open or save the timeline as a file", title: "Open or save the timeline as a file" });
  private readonly picker = h("input", { type: "file", accept: ".json,.jsonl,.txt", hidden: true, tabindex: -1, "aria-hidden": "true" });

  constructor(private readonly desk: Desk) {
    const split = this.button("split", "Split at the playhead (S)", () => desk.split());
    const double = this.button("double", "Duplicate (D)", () => desk.duplicate());
    const bin = this.button("bin", "Remove (Delete)", () => void desk.remove());
    const flag = this.button("flag", "Marker at the playhead (M)", () => desk.mark());
    this.chosen = [double, bin];
    this.edits = [split, flag];
    this.files.append(
      h("option", { value: "" }, "file"), h("option", { value: "open" }, "open …"),
      ...FORMATS.map(([format, name]) => h("option", { value: format }, `save as ${name}`)),
    );
    this.files.addEventListener("change", () => this.onFile());
    this.picker.addEventListener("change", () => void this.onPicked());
    this.element = h(
      "div", { class: "ls-tools", role: "toolbar", "aria-label": "Timeline" },
      group(this.undo, this.redo), group(split, double, bin, flag), group(this.ripple, this.magnet),
      h("span", { class: "ls-grow" }), this.files, this.picker,
      group(this.button("less", "Zoom out (−)", () => desk.zoom(1.5)), this.seen, this.button("add", "Zoom in (+)", () => desk.zoom(1 / 1.5)), this.fit),
    );
  }

  update(): void {
    const { desk } = this;
    const { history } = desk.store.timeline;
    const able = desk.editable;
    name(this.undo, history?.undo === "fork" ? "Undo the fork: back to the take it came from (Ctrl Z)" : history?.undo ? `Undo ${NAMES[history.undo] ?? history.undo} (Ctrl Z)` : "Nothing to undo (Ctrl Z)");
    name(this.redo, history?.redo ? `Do again: ${NAMES[history.redo] ?? history.redo} (Shift Ctrl Z)` : "Nothing to do again (Shift Ctrl Z)");
    enable(this.undo, able && Boolean(history?.undo));
    enable(this.redo, able && Boolean(history?.redo));
    for (const button of this.chosen) enable(button, able && desk.chosen.length > 0);
    for (const button of this.edits) enable(button, able);
    put(this.ripple, "aria-pressed", String(desk.ripple));
    put(this.magnet, "aria-pressed", String(desk.snap));
    put(this.fit, "aria-pressed", String(desk.fits));
    const { seconds } = desk.axis;
    setText(this.seen, seconds < 9.95 ? `${seconds.toFixed(1)} s` : seconds < 99.5 ? `${seconds.toFixed(0)} s` : `${(seconds / 60).toFixed(1)} min`);
  }

  private button(shape: Name, label: string, action: () => void): HTMLButtonElement {
    const button = h("button", { type: "button", class: "ls-tool", "aria-label": label, title: label }, icon(shape));
    button.addEventListener("click", () => button.getAttribute("aria-disabled") !== "true" && action());
    return button;
  }

  private onFile(): void {
    const what = this.files.value;
    this.files.value = "";
    if (what === "open") this.picker.click();
    else if (what !== "") void this.save(what);
  }

  private async onPicked(): Promise<void> {
    const file = this.picker.files?.[0];
    this.picker.value = "";
    if (file !== undefined) await this.desk.open(file.name, await file.text());
  }

  private async save(format: string): Promise<void> {
    const written = await this.desk.written(format);
    if (written === null) return;
    const address = URL.createObjectURL(new Blob([written.text], { type: "text/plain" }));
    h("a", { href: address, download: written.name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }
}

function group(...inside: HTMLElement[]): HTMLElement {
  return h("div", { class: "ls-toolgroup" }, ...inside);
}

/** Buttons keep the focus while they have nothing to do: a key pressed next would else reach nobody. */
function enable(button: HTMLButtonElement, on: boolean): void {
  put(button, "aria-disabled", String(!on));
}

function name(button: HTMLButtonElement, label: string): void {
  if (button.getAttribute("aria-label") === label) return;
  button.setAttribute("aria-label", label);
  button.title = label;
}
