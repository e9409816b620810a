import { h, icon, setText, show } from "../dom";
import { clock } from "../grid";
import type { Store } from "../store";
import type { Transition, UnknownWord } from "../types";
import { cut, fromCodePoints, replaceWord } from "../words";
import { QuickView } from "./quick";

const LOOK_UP_MS = 200;
const NOTE_MS = 6000;
const SHOWN_WORDS = 4;

const POLICIES: readonly [string, string][] = [
  ["recache", "re-reads what was shown under the new prompt: changes soon, without a cut"],
  ["keep", "leaves the memory as it is: the old prompt can linger for a while"],
  ["clear", "forgets what was shown: changes soon, with a cut"],
];

/** The box for the next prompt: says before Enter when it will take effect, and which words are not known. */
export class ComposerView {
  readonly element: HTMLElement;
  readonly box = h("textarea", {
    class: "ls-input", rows: 1, spellcheck: "false", "aria-label": "Next prompt; Enter switches to it", dir: "auto",
    placeholder: "what should happen next", autocomplete: "off",
  });
  private readonly mirror = h("div", { class: "ls-mirror", "aria-hidden": "true", dir: "auto" });
  private readonly policy = h(
    "select", { "aria-label": "What happens to the memory of the old prompt" },
    ...POLICIES.map(([name, meaning]) => h("option", { value: name, title: meaning }, name)),
  );
  private readonly over = h(
    "select", { class: "ls-overblocks", "aria-label": "How soon the new prompt takes over", title: "How soon the new prompt takes over" },
    h("option", { value: "0" }, "at once"), ...[2, 4, 8].map((blocks) => h("option", { value: blocks }, `over ${blocks} blocks`)),
  );
  readonly quick: QuickView;
  private readonly button = h("button", { class: "ls-primary", type: "button" }, "Switch", icon("enter"));
  private readonly effect = h("span", { class: "ls-num" });
  private readonly advice = h("span", { class: "ls-warn", role: "status" });
  private readonly meaning = h("span", { class: "ls-muted ls-meaning" });
  private unknown: UnknownWord[] = [];
  private touched = false;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private note: { text: string; until: number } | null = null;
  private said = "";

  constructor(private readonly store: Store) {
    this.box.addEventListener("input", () => this.onInput());
    this.box.addEventListener("keydown", (event) => this.onKey(event));
    this.box.addEventListener("scroll", () => (this.mirror.scrollTop = this.box.scrollTop));
    this.policy.addEventListener("change", () => this.update());
    this.button.addEventListener("click", () => void this.apply());
    this.quick = new QuickView(store, () => ({
      prompt: this.box.value,
      switchTo: (prompt) => void this.apply(prompt),
    }));
    this.element = h(
      "section", { class: "ls-card ls-compose", "aria-label": "Prompt" },
      h("div", { class: "ls-box" }, h("div", { class: "ls-prompt" }, this.mirror, this.box), this.policy, this.over, this.button),
      h("div", { class: "ls-hint" }, this.effect, this.advice, this.meaning),
      this.quick.element,
    );
    new ResizeObserver(() => this.fit()).observe(this.element);
  }

  update(): void {
    const { store } = this;
    if (!this.touched && document.activeElement !== this.box && this.box.value !== store.lastPrompt) {
      this.box.value = store.lastPrompt;
      this.fit();
      this.lookUp();
    }
    this.showEffect();
    this.showAdvice();
    this.quick.update();
    setText(this.meaning, `${this.policy.value} ${POLICIES.find(([name]) => name === this.policy.value)?.[1] ?? ""}`);
    this.button.disabled = this.box.value.trim() === "" || store.settled || store.link.contact === "restarted";
  }

  focus(): void {
    this.box.focus();
    this.box.select();
  }

  /** Put a prompt into the box, to be looked at and switched to. */
  offerPrompt(prompt: string): void {
    this.setText(prompt);
    this.focus();
  }

  private showEffect(): void {
    const { store, note } = this;
    if (note !== null && performance.now() < note.until) {
      setText(this.effect, note.text);
    } else if (store.hello === null || store.link.contact === "restarted") {
      setText(this.effect, "");
    } else if (store.settled) {
      setText(this.effect, "the video is complete: start again to steer it, or add a prompt to the timeline");
    } else {
      const block = store.nextBlock;
      setText(this.effect, `takes effect at ${clock(store.grid.blockSeconds(block))} (block ${block})`);
    }
  }

  private showAdvice(): void {
    const { store } = this;
    const said = store.refusal ?? this.unknown.map((word) => `${word.word} ${word.nearest} ${word.start}`).join();
    // One stands in the place of the other, so that nothing moves while typing.
    show(this.advice, said !== "");
    show(this.meaning, said === "");
    if (said === this.said) return;
    this.said = said;
    if (store.refusal !== null) {
      this.advice.replaceChildren(store.refusal);
      return;
    }
    this.advice.replaceChildren(...this.advise(`the ${store.hello?.name ?? "model"}’s world`));
  }

  /** Name the unknown words, those first for which there is another to offer. */
  private advise(world: string): (string | Node)[] {
    const words = [...this.unknown].sort((a, b) => Number(a.nearest === null) - Number(b.nearest === null) || a.start - b.start);
    const [first] = words;
    if (first === undefined) return [];
    if (words.length === 1) {
      return [`“${first.word}” is not in ${world}`, ...(first.nearest === null ? [] : ["; nearest: ", this.offer(first)])];
    }
    const named = words.slice(0, SHOWN_WORDS).flatMap((word, i) => [
      i > 0 ? " · " : "", `“${word.word}”`, ...(word.nearest === null ? [] : [" → ", this.offer(word)]),
    ]);
    const rest = words.length - SHOWN_WORDS;
    return [`not in ${world}: `, ...named, rest > 0 ? ` and ${rest} more` : ""];
  }

  private offer(word: UnknownWord): HTMLElement {
    const take = () => {
      const text = replaceWord(this.box.value, word, word.nearest ?? word.word);
      if (text !== null) this.setText(text);
      this.box.focus();
    };
    return h("button", { type: "button", class: "ls-link", click: take, title: `Write “${word.nearest}” instead` }, word.nearest);
  }

  private setText(text: string): void {
    this.box.value = text;
    this.onInput();
  }

  private onInput(): void {
    this.touched = true;
    this.note = null;
    this.store.refusal = null;
    this.unknown = [];
    this.fit();
    this.update();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.lookUp(), LOOK_UP_MS);
  }

  private lookUp(): void {
    const text = this.box.value;
    if (text.trim() === "") return;
    this.store.unknownWords(text, (unknown) => {
      if (this.box.value !== text) return;
      this.unknown = fromCodePoints(text, unknown);
      this.paint();
      this.update();
    });
  }

  private onKey(event: KeyboardEvent): void {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      void this.apply();
    } else if (event.key === "Escape") {
      event.preventDefault();
      this.touched = false;
      this.unknown = [];
      this.store.refusal = null;
      this.box.value = this.store.lastPrompt;
      this.fit();
      this.lookUp();
      this.box.blur();
      this.element.closest<HTMLElement>(".ls-studio")?.focus();
    }
  }

  private async apply(quick: string | null = null): Promise<void> {
    const prompt = quick ?? this.box.value.trim();
    if (prompt === "" || (quick === null && this.button.disabled)) return;
    const blocks = Number(this.over.value);
    const transition: Transition | null = blocks > 0 ? { blocks, kind: "linear" } : null;
    const reply = await this.store.switchTo(prompt, this.policy.value, transition);
    if (reply.error !== null) return;
    // A text that is being written stays where another prompt was switched to meanwhile.
    if (quick === null) this.touched = false;
    if (reply.effective_block !== undefined) {
      const seconds = clock(this.store.grid.blockSeconds(reply.effective_block));
      this.note = { text: `switching at ${seconds} (block ${reply.effective_block})`, until: performance.now() + NOTE_MS };
    }
    this.update();
  }

  /** As high as its text, up to a few lines. */
  private fit(): void {
    this.box.style.height = "auto";
    this.box.style.height = `${Math.min(this.box.scrollHeight + 2, 116)}px`;
    this.paint();
  }

  /** Underline the unknown words by a copy of the text behind the box. */
  private paint(): void {
    this.mirror.replaceChildren(
      ...cut(this.box.value, this.unknown).map((piece) => (piece.word === null ? piece.text : h("u", {}, piece.text))),
    );
  }
}
