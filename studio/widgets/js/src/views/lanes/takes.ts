import { h, show } from "../../dom";
import type { Desk } from "../../editor/desk";
import { clock } from "../../grid";
import { branches, type Branch } from "../../reach";
import type { Take } from "../../types";
import type { Scene } from "./lane";

export const TAKE_HEIGHT = 28;

/** The tree of takes along the time axis: switched between, named, let go of. */
export class TakesLane {
  readonly element: HTMLElement;
  private readonly rows = h("div", { class: "ls-takes", role: "tree", "aria-label": "Takes" });
  private readonly input = h("input", { class: "ls-input ls-takeinput", type: "text", maxlength: 80, "aria-label": "Name of this take; Enter applies it" });
  private naming: number | null = null;
  private drawn = "";
  private laid = "";
  private all: Branch[] = [];

  constructor(private readonly desk: Desk) {
    this.element = h("div", { class: "ls-takebox" }, this.rows);
    this.input.addEventListener("keydown", (event) => this.onInputKey(event));
    this.input.addEventListener("blur", () => this.stopNaming(false));
    this.rows.addEventListener("keydown", (event) => this.onKey(event));
  }

  draw({ scale }: Scene): void {
    const { store } = this.desk;
    const key = JSON.stringify([store.takes.map((take) => [take.number, take.name, take.parent, take.forked_at, take.current, take.seed])]);
    if (key !== this.drawn && this.naming === null) {
      this.drawn = key;
      this.laid = "";
      this.rebuild();
    }
    const made = store.takes.map((take) => this.blocks(take)).join();
    const laid = `${scale.axis.from} ${scale.axis.seconds} ${scale.width} ${made} ${this.drawn}`;
    if (laid === this.laid) return;
    this.laid = laid;
    this.all.forEach(({ take }, row) => {
      const parent = this.all.findIndex((branch) => branch.take.number === take.parent);
      const bar = this.rows.children[row]?.querySelector<HTMLElement>(".ls-takebar");
      if (!bar) return;
      const [left, right] = [scale.blockX(take.forked_at), scale.blockX(this.blocks(take))];
      const from = Math.max(-8, Math.min(left, scale.width));
      bar.style.left = `${from.toFixed(1)}px`;
      bar.style.width = `${Math.max(3, Math.min(right, scale.width + 8) - from).toFixed(1)}px`;
      bar.style.setProperty("--ls-up", String(parent < 0 || left < 0 ? 0 : row - parent));
    });
  }

  private blocks(take: Take): number {
    return take.current ? Math.max(take.blocks, this.desk.made) : take.blocks;
  }

  private rebuild(): void {
    const { desk } = this;
    this.all = branches(desk.store.takes);
    const focused = (document.activeElement as HTMLElement | null)?.closest<HTMLElement>(".ls-takerow")?.dataset.take;
    this.rows.replaceChildren(...this.all.map((branch) => this.row(branch)));
    this.rows.style.setProperty("--ls-rows", String(Math.max(1, Math.min(3, this.all.length))));
    const again = [...this.rows.querySelectorAll<HTMLElement>(".ls-takerow")].find((row) => row.dataset.take === focused);
    again?.querySelector<HTMLElement>("button")?.focus({ preventScroll: true });
    show(this.element, this.all.length > 0);
    const row = this.rows.querySelector<HTMLElement>('[aria-selected="true"]');
    if (row !== null) this.rows.scrollTop = Math.max(0, row.offsetTop - TAKE_HEIGHT);
  }

  private row({ take, depth }: Branch): HTMLElement {
    const { grid } = this.desk.store;
    const origin = take.parent === null ? "" : `, from block ${take.forked_at} (${clock(grid.blockSeconds(take.forked_at))}) of its parent`;
    const label = `${take.name}${take.current ? ", shown now" : ""}${origin}, seed ${take.seed}. Enter shows it, F2 names it, Delete removes it.`;
    const name = h("button", { type: "button", class: "ls-takename", "aria-label": label, title: label, tabindex: take.current ? 0 : -1 }, h("span", { dir: "auto" }, take.name));
    name.style.setProperty("--ls-depth", String(Math.min(depth, 3)));
    name.addEventListener("click", () => this.choose(take));
    name.addEventListener("dblclick", () => this.name(take));
    const bar = h("i", { class: "ls-takebar", "aria-hidden": "true" });
    return h(
      "div", { class: "ls-takerow ls-track", role: "treeitem", "aria-level": depth + 1, "aria-selected": String(take.current), "data-take": take.number },
      name, h("div", { class: "ls-takeaxis" }, bar),
    );
  }

  private choose(take: Take): void {
    if (!take.current) void this.desk.store.link.ask("take", { do: "choose", take: take.number }).then(({ error }) => error !== null && this.desk.say(error));
  }

  private takeOf(event: Event): Take | undefined {
    const number = Number((event.target as HTMLElement).closest<HTMLElement>(".ls-takerow")?.dataset.take ?? -1);
    return this.desk.store.takes.find((take) => take.number === number);
  }

  private onKey(event: KeyboardEvent): void {
    const take = this.takeOf(event);
    if (take === undefined || event.target === this.input || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "ArrowUp" || event.key === "ArrowDown") this.step(take, event.key === "ArrowUp" ? -1 : 1);
    else if (event.key === "F2") this.name(take);
    else if (event.key === "Delete" || event.key === "Backspace") this.remove(take);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  private step(take: Take, by: number): void {
    const row = this.all.findIndex((branch) => branch.take.number === take.number) + by;
    this.rows.children[row]?.querySelector<HTMLElement>("button")?.focus();
  }

  private remove(take: Take): void {
    if (take.current) return this.desk.say("this take is shown; show another one first");
    void this.desk.store.link.ask("take", { do: "remove", take: take.number }).then(({ error }) => error !== null && this.desk.say(error));
  }

  private name(take: Take): void {
    const row = [...this.rows.children].find((child) => (child as HTMLElement).dataset.take === String(take.number));
    if (row === undefined) return;
    this.naming = take.number;
    this.input.value = take.name;
    row.querySelector("button")?.replaceWith(this.input);
    this.input.focus();
    this.input.select();
  }

  private onInputKey(event: KeyboardEvent): void {
    if (event.isComposing) return;
    if (event.key !== "Enter" && event.key !== "Escape") return;
    event.preventDefault();
    event.stopPropagation();
    this.stopNaming(event.key === "Enter");
  }

  private stopNaming(apply: boolean): void {
    const take = this.desk.store.takes.find((candidate) => candidate.number === this.naming);
    if (this.naming === null) return;
    this.naming = null;
    this.drawn = "";
    const name = this.input.value.trim();
    if (apply && take !== undefined && name !== "" && name !== take.name) {
      void this.desk.store.link.ask("take", { do: "rename", take: take.number, name }).then(({ error }) => error !== null && this.desk.say(error));
    }
    this.desk.redraw();
    queueMicrotask(() => {
      const row = [...this.rows.children].find((child) => (child as HTMLElement).dataset.take === String(take?.number));
      row?.querySelector<HTMLElement>("button")?.focus();
    });
  }
}
