import { h, icon, put, setText, show } from "../dom";
import { clock } from "../grid";
import { branches, forkBlock, type Branch } from "../reach";
import type { Store } from "../store";
import type { Reply } from "../types";
import { Popover } from "./popover";

const POLICIES = ["recache", "keep", "clear"] as const;

/** The takes as a tree: which one is shown, from where each grew, and which one to compare with. */
export class TakesView {
  readonly popover: Popover;
  private readonly list = h("ul", { class: "ls-tree" });
  private drawn = "";
  private renaming: number | null = null;

  constructor(private readonly store: Store) {
    this.popover = new Popover("take 1", "Takes: runs that forked from one another", "Takes", () => this.update(true),
      h("div", { class: "ls-panelhead" }, h("b", {}, "Takes"), h("span", { class: "ls-muted" }, "each begins where it leaves the one above")),
      this.list,
    );
    this.popover.button.classList.add("ls-down");
  }

  update(fresh = false): void {
    const { store } = this;
    const current = store.takes.find((take) => take.number === store.film.take);
    setText(this.popover.button, current?.name ?? "take 1");
    show(this.popover.element, store.hello?.forkable === true);
    if (!this.popover.open || (this.renaming !== null && !fresh)) return;
    const all = branches(store.takes);
    // Takes grow all the while: a button that is about to be pressed must stay the same one.
    const key = JSON.stringify([store.takes.map((take) => ({ ...take, blocks: 0 })), store.film.take, store.rival?.info.number, this.renaming]);
    if (key === this.drawn && !fresh) return all.forEach((branch, i) => this.measure(this.list.children[i] as HTMLElement, branch));
    this.drawn = key;
    const focus = this.list.contains(document.activeElement) ? (document.activeElement as HTMLElement).dataset.key : undefined;
    this.list.replaceChildren(...all.map((branch) => this.row(branch)));
    if (focus !== undefined) this.list.querySelector<HTMLElement>(`[data-key="${focus}"]`)?.focus();
  }

  private row(branch: Branch): HTMLElement {
    const { store } = this;
    const { take, depth } = branch;
    const shown = take.number === store.film.take;
    const compared = store.rival?.info.number === take.number;
    const bar = h("span", { class: "ls-treebar", "aria-hidden": "true" }, h("i"));
    const choose = h(
      "button", {
        type: "button", class: "ls-treename", "aria-pressed": String(shown), "data-key": `choose${take.number}`,
        click: () => void this.choose(take.number),
      },
      h("span", { dir: "auto" }, take.name), h("span", { class: "ls-muted ls-num" }), bar,
    );
    choose.style.paddingLeft = `${10 + 14 * Math.min(depth, 6)}px`;
    const tools = [
      h("button", {
        type: "button", class: "ls-takebtn", "aria-pressed": String(compared), disabled: shown, "data-key": `ab${take.number}`,
        title: "Show it beside the current take, with a divider to drag", "aria-label": `Compare with ${take.name}`,
        click: () => store.compareTo(compared ? null : take.number),
      }, "A|B"),
      h("button", {
        type: "button", class: "ls-takebtn", "aria-label": `Rename ${take.name}`, title: "Rename", "data-key": `name${take.number}`,
        click: () => this.rename(take.number),
      }, icon("pen")),
      h("button", {
        type: "button", class: "ls-takebtn", "aria-label": `Remove ${take.name}`, title: "Remove", disabled: shown, "data-key": `drop${take.number}`,
        click: () => void this.ask("remove", take.number),
      }, icon("cross")),
    ];
    const row = h("li", {}, this.renaming === take.number ? this.nameBox(take.number, take.name) : choose, ...tools);
    this.measure(row, branch);
    return row;
  }

  /** How long a take is by now, beside the others. */
  private measure(row: HTMLElement, { take, from, to }: Branch): void {
    const choose = row.querySelector<HTMLElement>("button.ls-treename");
    const bar = row.querySelector<HTMLElement>(".ls-treebar > i");
    if (choose === null || bar === null) return;
    setText(choose.children[1] as Element, clock(this.store.grid.blockSeconds(take.blocks)));
    const origin = take.parent === null ? "" : `, from block ${take.forked_at}`;
    put(choose, "title", `${take.name}: ${take.blocks} blocks${origin}, seed ${take.seed}`);
    bar.style.left = `${from * 100}%`;
    bar.style.width = `${Math.max(1, (to - from) * 100)}%`;
  }

  private ask(what: string, take: number, name: string | null = null): Promise<Reply> {
    return this.store.command("take", { do: what, take, name, at: null });
  }

  private async choose(take: number): Promise<void> {
    if (take === this.store.film.take) return;
    await this.ask("choose", take);
  }

  private rename(take: number): void {
    this.renaming = take;
    this.update(true);
    const box = this.list.querySelector<HTMLInputElement>("input");
    box?.focus();
    box?.select();
  }

  private nameBox(take: number, name: string): HTMLElement {
    const box = h("input", { class: "ls-input ls-treename", type: "text", maxlength: 80, "aria-label": "Name of the take", dir: "auto", value: name });
    const end = (keep: boolean) => {
      if (this.renaming !== take) return;
      this.renaming = null;
      if (keep && box.value.trim() !== name) void this.ask("rename", take, box.value.trim()).then(() => this.update(true));
      this.update(true);
      this.list.querySelector<HTMLElement>(`[data-key="name${take}"]`)?.focus();
    };
    box.addEventListener("keydown", (event) => {
      if (event.isComposing || (event.key !== "Enter" && event.key !== "Escape")) return;
      event.preventDefault();
      event.stopPropagation();
      end(event.key === "Enter");
    });
    box.addEventListener("blur", () => end(true));
    return box;
  }
}

/** Goes on from a block of the past under another prompt, policy or seed. */
export class ForkView {
  readonly popover: Popover;
  private readonly prompt = h("input", { class: "ls-input", type: "text", dir: "auto", "aria-label": "Prompt from there on", spellcheck: "false" });
  private readonly policy = h("select", { "aria-label": "What happens to the memory of the old prompt" }, ...POLICIES.map((name) => h("option", { value: name }, name)));
  private readonly seed = h("input", { class: "ls-input ls-num", type: "text", inputmode: "numeric", size: 6, "aria-label": "Seed from there on" });
  private readonly name = h("input", { class: "ls-input", type: "text", maxlength: 80, placeholder: "named by number", "aria-label": "Name of the new take", dir: "auto" });
  private readonly where = h("span", { class: "ls-muted ls-num" });
  private readonly said = h("p", { class: "ls-warn", role: "status", hidden: true });
  private readonly go = h("button", { type: "button", class: "ls-primary" }, "Fork here");
  private at = 0;
  private before = { prompt: "", seed: "" };

  constructor(private readonly store: Store) {
    const row = (text: string, ...inputs: HTMLElement[]) => h("label", { class: "ls-formrow" }, h("span", { class: "ls-muted" }, text), ...inputs);
    this.popover = new Popover("Fork", "Go on from here in a new take; this one stays", "Fork", () => this.open(),
      h("div", { class: "ls-panelhead" }, h("b", {}, "Fork"), this.where),
      row("prompt", this.prompt),
      h("div", { class: "ls-formpair" }, row("memory", this.policy), row("seed", this.seed)),
      row("name", this.name),
      this.said,
      h("div", { class: "ls-row" }, this.go),
    );
    this.go.addEventListener("click", () => void this.fork());
    this.popover.panel.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.isComposing || event.target === this.go) return;
      event.preventDefault();
      void this.fork();
    });
  }

  update(): void {
    show(this.popover.element, this.store.hello?.forkable === true);
    this.popover.button.disabled = this.store.film.end === 0;
  }

  private open(): void {
    const { store } = this;
    if (store.playback.running && store.playback.atEdge === false) store.pause();
    this.at = forkBlock(store.grid, store.playhead, store.film.end);
    this.before = { prompt: store.segmentAt(this.at)?.prompt ?? "", seed: String(store.stats?.seed ?? "") };
    this.prompt.value = this.before.prompt;
    this.seed.value = this.before.seed;
    this.name.value = "";
    show(this.said, false);
    setText(this.where, `from ${clock(store.grid.blockSeconds(this.at))} (block ${this.at})`);
  }

  private async fork(): Promise<void> {
    const { store } = this;
    const seed = this.seed.value.trim();
    if (!/^\d{1,16}$/.test(seed) || !Number.isSafeInteger(Number(seed))) return this.refuse(`the seed must be a whole number from 0 up, got “${seed.slice(0, 20)}”`);
    const prompt = this.prompt.value.trim();
    const changed = prompt !== this.before.prompt;
    // Block 0 begins a video: there is no memory yet that a policy could change.
    const policed = this.at > 0 && (changed || this.policy.value !== POLICIES[0]);
    const reply = await store.command("fork", {
      at: this.at,
      prompt: changed ? prompt : null,
      policy: policed ? this.policy.value : null,
      seed: seed === this.before.seed ? null : Number(seed),
      name: this.name.value.trim(),
    });
    if (reply.error !== null) return this.refuse(reply.error);
    this.popover.close(true);
    store.play();
  }

  private refuse(why: string): void {
    setText(this.said, why);
    show(this.said, true);
  }
}
