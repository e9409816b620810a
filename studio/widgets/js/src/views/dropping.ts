import { h, setText, show } from "../dom";
import { pieces, unfit } from "../files";
import type { Store } from "../store";

const PART = 1024 * 1024;
const MOST = 256 * 1024 * 1024;

/** Drop an image or a clip on the picture: another take begins with it. */
export class DropView {
  readonly element: HTMLElement;
  /** For those who do not drag. */
  readonly button: HTMLButtonElement;
  private readonly text = h("p", { dir: "auto" });
  private readonly bar = h("progress", { class: "ls-progress", max: 1, "aria-label": "Sent" });
  private readonly input = h("input", { type: "file", accept: "image/*,video/*", hidden: true, "aria-label": "Image or clip to start from" });
  private busy = false;
  private inside = 0;

  constructor(private readonly store: Store, stage: HTMLElement) {
    this.element = h("div", { class: "ls-drop", role: "status", hidden: true }, this.text, this.bar);
    this.button = h("button", { type: "button", title: "A new take that begins with it; or drop a file on the picture", click: () => this.input.click() }, "Start from a file…");
    this.button.append(this.input);
    this.input.addEventListener("click", (event) => event.stopPropagation());
    this.input.addEventListener("change", () => {
      void this.begin(this.input.files?.[0]);
      this.input.value = "";
    });
    const files = (event: DragEvent) => event.dataTransfer?.types.includes("Files") === true && store.hello?.startable === true;
    stage.addEventListener("dragenter", (event) => {
      if (!files(event)) return;
      event.preventDefault();
      this.inside++;
      this.tell("Drop an image or a clip: a new take begins with it");
    });
    stage.addEventListener("dragover", (event) => files(event) && event.preventDefault());
    stage.addEventListener("dragleave", (event) => {
      if (files(event) && --this.inside <= 0) this.leave();
    });
    stage.addEventListener("drop", (event) => {
      if (!files(event)) return;
      event.preventDefault();
      event.stopPropagation();
      this.inside = 0;
      void this.begin(event.dataTransfer?.files[0]);
    });
  }

  update(): void {
    show(this.button, this.store.hello?.startable === true);
    this.button.disabled = this.busy;
  }

  private leave(): void {
    this.inside = 0;
    if (!this.busy) show(this.element, false);
  }

  private tell(text: string, share: number | null = null): void {
    setText(this.text, text);
    show(this.bar, share !== null);
    if (share !== null) this.bar.value = share;
    show(this.element, true);
  }

  private async begin(file: File | undefined): Promise<void> {
    const { store } = this;
    if (file === undefined || this.busy) return this.leave();
    const why = unfit(file, MOST);
    if (why !== null) {
      this.leave();
      return store.refuse(why);
    }
    this.busy = true;
    try {
      await this.send(file);
    } catch (error) {
      store.refuse(`“${file.name}” could not be read: ${error instanceof Error ? error.message : String(error)}`);
    } finally {
      this.busy = false;
      this.leave();
      this.update();
    }
  }

  private async send(file: File): Promise<void> {
    const { store } = this;
    const parts = pieces(file.size, PART);
    const prompt = store.promptInForce || null;
    for (const [i, [from, to]] of parts.entries()) {
      const last = i + 1 === parts.length;
      this.tell(last ? `encoding “${file.name}”` : `sending “${file.name}”`, to / file.size);
      const data = await file.slice(from, to).arrayBuffer();
      const reply = await store.command("upload", { name: file.name, part: i, parts: parts.length, prompt }, [data]);
      if (reply.error !== null) return;
    }
    store.play();
  }
}
