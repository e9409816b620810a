import { Decoder } from "./decoder";
import { Fetching } from "./fetching";
import { Film } from "./film";
import { Grid } from "./grid";
import { Link } from "./link";
import { Linked, type Shown } from "./linked";
import { Playback, TEMPOS, type Range } from "./playback";
import { ALL, Readings, type Pin, type Reading } from "./readings";
import { Rival } from "./rival";
import { Thumbs } from "./thumbs";
import type {
  Again, BlockMessage, CacheMessage, Choice, Failure, Hello, Message, Model, Operation, Past, Quick, Reply, Saving, Segment, SourceState, Stats, Switch, Take,
  Timeline, Transition, UnknownWord,
} from "./types";

const REPORT_MS = 500;
const FLASH_MS = 7000;
/** Blocks asked for ahead of the playhead where they are not here, at the video's own rate. */
const LOOK_AHEAD = 2;

/** A part of the page that shows the studio. */
export interface View {
  /** Something to show has changed. */
  update(): void;
  /** Another frame is to be drawn. */
  draw(picture: ImageBitmap, frame: number): void;
  /** Small pictures of what was generated have arrived. */
  pictured?(): void;
  /** Another frame of the take that it is compared to; null where that take has none. */
  drawRival?(picture: ImageBitmap | null): void;
}

/** What was just switched, told on the picture for a moment. */
export interface Flash {
  /** Seconds of video at which the prompt came into force. */
  at: number;
  /** Seconds from Enter to its first picture. */
  after: number;
  until: number;
}

/** What an edit asks of the kernel, and why it was held back. */
export interface Held {
  name: string;
  fields: Record<string, unknown>;
  past: Past;
  why: string;
}

/** Everything one widget knows in this page; all its views show the same. */
export class Store {
  readonly film = new Film(new Grid({ first: 9, rest: 12 }, 16));
  readonly playback = new Playback(this.film, 16);
  readonly decoder: Decoder;
  readonly link: Link;
  /** The take beside which this one is shown; null for none. */
  rival: Rival | null = null;
  /** Whether the playhead is being dragged: it stands where it is put. */
  scrubbing = false;
  /** Frames of this take that were gone past without being shown, because this page was too slow. */
  dropped = 0;
  /** Quality of the pictures, where a slow link had it lowered. */
  reduced: number | null = null;
  hello: Hello | null = null;
  source: SourceState = "idle";
  timeline: Timeline = { segments: [], turns: [], length: null, markers: [], shades: {}, history: null };
  takes: Take[] = [];
  /** The last export, under way or over. */
  saving: Saving | null = null;
  quick: Quick[] = [];
  /** Small pictures of what was generated. */
  readonly thumbs: Thumbs;
  /** An edit that would change what was generated, until somebody says what to do about it. */
  held: Held | null = null;
  stats: Stats | null = null;
  switches: Switch[] = [];
  error: Failure | null = null;
  flash: Flash | null = null;
  /** What the blocks saw of the cache. */
  readonly readings = new Readings();
  watching = false;
  /** Why watching, or measuring, ended by itself. */
  trouble: string | null = null;
  /** Whether something is being read once more, and what went wrong the last time. */
  again: Again = { busy: false, error: null };
  /** Whether what is left of an old prompt is measured. */
  measuring = false;
  /** The layer and head that all views of the cache show. */
  pin: Pin = ALL;
  /** The block that the views of the cache show where no film says it; null for the newest. */
  chosen: number | null = null;
  /** The other widgets of the same source. */
  private readonly linked = new Linked((shown) => this.guard(() => this.follow(shown)), undefined, () => this.choice);
  /** The latent frame whose slot is pointed at, in all views. */
  pointed: number | null = null;
  /** Why the kernel would not do what was asked for last. */
  refusal: string | null = null;
  private views = new Set<View>();
  private scheduled = false;
  private looping = false;
  private drawn = -1;
  private readonly fetching: Fetching;
  private reported = { frame: -1, at: 0 };
  private stepping = false;
  private resumed = { frame: 0, blocks: 0 };
  private asked: { at: number; block: number } | null = null;
  private ticker: ReturnType<typeof setInterval> | null = null;

  constructor(model: Model) {
    this.link = new Link(model, (message, buffers) => this.guard(() => this.receive(message, buffers)), () => this.changed());
    this.thumbs = new Thumbs((blocks) => this.link.tell("thumbs", { take: this.film.take, blocks }), () => this.pictured());
    this.decoder = new Decoder(this.film, (frame) => this.decoded(frame), (error) => this.fail(error));
    this.fetching = new Fetching((take, block, count) => this.want(take, block, count));
  }

  // Views

  attach(view: View): void {
    this.views.add(view);
    if (this.views.size === 1) {
      this.link.open();
      document.addEventListener("visibilitychange", this.onVisibility);
      addEventListener("pagehide", this.onLeave);
      this.ticker = setInterval(() => this.changed(), REPORT_MS);
      this.loop();
    } else {
      this.redraw();
    }
  }

  detach(view: View): void {
    this.views.delete(view);
    if (this.views.size > 0) return;
    this.link.leave();
    document.removeEventListener("visibilitychange", this.onVisibility);
    removeEventListener("pagehide", this.onLeave);
    if (this.ticker !== null) clearInterval(this.ticker);
    this.ticker = null;
    this.decoder.clear();
    this.rival?.release();
    this.drawn = -1;
  }

  destroy(): void {
    this.views.clear();
    this.link.destroy();
    this.linked.close();
    this.decoder.clear();
    this.rival?.release();
  }

  /** Let the views show what has changed, once for many changes. */
  changed(): void {
    if (this.scheduled) return;
    this.scheduled = true;
    queueMicrotask(() => {
      this.scheduled = false;
      for (const view of this.views) this.guard(() => view.update());
    });
  }

  /** Small pictures have arrived: of what is shown they concern the timeline alone. */
  private pictured(): void {
    for (const view of this.views) this.guard(() => view.pictured?.());
  }

  /** Tell Python what went wrong here. */
  fail(error: unknown): void {
    const failure = error instanceof Error ? error : new Error(String(error));
    console.error("studio:", failure);
    this.link.tell("failure", { message: failure.message.slice(0, 2000), stack: (failure.stack ?? "").slice(0, 8000) });
  }

  guard(action: () => void): void {
    try {
      action();
    } catch (error) {
      this.fail(error);
    }
  }

  // What is shown

  get grid(): Grid {
    return this.film.grid;
  }

  get playhead(): number {
    return Math.max(0, this.playback.place);
  }

  get paused(): boolean {
    return !this.playback.running;
  }

  /** Blocks of this take that were generated. */
  get made(): number {
    const told = this.stats?.take === this.film.take ? this.stats.generated_blocks : 0;
    return Math.max(told, this.film.end > 0 ? this.grid.blockAt(this.film.end - 1) + 1 : 0);
  }

  /** First block that a switch asked for now would change. */
  get nextBlock(): number {
    return this.made + (this.source === "playing" || this.source === "warming" ? 1 : 0);
  }

  /** Whether every block of a video with an end has begun: nothing is left to steer. */
  get settled(): boolean {
    return this.timeline.length !== null && this.nextBlock >= this.timeline.length;
  }

  /** The segment in force at a block. */
  segmentAt(block: number): Segment | undefined {
    return this.timeline.segments.findLast((segment) => segment.start <= block);
  }

  get promptInForce(): string {
    return this.segmentAt(this.grid.blockAt(this.playhead))?.prompt ?? "";
  }

  /** The prompt that the next block to be generated is under. */
  get lastPrompt(): string {
    return this.segmentAt(this.nextBlock)?.prompt ?? "";
  }

  /** The block whose reading is to be seen; the newest where none is chosen and nothing is shown. */
  get block(): number | null {
    if (this.hello?.frames === false || this.playback.frame < 0) return this.chosen ?? this.readings.latest?.block ?? null;
    return this.grid.blockAt(this.playhead);
  }

  /** What the block that is shown saw of the cache. */
  get reading(): Reading | undefined {
    if (this.hello?.frames === false) return this.chosen === null ? this.readings.latest : this.readings.at(this.chosen);
    return this.playback.frame < 0 ? this.readings.latest : this.readings.at(this.grid.blockAt(this.playhead));
  }

  pinTo(pin: Pin): void {
    this.pin = pin;
    this.linked.tell({ pin });
    this.changed();
  }

  /** Show a block in the views of the cache; null for the newest. */
  choose(block: number | null): void {
    this.chosen = block;
    this.linked.tell({ chosen: block });
    if (this.hello?.frames !== false && block !== null) this.seek(this.grid.start(block));
    this.changed();
  }

  point(frame: number | null): void {
    if (this.pointed === frame) return;
    this.pointed = frame;
    this.linked.tell({ pointed: frame });
    this.changed();
  }

  /** What was chosen here, for a view that comes late. */
  private get choice(): Shown | null {
    const { pin, chosen } = this;
    if (chosen === null && pin.layer === null && pin.head === null) return null;
    return this.hello?.frames === false ? { pin, chosen } : { pin };
  }

  /** Another widget of the same source points at something. */
  private follow(shown: Shown): void {
    if (shown.pointed !== undefined) this.pointed = shown.pointed;
    if (shown.pin !== undefined) this.pin = shown.pin;
    // A film goes its own way; only views without one look at the same block.
    if (shown.chosen !== undefined && this.hello?.frames === false) this.chosen = shown.chosen;
    this.changed();
  }

  /** Draw the picture once more: its place has another size. */
  redraw(): void {
    this.drawn = -1;
    this.show();
  }

  /** Say why something cannot be done. */
  refuse(why: string): void {
    this.refusal = why;
    this.changed();
  }

  // What the user does

  play(): void {
    const over = this.done && (this.settled || this.source === "closed");
    if (over) {
      if (this.playhead >= this.film.end - 1) this.seek(this.playback.range?.from ?? this.film.first);
      if (this.playback.range === null) this.playback.runTo(this.film.end - 1);
      else this.playback.play();
    } else {
      this.playback.play();
      void this.command("play");
    }
    this.loop();
    this.changed();
  }

  pause(): void {
    this.playback.pause();
    this.stepping = false;
    void this.command("pause");
    this.report(true);
    this.changed();
  }

  toggle(): void {
    if (this.playback.running) this.pause();
    else this.play();
  }

  /** Play one block and stop; at the end of what is held, generate it first. */
  stepForward(): void {
    const from = this.playback.frame;
    const block = from < 0 ? 0 : this.grid.blockAt(from + 1);
    const held = this.grid.start(block + 1) <= this.film.end;
    if (this.playback.running) {
      this.playback.pause();
      void this.command("pause");
    }
    this.stepping = !held && !this.done;
    this.playback.runTo(this.grid.start(block + 1) - 1);
    if (this.stepping) void this.command("step");
    this.loop();
    this.changed();
  }

  /** Show the start of this block, or of the one before, within what is held. */
  stepBack(): void {
    if (this.playback.running) this.pause();
    const at = this.playhead;
    const block = this.grid.blockAt(at);
    const start = this.grid.start(block);
    this.seek(at > start ? start : this.grid.start(Math.max(0, block - 1)));
  }

  /** Show the next frame or the one before, and hold there. */
  stepFrame(by: number): void {
    if (this.playback.running) this.pause();
    this.seek(this.playhead + by);
  }

  seek(frame: number): void {
    if (this.playback.until !== null) this.halt(true);
    this.playback.seek(frame);
    this.drawn = -1;
    this.show();
    this.report(!this.scrubbing);
    this.changed();
  }

  /** Hold the playhead to drag it, or let go of it: it plays on from where it was left if it did before. */
  scrub(on: boolean): void {
    this.scrubbing = on;
    if (!on) this.report(true);
    this.loop();
    this.changed();
  }

  /** Go to the newest frame and on from there. */
  goLive(): void {
    this.playback.range = null;
    this.seek(this.film.end - 1);
    if (!this.done) this.play();
  }

  setTempo(tempo: number): void {
    this.playback.tempo = tempo;
    this.changed();
  }

  /** Play one step slower or faster. */
  changeTempo(by: 1 | -1): void {
    const at = TEMPOS.indexOf(this.playback.tempo as (typeof TEMPOS)[number]);
    this.setTempo(TEMPOS[at + by] ?? this.playback.tempo);
  }

  /** Play a range over and over; null plays on. */
  setRange(range: Range | null): void {
    const { playback, film } = this;
    if (range === null || range.to <= range.from) {
      playback.range = null;
    } else {
      playback.range = { from: Math.max(0, range.from), to: Math.min(range.to, Math.max(film.end, range.from + 1)) };
      if (playback.frame < playback.range.from || playback.frame >= playback.range.to) this.seek(playback.range.from);
    }
    this.changed();
  }

  /** Begin the range here, or end it here; the other end stays or is that of what was made. */
  markRange(end: "from" | "to"): void {
    const { range } = this.playback;
    const at = this.playhead;
    const from = end === "from" ? at : range !== null && range.from < at ? range.from : 0;
    const to = end === "to" ? at + 1 : range !== null && range.to > at ? range.to : this.film.end;
    this.setRange({ from, to });
  }

  /** Show another take beside this one; null for this one alone. */
  compareTo(take: number | null): void {
    this.rival?.release();
    const info = take === null || take === this.film.take ? undefined : this.takes.find((one) => one.number === take);
    this.rival = info === undefined ? null : new Rival(info, this.film.grid, (t, b, c) => this.want(t, b, c), () => this.showRival(), (error) => this.fail(error));
    this.showRival();
    this.changed();
  }

  restart(seed: number | null): void {
    void this.command("restart", { seed }).then(({ error }) => error === null && this.play());
  }

  /** Edit the timeline; an edit of the past waits for somebody to choose. */
  edit(operation: Operation): Promise<Reply> {
    return this.change("edit", { do: "apply", operation });
  }

  /** Take an edit back, or do it again. */
  travel(direction: "undo" | "redo"): Promise<Reply> {
    return this.change("edit", { do: direction });
  }

  /** Ask for an edit of the version shown here; whoever asks says why it was refused. */
  async change(name: string, fields: Record<string, unknown>): Promise<Reply> {
    const version = this.timeline.history?.version ?? null;
    const reply = await this.link.ask(name, fields.do === "undo" || fields.do === "redo" ? fields : { version, ...fields });
    if (reply.past) this.held = { name, fields, past: reply.past, why: reply.error ?? "" };
    this.changed();
    return reply;
  }

  /** Go on with the edit that was held back, or let it be. */
  settle(choice: Choice | null): Promise<Reply> | null {
    const { held } = this;
    this.held = null;
    this.changed();
    return held === null || choice === null ? null : this.change(held.name, { ...held.fields, past: choice });
  }

  /** Switch the prompt; resolves with the kernel's answer. */
  async switchTo(prompt: string, policy: string | null, transition: Transition | null = null): Promise<Reply> {
    const at = performance.now();
    const reply = await this.command("switch", { prompt, policy, at: null, transition });
    if (reply.error === null && reply.effective_block !== undefined) this.asked = { at, block: reply.effective_block };
    return reply;
  }

  /** Ask the kernel for something; a refusal is shown until the next thing is asked for. */
  async command(name: string, fields: Record<string, unknown> = {}, buffers: ArrayBuffer[] = []): Promise<Reply> {
    this.refusal = null;
    const reply = await this.link.ask(name, fields, buffers);
    this.refusal = reply.error;
    this.changed();
    return reply;
  }

  unknownWords(text: string, answered: (unknown: UnknownWord[]) => void): void {
    this.link.askFor("words", { text }, (answer) => {
      if (answer.type === "words") answered(answer.unknown);
    });
  }

  // What the kernel says

  private receive(message: Message, buffers: DataView[]): void {
    switch (message.type) {
      case "hello":
        this.welcome(message);
        break;
      case "block":
        this.store(message, buffers);
        return;
      case "missing":
        this.filmOf(message.take)?.miss(message.block, message.next);
        this.loop();
        break;
      case "cache":
        this.read(message, buffers);
        break;
      case "watch":
        this.watching = message.on;
        this.measuring = message.measuring;
        this.trouble = message.trouble;
        break;
      case "again":
        this.again = { busy: message.busy, error: message.error };
        break;
      case "timeline":
        this.timeline = message;
        break;
      case "takes":
        this.takes = message.takes;
        this.rival?.follow(message.takes);
        break;
      case "export":
        this.saving = message.export;
        break;
      case "quick":
        this.quick = message.prompts;
        break;
      case "thumbs":
        if (message.take === this.film.take && buffers[0] !== undefined) this.thumbs.put(message.blocks, message.sizes, buffers[0]);
        return;
      case "stats":
        this.stats = message;
        this.playback.keepTo(message.generated_fps);
        break;
      case "state":
        this.enter(message.state);
        break;
      case "switch":
        this.note(message.switch);
        break;
      case "error":
        this.error = { message: message.message, traceback: message.traceback };
        break;
      case "restart":
        this.begin(message.take, message.live, message.made, message.start, message.former === this.film.take ? message.shared : 0);
        break;
      default:
        return;
    }
    this.changed();
  }

  private welcome(hello: Hello): void {
    const first = this.hello === null;
    this.hello = hello;
    this.watching = hello.watching;
    this.film.grid = new Grid(hello.grid, hello.fps);
    this.measuring = hello.measuring;
    this.trouble = hello.trouble;
    this.again = hello.again;
    this.linked.join(hello.origin);
    this.playback.setFps(hello.fps);
    this.timeline = hello.timeline;
    this.takes = hello.takes;
    this.quick = hello.quick;
    this.saving = hello.export;
    this.stats = hello.stats;
    this.playback.keepTo(hello.stats.generated_fps);
    if (hello.take !== this.film.take) {
      this.begin(hello.take, hello.live, hello.made, hello.playhead);
    } else {
      this.film.live = hello.live;
      this.film.end = Math.max(this.film.end, hello.made);
    }
    // A take that begins has neither; what is said of this one holds.
    this.switches = hello.switches;
    this.error = hello.error;
    if (first && hello.made > 0) this.playback.seek(hello.playhead);
    this.enter(hello.state);
    this.show();
  }

  private begin(take: number, live: number, made: number, start: number, shared = 0): void {
    this.film.clear(take, live, made);
    this.thumbs.clear();
    this.readings.turn(take, shared);
    this.chosen = null;
    this.playback.reset(start);
    this.playback.until = null;
    this.decoder.clear();
    this.drawn = -1;
    this.dropped = 0;
    this.switches = [];
    this.error = null;
    this.flash = null;
    this.asked = null;
    this.reported = { frame: -1, at: 0 };
    this.resumed = { frame: made, blocks: 0 };
    if (this.rival?.film.take === take) this.compareTo(null);
    if (made > 0) {
      this.playback.seek(start);
      this.show();
    }
    if (this.source === "playing" || this.source === "waiting" || this.source === "warming") this.playback.play();
    this.loop();
  }

  private filmOf(take: number): Film | null {
    return take === this.film.take ? this.film : take === this.rival?.film.take ? this.rival.film : null;
  }

  private want(take: number, block: number, count: number): void {
    this.link.tell("want", { take, block, count });
  }

  private store(message: BlockMessage, buffers: DataView[]): void {
    this.link.tell("ack", { serial: message.serial });
    const film = this.filmOf(message.take);
    if (film === null) return;
    const data = buffers[0];
    if (data === undefined) throw new Error(`block ${message.index} came without its frames`);
    const fresh = film.put(
      message.index, message.first, message.sizes, new Uint8Array(data.buffer, data.byteOffset, data.byteLength), this.playhead,
    );
    this.reduced = message.reduced;
    if (film !== this.film) return this.showRival();
    if (!fresh) return;
    if (message.switch !== null) this.note(message.switch);
    if (message.first + message.sizes.length >= message.end && message.index >= film.live) this.resumed.blocks++;
    if (this.playback.frame < 0 && !this.playback.running) this.poster();
    else if (this.drawn !== this.playback.frame) this.show();
    this.loop();
    this.changed();
  }

  private read(message: CacheMessage, buffers: DataView[]): void {
    if (message.serial !== undefined) this.link.tell("ack", { serial: message.serial });
    const [numbers, pictures] = buffers;
    if (numbers === undefined || pictures === undefined) throw new Error(`the reading of block ${message.block} came without its numbers`);
    this.readings.put(message, numbers, pictures);
  }

  /** Show the first picture although nothing plays. */
  private poster(): void {
    this.playback.seek(this.playback.place);
    this.show();
  }

  private enter(state: SourceState): void {
    const before = this.source;
    this.source = state;
    if (state !== "error") this.error = null;
    if (state === "playing" || state === "waiting" || state === "warming") {
      const held = before === "paused" || before === "idle" || before === "error";
      if (held && !this.stepping) {
        this.resumed = { frame: this.film.end, blocks: 0 };
        this.playback.play();
      }
    } else if (state === "paused" || state === "idle") {
      this.halt();
    } else if ((state === "error" || state === "closed") && before !== state) {
      this.playback.runTo(this.film.end - 1);
    } else if (state === "finished" && before !== "finished" && !this.stepping) {
      // The last block may still be under way.
      const { length } = this.timeline;
      this.playback.runTo((length === null ? this.film.end : this.grid.start(length)) - 1);
    }
    this.loop();
  }

  private halt(atOnce = false): void {
    if (atOnce) {
      this.stepping = false;
      return this.playback.pause();
    }
    if (this.playback.until !== null) return;
    // One block since it went on means that Python made a step: it is shown to its end.
    const stepped = this.resumed.blocks === 1 && this.playback.frame <= this.resumed.frame;
    if (stepped && this.film.end > 0) this.playback.runTo(this.film.end - 1);
    else this.playback.pause();
    this.report(true);
  }

  private note(item: Switch): void {
    const others = this.switches.filter((other) => other.effective_block !== item.effective_block);
    this.switches = [...others, item].sort((a, b) => a.effective_block - b.effective_block).slice(-200);
  }

  private get done(): boolean {
    return this.source === "finished" || this.source === "closed";
  }

  // Showing

  private loop(): void {
    if (this.looping || this.views.size === 0) return;
    this.looping = true;
    const turn = (now: number) => {
      if (this.views.size === 0) {
        this.looping = false;
        return;
      }
      const starved = this.playback.starved;
      const running = this.playback.running;
      this.guard(() => this.turn(now));
      if (starved !== this.playback.starved || running !== this.playback.running) this.changed();
      if (running && !this.playback.running) {
        this.stepping = false;
        this.report(true);
      }
      if (this.playback.running) requestAnimationFrame(turn);
      else this.looping = false;
    };
    requestAnimationFrame(turn);
  }

  private turn(now: number): void {
    if (this.scrubbing) return this.playback.hold();
    const { frame, passed } = this.playback;
    const unseen = frame >= 0 && this.drawn !== frame ? 1 : 0;
    if (this.playback.tick(now, !document.hidden)) {
      // At more than the video's own rate frames are left out on purpose.
      if (this.playback.tempo <= 1) this.dropped += unseen + Math.max(0, this.playback.passed - passed - 1);
      this.show();
    } else if (this.playback.starved) {
      this.fetch();
    }
  }

  private show(): void {
    const frame = this.playback.frame;
    this.fetch();
    if (frame < 0) return;
    this.decoder.want(frame);
    const picture = this.decoder.picture(frame);
    if (picture !== undefined && this.drawn !== frame) {
      this.drawn = frame;
      for (const view of this.views) this.guard(() => view.draw(picture, frame));
    }
    this.showRival();
    this.announce(frame);
    this.report(false);
  }

  /** Have what is needed next sent, where it is not here. */
  private fetch(): void {
    const { playback, grid } = this;
    const place = playback.place;
    const now = performance.now();
    const ahead = this.scrubbing ? 1 : 1 + Math.ceil(LOOK_AHEAD * Math.max(1, playback.tempo));
    const block = grid.blockAt(place);
    if (this.fetching.need(this.film, block, ahead, now) || playback.range === null) return;
    // Near the end of a range its beginning comes next.
    if (block + ahead > grid.blockAt(playback.range.to - 1)) this.fetching.need(this.film, grid.blockAt(playback.range.from), 2, now);
  }

  private showRival(): void {
    const { rival } = this;
    if (rival === null) return;
    const picture = rival.show(this.playhead, 1 + Math.ceil(LOOK_AHEAD * Math.max(1, this.playback.tempo)));
    if (picture === undefined) return; // Not here yet: the one before stays.
    for (const view of this.views) this.guard(() => view.drawRival?.(picture));
  }

  private decoded(frame: number): void {
    if (frame === this.playback.frame) this.guard(() => this.show());
  }

  private announce(frame: number): void {
    if (this.asked === null || this.grid.blockAt(frame) < this.asked.block) return;
    const now = performance.now();
    this.flash = {
      at: this.grid.blockSeconds(this.asked.block),
      after: (now - this.asked.at) / 1000,
      until: now + FLASH_MS,
    };
    this.asked = null;
    this.changed();
  }

  private report(now: boolean): void {
    const frame = this.playback.frame;
    if (frame < 0 || this.film.take < 0) return;
    const at = performance.now();
    const crossed = this.grid.blockAt(frame) !== this.grid.blockAt(Math.max(0, this.reported.frame));
    if (!now && this.reported.frame >= 0 && !crossed && at - this.reported.at < REPORT_MS) return;
    this.reported = { frame, at };
    this.link.tell("played", { frame, take: this.film.take, hidden: document.hidden, dropped: this.dropped });
  }

  private onVisibility = (): void => {
    this.report(true);
    if (!document.hidden) {
      this.link.watch();
      this.loop();
      this.show();
    }
  };

  private onLeave = (): void => this.link.tell("bye");
}
