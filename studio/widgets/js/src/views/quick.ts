import { h, icon, setText, show } from "../dom";
import type { Store } from "../store";
import type { Quick } from "../types";

const MOST = 9;
const NAME_WORDS = 2;

/** Named prompts that a key or a press switches to at once; and the form in which they are written. */
export class QuickView {
  readonly element: HTMLElement;
  private readonly chips = h("div", { class: "ls-chips", role: "group", "aria-label": "Quick prompts: keys 1 to 9" });
  private readonly form: HTMLElement;
  private readonly rows = h("div", { class: "ls-quickrows" });
  private readonly told = h("span", { class: "ls-warn", role: "status" });
  private readonly pen = h("button", { type: "button", class: "ls-chip", "aria-label": "Edit the quick prompts", title: "Edit the quick prompts" }, icon("edit"));
  private drawn: Quick[] | null = null;

  constructor(private readonly store: Store, private readonly current: () => { prompt: string; switchTo: (prompt: string) => void }) {
    const add = h("button", { type: "button", click: () => this.addRow({ name: "", prompt: "" }, true) }, icon("add"), "Add");
    const apply = h("button", { type: "button", class: "ls-primary", click: () => void this.apply() }, "Apply");
    const cancel = h("button", { type: "button", click: () => this.close() }, "Cancel");
    this.form = h(
      "div", { class: "ls-quickform", role: "dialog", "aria-label": "Quick prompts", hidden: true },
      h("p", {}, "Keys 1 to 9 switch to these prompts at once."), this.rows, h("div", { class: "ls-editrow" }, add, this.told, h("span", { class: "ls-grow" }), cancel, apply),
    );
    this.form.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Escape") this.close();
      else if (event.key === "Enter" && event.target instanceof HTMLInputElement) void this.apply();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    this.pen.addEventListener("click", () => (this.form.hidden ? this.open() : this.close()));
    this.element = h("div", { class: "ls-quick" }, this.chips, this.pen, this.form);
  }

  update(): void {
    const { quick } = this.store;
    if (quick === this.drawn) return;
    this.drawn = quick;
    this.chips.replaceChildren(
      ...quick.map(({ name, prompt }, i) =>
        h("button", { type: "button", class: "ls-chip", title: `${prompt} (${i + 1})`, "aria-label": `Switch to ${name}: ${prompt}. Key ${i + 1}.`, click: () => this.choose(i + 1) }, h("kbd", {}, String(i + 1)), h("span", { dir: "auto" }, name)),
      ),
      ...(quick.length < MOST
        ? [h("button", { type: "button", class: "ls-chip", title: "Keep the prompt in the box as a quick prompt", "aria-label": "Keep the prompt in the box as a quick prompt", click: () => this.keep() }, icon("add"), quick.length === 0 ? "keep as a quick prompt" : null)]
        : []),
    );
  }

  /** Switch to the prompt of a key; returns whether there is one. */
  choose(key: number): boolean {
    const quick = this.store.quick[key - 1];
    if (quick === undefined) return false;
    this.current().switchTo(quick.prompt);
    return true;
  }

  private keep(): void {
    const { prompt } = this.current();
    const text = prompt.trim();
    if (text === "") return;
    if (this.store.quick.some((quick) => quick.prompt === text)) return this.open();
    void this.send([...this.store.quick, { name: this.nameFor(text), prompt: text }]);
  }

  /** The last words of a prompt, which tell most, made unlike the names that there are. */
  private nameFor(prompt: string): string {
    const base = prompt.split(/\s+/).slice(-NAME_WORDS).join(" ").slice(0, 32) || "prompt";
    let name = base;
    for (let i = 2; this.store.quick.some((quick) => quick.name === name); i++) name = `${base} ${i}`;
    return name;
  }

  private async send(prompts: Quick[]): Promise<boolean> {
    const reply = await this.store.link.ask("quick", { prompts });
    setText(this.told, reply.error ?? "");
    return reply.error === null;
  }

  private open(): void {
    this.rows.replaceChildren();
    for (const quick of this.store.quick) this.addRow(quick, false);
    if (this.store.quick.length === 0) this.addRow({ name: "", prompt: "" }, false);
    setText(this.told, "");
    show(this.form, true);
    this.rows.querySelector("input")?.focus();
  }

  private close(): void {
    show(this.form, false);
    this.pen.focus();
  }

  private addRow(quick: Quick, focus: boolean): void {
    if (this.rows.childElementCount >= MOST) {
      setText(this.told, `there are ${MOST} keys`);
      return;
    }
    const name = h("input", { class: "ls-input", type: "text", maxlength: 40, placeholder: "name", "aria-label": "Name", dir: "auto" });
    const prompt = h("input", { class: "ls-input", type: "text", placeholder: "what to see", "aria-label": "Prompt", dir: "auto" });
    [name.value, prompt.value] = [quick.name, quick.prompt];
    const row = h("div", { class: "ls-quickrow" }, name, prompt);
    row.append(h("button", { type: "button", "aria-label": "Remove this one", title: "Remove this one", click: () => this.dropRow(row) }, icon("less")));
    this.rows.append(row);
    if (focus) name.focus();
  }

  private dropRow(row: HTMLElement): void {
    row.remove();
    (this.rows.querySelector("input") ?? this.pen).focus();
  }

  private async apply(): Promise<void> {
    const prompts = [...this.rows.children].map((row) => {
      const [name, prompt] = row.querySelectorAll("input");
      return { name: name?.value.trim() ?? "", prompt: prompt?.value.trim() ?? "" };
    });
    const filled = prompts.filter(({ name, prompt }) => name !== "" || prompt !== "");
    if (await this.send(filled)) this.close();
  }
}
