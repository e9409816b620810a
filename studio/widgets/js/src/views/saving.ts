import { h, setText, show } from "../dom";
import { clock } from "../grid";
import type { Store } from "../store";
import { fileName, FORMATS, partOf, withEnding } from "../files";
import { Popover } from "./popover";

/** Writes what was made to a file: which part, in what format, how far it is. */
export class SaveView {
  readonly popover: Popover;
  private readonly format = h("select", { "aria-label": "Format" }, ...FORMATS.map(([ending, label]) => h("option", { value: ending }, label)));
  private readonly part = h("select", { "aria-label": "Which part" }, h("option", { value: "all" }, "all of it"), h("option", { value: "range" }, "the loop"));
  private readonly name = h("input", { class: "ls-input", type: "text", dir: "auto", spellcheck: "false", "aria-label": "Name of the file, in the folder of the kernel" });
  private readonly force = h("input", { type: "checkbox" });
  private readonly over = h("label", { class: "ls-check" }, this.force, "replace a file of this name");
  private readonly bar = h("progress", { class: "ls-progress", max: 1, "aria-label": "Frames written" });
  private readonly told = h("p", { class: "ls-num", role: "status", dir: "auto" });
  private readonly go = h("button", { type: "button", class: "ls-primary" }, "Export");
  private readonly stop = h("button", { type: "button" }, "Cancel");
  private named = false;

  constructor(private readonly store: Store) {
    const row = (text: string, input: HTMLElement) => h("label", { class: "ls-formrow" }, h("span", { class: "ls-muted" }, text), input);
    this.popover = new Popover("Export", "Write the video to a file, with its log and timeline; playing goes on", "Export", () => this.open(),
      h("div", { class: "ls-panelhead" }, h("b", {}, "Export"), h("span", { class: "ls-muted" }, "log and timeline go with it")),
      row("format", this.format), row("part", this.part), row("file", this.name), this.over, this.bar, this.told,
      h("div", { class: "ls-row" }, this.stop, this.go),
    );
    this.name.addEventListener("input", () => (this.named = true));
    this.format.addEventListener("change", () => (this.name.value = withEnding(this.name.value, this.format.value)));
    this.part.addEventListener("change", () => this.update());
    this.go.addEventListener("click", () => void this.begin());
    this.stop.addEventListener("click", () => void store.command("unsave"));
  }

  update(): void {
    const { store } = this;
    const { saving } = store;
    show(this.popover.element, store.hello?.exportable === true);
    const running = saving?.state === "running";
    setText(this.popover.button, running && saving.total > 0 ? `Export ${Math.floor((100 * saving.done) / saving.total)} %` : "Export");
    if (!this.popover.open) return;
    show(this.stop, running);
    this.go.disabled = running || store.film.end === 0;
    show(this.bar, running);
    if (saving !== null && running) this.bar.value = saving.total > 0 ? saving.done / saving.total : 0;
    const told = saving === null ? this.extent() : {
      running: `${saving.done} of ${saving.total} frames`,
      done: `written: ${saving.path}`,
      cancelled: "cancelled; nothing was written",
      failed: saving.error ?? "it failed",
    }[saving.state];
    setText(this.told, this.refused ?? told);
    this.told.classList.toggle("ls-warn", this.refused !== null || saving?.state === "failed");
  }

  private refused: string | null = null;

  private open(): void {
    const { store } = this;
    this.refused = null;
    const range = store.playback.range !== null;
    (this.part.options[1] as HTMLOptionElement).disabled = !range;
    this.part.value = range ? "range" : "all";
    if (!this.named) this.name.value = withEnding(fileName(store.promptInForce), this.format.value);
    this.update();
  }

  private extent(): string {
    const { store } = this;
    const [from, to] = partOf(this.part.value, store.playback.range, store.film.end);
    return `${to - from} frames, ${clock(store.grid.seconds(to - from))}`;
  }

  private async begin(): Promise<void> {
    const { store } = this;
    const [start, stop] = partOf(this.part.value, store.playback.range, store.film.end);
    const format = this.format.value;
    const fields = { path: this.name.value.trim(), format: format === "png" ? "png" : null, start, stop, force: this.force.checked };
    this.refused = null;
    const reply = await store.command("save", fields);
    this.refused = reply.error;
    if (reply.error === null) this.force.checked = false;
    store.refusal = null;
    this.update();
  }
}
