import type { Store } from "../store";
import type { Operation, Reply, Timeline } from "../types";
import { LONGEST, eased, extent, fitted, following, panned, sees, showing, within, zoomed, type Axis } from "./axis";
import { copied } from "./clip";
import { mark, resize, shift, split, swap, type Edit } from "./edits";
import { endOf, places, preview, type Edge } from "./line";
import { NOTHING, carried, pick, pickAll, step, type Pick, type Selection } from "./selection";

const TOLD_MS = 6000;
const ZOOM = 1.5;
const UNCHOSEN = "choose a prompt first: click it, or press the down arrow";

/** What the last copy or cut took, for pages whose clipboard cannot be read. */
let clipboard = "";

/** The editor's state and what it can do, apart from how it is drawn. */
export class Desk {
  axis: Axis = { from: 0, seconds: 20 };
  selection: Selection = NOTHING;
  /** What a drag or an open form shows before it is sent. */
  draft: Timeline | null = null;
  /** Where edits happen, beyond what was generated; null where they happen at the playhead. */
  cursor: number | null = null;
  /** Where the chosen segments stand in the draft, where it has another order. */
  moved: readonly number[] | null = null;
  /** Whether what follows an edge moves along. */
  ripple = false;
  snap = true;
  /** The segment whose form is open; -1 for a new one. */
  editing: number | null = null;
  /** The block that is pointed at. */
  pointed: number | null = null;
  /** Whether an edit of this view waits for its answer. */
  asking = false;
  /** Whether the pointer has hold of something: the axis stands still under it. */
  private held = false;
  private follows = true;
  private whole = true;
  private grownAt = 0;
  private greeted: unknown = null;
  private readonly calm = typeof matchMedia === "function" && matchMedia("(prefers-reduced-motion: reduce)").matches;
  private seen: Timeline;
  /** The edit under way, and a number that is raised where one was refused. */
  private waiting: Promise<Reply | null> = Promise.resolve(null);
  private round = 0;
  private note: { text: string; until: number } | null = null;

  constructor(readonly store: Store, private readonly changed: () => void) {
    this.seen = store.timeline;
  }

  // What there is

  /** The timeline as it is shown. */
  get line(): Timeline {
    return this.draft ?? this.store.timeline;
  }

  /** Blocks that were generated. */
  get made(): number {
    return this.store.made;
  }

  /** Seconds that there are to look at. */
  get extent(): number {
    const { grid, timeline } = this.store;
    const whole = (line: Timeline) => extent(line, grid, grid.blockSeconds(this.made));
    // What is held may be made shorter: the axis keeps its room until it is let go of.
    return this.held ? Math.max(whole(this.line), whole(timeline)) : whole(this.line);
  }

  /** The block at which edits happen. */
  get at(): number {
    const { grid, playhead } = this.store;
    return this.cursor ?? grid.nearestBlock(grid.seconds(playhead));
  }

  get editable(): boolean {
    return this.store.hello?.editable === true && this.store.link.contact !== "restarted";
  }

  get fits(): boolean {
    return this.whole;
  }

  /** What is said to the user at the moment. */
  get told(): string | null {
    return this.note !== null && performance.now() < this.note.until ? this.note.text : null;
  }

  say(text: string): void {
    this.note = { text, until: performance.now() + TOLD_MS };
    this.changed();
  }

  /** Take in what has changed elsewhere. */
  update(): void {
    const { timeline } = this.store;
    if (timeline !== this.seen) {
      this.selection = carried(this.selection, this.seen, timeline);
      this.seen = timeline;
    }
    if (this.cursor !== null && this.cursor < this.made) this.cursor = null;
    if (this.held) return;
    if (this.whole) this.grow();
    else this.axis = within(this.axis, this.extent);
    this.follow();
  }

  /** Keep all of it in sight, as much as can be: where there is more of it than before, softly. */
  private grow(): void {
    const { extent } = this;
    // Of more than can be shown a part is seen, and which one is left to `follow`.
    const goal = extent > LONGEST ? within({ from: this.axis.from, seconds: LONGEST }, extent) : fitted(extent);
    const now = performance.now();
    const passed = now - this.grownAt;
    this.grownAt = now;
    if (goal.seconds === this.axis.seconds && goal.from === this.axis.from) return;
    const first = this.store.hello !== this.greeted || this.calm;
    this.greeted = this.store.hello;
    this.axis = first ? goal : eased(this.axis, goal, Math.min(passed, 34));
    if (this.axis !== goal) this.changed();
  }

  /** Keep up with the playhead while it plays. */
  follow(): void {
    const { store } = this;
    const at = store.grid.seconds(store.playhead);
    if (this.held || (this.whole && (this.extent <= LONGEST || this.axis.seconds < LONGEST))) return;
    if (!this.follows) this.follows = sees(this.axis, at) && store.playback.running;
    if (this.follows && store.playback.running) this.axis = following(this.axis, at, this.extent);
  }

  // Looking

  /** Take hold of something with the pointer: until it is let go of, a pixel stays the time that it is. */
  hold(): void {
    this.held = true;
  }

  release(): void {
    if (!this.held) return;
    this.held = false;
    this.changed();
  }

  /** Show more of a side to which something is dragged; what was shown before is shown again when it is let go of. */
  reach(seconds: number): void {
    this.axis = panned(this.axis, seconds, this.extent);
    this.changed();
  }

  zoom(factor: number, anchor: number | null = null): void {
    const { axis } = this;
    const head = this.store.grid.seconds(this.store.playhead);
    const about = anchor ?? (sees(axis, head) ? head : axis.from + axis.seconds / 2);
    this.look(zoomed(axis, factor, about, this.extent));
    this.whole = factor > 1 && this.axis.seconds >= fitted(this.extent).seconds - 1e-9 && this.axis.from === 0;
  }

  pan(seconds: number): void {
    this.look(panned(this.axis, seconds, this.extent));
    this.follows = false;
  }

  fit(): void {
    this.look(fitted(this.extent));
    this.whole = this.follows = true;
  }

  look(axis: Axis): void {
    this.axis = axis;
    this.whole = false;
    this.changed();
  }

  /** Let what has changed here be drawn. */
  redraw(): void {
    this.changed();
  }

  /** Let a block be seen. */
  show(block: number): void {
    if (this.whole && this.extent <= LONGEST) return;
    const next = showing(this.axis, this.store.grid.blockSeconds(block), this.extent);
    if (next !== this.axis) this.look(next);
  }

  /** Go to a time: the playhead as far as there is something to see, the cursor beyond. */
  go(seconds: number): void {
    const { store } = this;
    const frame = Math.round(Math.max(0, seconds) * store.grid.fps);
    if (this.made === 0 || frame < store.grid.start(this.made)) {
      this.cursor = null;
      store.seek(Math.min(frame, Math.max(0, store.film.end - 1)));
    } else {
      const last = this.line.length ?? Infinity;
      this.cursor = Math.min(store.grid.nearestBlock(seconds), last);
      if (this.cursor < this.made) this.cursor = this.made;
    }
    this.changed();
  }

  /** Move the cursor, where there is one; it comes back to the playhead where it meets what was generated. */
  stepCursor(by: number): boolean {
    if (this.cursor === null) return false;
    const next = Math.min(this.cursor + by, this.line.length ?? Infinity);
    this.cursor = next < this.made ? null : next;
    this.show(next);
    this.changed();
    return true;
  }

  // Choosing

  pick(index: number, how: Pick): void {
    this.selection = pick(this.selection, index, how);
    this.changed();
  }

  pickAll(): void {
    this.selection = pickAll(this.line.segments.length, this.selection.focus);
    this.changed();
  }

  unpick(): void {
    this.selection = { ...this.selection, chosen: [] };
    this.changed();
  }

  step(by: number, extend: boolean): void {
    const first = this.selection.chosen.length === 0 && !extend;
    this.selection = first ? pick(this.selection, this.selection.focus, "only") : step(this.selection, by, this.line.segments.length, extend);
    this.show(this.line.segments[this.selection.focus]?.start ?? 0);
    this.changed();
  }

  get chosen(): readonly number[] {
    return this.selection.chosen;
  }

  /** The chosen segments as they stand in what is shown. */
  get marked(): readonly number[] {
    return this.draft === null ? this.selection.chosen : (this.moved ?? this.selection.chosen);
  }

  /** Show what comes of an edit before it is sent; null for nothing. */
  sketch(operation: Operation | null): void {
    this.draft = operation === null ? null : preview(this.store.timeline, operation);
    this.moved = operation === null ? null : places(this.store.timeline, operation);
    this.changed();
  }

  // Editing

  /**
   * Make an edit; until the answer is here its outcome is shown where it is known.
   *
   * Edits follow each other: each is worked out on what the one before has left, and none after one that was refused.
   */
  do(make: () => Edit): Promise<Reply | null> {
    return this.ask(() => {
      const edit = make();
      if ("why" in edit) {
        this.say(edit.why);
        return null;
      }
      this.sketch(edit.operation);
      return this.store.edit(edit.operation);
    });
  }

  send(operation: Operation): Promise<Reply | null> {
    return this.do(() => ({ operation }));
  }

  private async ask(action: () => Promise<Reply> | null): Promise<Reply | null> {
    if (!this.editable) {
      this.say("this timeline can be looked at, not edited");
      return null;
    }
    const { round } = this;
    const before = this.waiting;
    const asked = (async () => {
      await before;
      return round === this.round ? this.answer(action) : null;
    })();
    this.waiting = asked;
    return asked;
  }

  private async answer(action: () => Promise<Reply> | null): Promise<Reply | null> {
    let reply: Reply | null = null;
    this.asking = true;
    try {
      reply = await action();
    } catch (error) {
      // What goes wrong with one edit must not hold up those that are made later.
      this.round++;
      this.store.fail(error);
      this.say("this edit failed in the page and was not made; the widget’s errors tell why");
    }
    this.asking = false;
    this.draft = this.moved = null;
    if (reply !== null && reply.error !== null) this.round++;
    if (reply !== null && reply.error !== null && !reply.past) this.say(reply.error);
    else if (reply?.notes?.length) this.say(reply.notes.join("; "));
    this.changed();
    return reply;
  }

  undo(): void {
    void this.travel("undo");
  }

  redo(): void {
    void this.travel("redo");
  }

  private async travel(direction: "undo" | "redo"): Promise<void> {
    const crosses = this.store.timeline.history?.[direction] === "fork";
    const reply = await this.ask(() => this.store.travel(direction));
    if (crosses && reply?.error === null) this.say(direction === "undo" ? "back in the take before the fork; the fork stays among the takes" : "in the fork again");
  }

  split(): void {
    void this.do(() => split(this.line, this.at));
  }

  duplicate(): void {
    void this.do(() => this.withChosen((chosen) => ({ operation: { op: "duplicate", segments: [...chosen] } })));
  }

  /** Remove the chosen segments; with `close` what follows moves up. */
  async remove(close = this.ripple): Promise<boolean> {
    const reply = await this.do(() =>
      this.withChosen((chosen) =>
        chosen.length === this.line.segments.length
          ? { why: "a timeline needs at least one prompt; edit its text instead" }
          : { operation: { op: "remove", segments: [...chosen], ripple: close } },
      ),
    );
    return reply?.error === null;
  }

  mark(): void {
    void this.do(() => mark(this.line, this.at));
  }

  move(by: number): void {
    void this.do(() => this.withChosen((chosen) => shift(this.line, chosen, by)));
  }

  swap(by: -1 | 1): void {
    void this.do(() => this.withChosen((chosen) => swap(this.line, chosen, by)));
  }

  /** Move an edge of the segment that has the focus by some blocks. */
  nudge(edge: Edge, by: number): void {
    void this.do(() =>
      this.withChosen(() => {
        const index = this.selection.focus;
        const at = edge === "start" ? (this.line.segments[index]?.start ?? 0) : endOf(this.line, index);
        return at === null
          ? { why: "this prompt goes on for ever; give it an end by its form (Enter)" }
          : resize(this.line, index, edge, at + by, this.ripple);
      }),
    );
  }

  private withChosen(make: (chosen: readonly number[]) => Edit): Edit {
    return this.chosen.length > 0 ? make(this.chosen) : { why: UNCHOSEN };
  }

  // Clipboard

  /** The chosen segments as text; null where none is chosen. */
  copy(): string | null {
    if (this.chosen.length === 0) {
      this.say(UNCHOSEN);
      return null;
    }
    clipboard = copied(this.line, this.chosen);
    this.say(`${count(this.chosen.length, "prompt")} copied; Ctrl V inserts at the playhead, in any studio`);
    return clipboard;
  }

  /** Insert what was copied, here or in another studio, or lines of plain text. */
  async paste(text: string): Promise<void> {
    const clip = text.trim() === "" ? clipboard : text;
    if (clip === "") return this.say("there is nothing to insert; copy a prompt first");
    await this.ask(() => this.store.change("paste", { text: clip, at: this.at, over: false }));
  }

  // Files

  async open(name: string, text: string): Promise<void> {
    await this.ask(() => this.store.change("import", { name, text }));
  }

  /** Write the timeline in a format; returns the file, or null where it cannot be written. */
  async written(format: string): Promise<{ name: string; text: string } | null> {
    const reply = await this.store.link.ask("export", { format });
    if (reply.error !== null) this.say(reply.error);
    else if (reply.lost?.length) this.say(`this format cannot hold ${reply.lost.join("; ")}`);
    return reply.error === null && reply.text !== undefined ? { name: reply.name ?? "timeline.json", text: reply.text } : null;
  }

  // Modes

  toggleRipple(): void {
    this.ripple = !this.ripple;
    this.say(this.ripple ? "an edge moves all that follows" : "an edge takes from its neighbour");
  }

  toggleSnap(): void {
    this.snap = !this.snap;
    this.say(this.snap ? "edges catch on markers, the playhead and what was generated" : "edges go to any block");
  }

  /** Blocks on which a dragged edge catches. */
  magnets(): number[] {
    if (!this.snap) return [];
    return [...this.line.markers.map((marker) => marker.block), this.at, this.made];
  }

  /** Whether a key was meant for the timeline; the keys are told in the sheet. */
  key(event: KeyboardEvent): boolean {
    const command = event.ctrlKey || event.metaKey;
    const action = command ? this.commands(event) : event.altKey && event.key.startsWith("Arrow") ? this.moves(event) : this.plainKeys(event);
    if (action === undefined) return false;
    action();
    return true;
  }

  private commands(event: KeyboardEvent): (() => void) | undefined {
    switch (event.key.toLowerCase()) {
      case "z":
        return () => (event.shiftKey ? this.redo() : this.undo());
      case "y":
        return () => this.redo();
      case "a":
        return () => this.pickAll();
      default:
        return undefined;
    }
  }

  private moves({ key, shiftKey }: KeyboardEvent): (() => void) | undefined {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[key] as -1 | 1 | undefined;
    if (by === undefined) return undefined;
    return () => (shiftKey ? this.swap(by) : this.move(by));
  }

  private plainKeys(event: KeyboardEvent): (() => void) | undefined {
    const { key, shiftKey } = event;
    if (this.cursor !== null) {
      // The playhead leaves for elsewhere: edits happen at it again.
      if (key === "Home" || key === "End") this.cursor = null;
      if (key === "ArrowLeft") return () => void this.stepCursor(-1);
      if (key === "ArrowRight") return () => void this.stepCursor(1);
    }
    const keys: Record<string, () => void> = {
      ArrowDown: () => this.step(1, shiftKey),
      ArrowUp: () => this.step(-1, shiftKey),
      Delete: () => void this.remove(shiftKey || this.ripple),
      Backspace: () => void this.remove(shiftKey || this.ripple),
      s: () => this.split(),
      d: () => this.duplicate(),
      m: () => this.mark(),
      r: () => this.toggleRipple(),
      n: () => this.toggleSnap(),
      "<": () => this.nudge("start", -1),
      ">": () => this.nudge("start", 1),
      "{": () => this.nudge("end", -1),
      "}": () => this.nudge("end", 1),
      "+": () => this.zoom(1 / ZOOM),
      "=": () => this.zoom(1 / ZOOM),
      "-": () => this.zoom(ZOOM),
      "0": () => this.fit(),
    };
    return keys[key.length === 1 ? key.toLowerCase() : key];
  }
}

export function count(number: number, what: string): string {
  return `${number} ${what}${number === 1 ? "" : "s"}`;
}
