import { Decoder } from "../decoder";
import { Film } from "../film";
import { Grid } from "../grid";
import { Link } from "../link";
import type { Model } from "../types";
import type { LabBlock, LabMessage, LabSettings, LabTable } from "./types";

const LONGEST_TICK_MS = 250;
const LOOK_MS = 500;

/** One policy's film and what its blocks saw. */
export class Lane {
  readonly film: Film;
  readonly blocks = new Map<number, LabBlock>();
  readonly decoder: Decoder;

  constructor(grid: Grid, ready: () => void, failed: (error: unknown) => void) {
    this.film = new Film(grid);
    this.film.clear(0);
    this.decoder = new Decoder(this.film, ready, failed);
  }
}

/** Paces several films together: a frame is shown when all of them have it. */
export class Pace {
  frame = 0;
  running = true;
  private last: number | null = null;
  private fraction = 0;

  constructor(private readonly fps: () => number) {}

  /** Move on with the clock, within `end` frames and no further than `ready` says; returns whether the frame is another one. */
  tick(now: number, end: number, whole: boolean, ready: (frame: number) => boolean): boolean {
    const before = this.last;
    this.last = now;
    if (!this.running || before === null || end === 0) return false;
    this.fraction += (Math.min(now - before, LONGEST_TICK_MS) * this.fps()) / 1000;
    const from = this.frame;
    while (this.fraction >= 1) {
      this.fraction -= 1;
      // Once everything is made it goes round and round; before, it waits for the next block.
      const next = this.frame + 1 < end ? this.frame + 1 : whole ? 0 : this.frame;
      if (next === this.frame || !ready(next)) {
        this.fraction = 0;
        break;
      }
      this.frame = next;
    }
    return this.frame !== from;
  }

  seek(frame: number, end: number): void {
    this.frame = Math.max(0, Math.min(frame, end - 1));
    this.fraction = 0;
  }
}

/** Everything that one lab widget knows in this page. */
export class LabStore {
  readonly link: Link;
  readonly pace = new Pace(() => this.settings?.fps ?? 16);
  settings: LabSettings | null = null;
  table: LabTable | null = null;
  lanes: Lane[] = [];
  grid = new Grid({ first: 9, rest: 12 }, 16);
  refusal: string | null = null;
  /** The latent frame whose slots are pointed at in all strips. */
  pointed: number | null = null;
  private version = -1;
  private views = new Set<{ update(): void; draw(): void }>();
  private scheduled = false;
  private ticker: ReturnType<typeof setInterval> | null = null;
  private looping = false;

  constructor(model: Model) {
    this.link = new Link(model, (message, buffers) => this.guard(() => this.receive(message as unknown as LabMessage, buffers)), () => this.changed());
  }

  attach(view: { update(): void; draw(): void }): void {
    this.views.add(view);
    if (this.views.size > 1) return;
    this.link.open();
    this.ticker = setInterval(() => this.changed(), LOOK_MS);
    this.loop();
  }

  detach(view: { update(): void; draw(): void }): void {
    this.views.delete(view);
    if (this.views.size > 0) return;
    this.link.leave();
    if (this.ticker !== null) clearInterval(this.ticker);
    this.ticker = null;
  }

  destroy(): void {
    this.views.clear();
    this.link.destroy();
    for (const lane of this.lanes) lane.decoder.clear();
  }

  changed(): void {
    if (this.scheduled) return;
    this.scheduled = true;
    queueMicrotask(() => {
      this.scheduled = false;
      for (const view of this.views) this.guard(() => view.update());
    });
  }

  guard(action: () => void): void {
    try {
      action();
    } catch (error) {
      this.fail(error);
    }
  }

  fail(error: unknown): void {
    const failure = error instanceof Error ? error : new Error(String(error));
    console.error("studio:", failure);
    this.link.tell("failure", { message: failure.message.slice(0, 2000), stack: (failure.stack ?? "").slice(0, 8000) });
  }

  /** Frames that every film has. */
  get end(): number {
    return this.lanes.length === 0 ? 0 : Math.min(...this.lanes.map((lane) => lane.film.end));
  }

  /** Whether every block of every film is there. */
  get whole(): boolean {
    return this.settings !== null && this.end >= this.grid.start(this.settings.blocks);
  }

  /** The block that is shown. */
  get block(): number {
    return this.grid.blockAt(this.pace.frame);
  }

  /** Something is being written: what was said of the last words no longer holds. */
  touched(): void {
    this.refusal = null;
    this.changed();
  }

  /** Ask for other settings. */
  async change(changes: Record<string, unknown>): Promise<void> {
    const reply = await this.link.ask("lab", { changes });
    this.refusal = reply.error;
    this.changed();
  }

  toggle(): void {
    this.pace.running = !this.pace.running;
    this.changed();
  }

  seek(frame: number): void {
    this.pace.seek(frame, this.end);
    this.want();
    this.draw();
    this.changed();
  }

  point(frame: number | null): void {
    if (this.pointed === frame) return;
    this.pointed = frame;
    this.changed();
  }

  private receive(message: LabMessage, buffers: DataView[]): void {
    switch (message.type) {
      case "lab":
        this.begin(message);
        break;
      case "labstate":
        if (this.settings !== null) Object.assign(this.settings, { version: message.version, state: message.state, error: message.error });
        break;
      case "labblock":
        this.put(message, buffers);
        break;
      case "labtable":
        if (message.version === this.version) this.table = message;
        break;
      default:
        return;
    }
    this.changed();
  }

  private begin(settings: LabSettings): void {
    const fresh = settings.version !== this.version;
    this.settings = settings;
    this.grid = new Grid(settings.grid, settings.fps);
    if (!fresh) return;
    this.version = settings.version;
    for (const lane of this.lanes) lane.decoder.clear();
    this.lanes = settings.policies.map(() => new Lane(this.grid, () => this.draw(), (error) => this.fail(error)));
    this.table = null;
    this.pace.seek(0, 1);
  }

  private put(message: LabBlock, buffers: DataView[]): void {
    if (message.version !== this.version) return;
    const data = buffers[0];
    if (data === undefined) throw new Error(`block ${message.block} came without its frames`);
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    this.lanes.forEach((lane, run) => {
      if (message.run !== null && message.run !== run) return;
      lane.blocks.set(message.block, message);
      lane.film.put(message.block, this.grid.start(message.block), message.sizes, bytes);
    });
    this.want();
    this.loop();
  }

  private want(): void {
    for (const lane of this.lanes) lane.decoder.want(this.pace.frame);
  }

  private draw(): void {
    for (const view of this.views) this.guard(() => view.draw());
  }

  private loop(): void {
    if (this.looping || this.views.size === 0) return;
    this.looping = true;
    let block = this.block;
    const turn = (now: number) => {
      if (this.views.size === 0) {
        this.looping = false;
        return;
      }
      const ready = (frame: number) => {
        for (const lane of this.lanes) lane.decoder.want(frame);
        return this.lanes.every((lane) => lane.decoder.picture(frame) !== undefined);
      };
      if (!document.hidden && this.pace.tick(now, this.end, this.whole, ready)) this.draw();
      if (block !== this.block) this.changed();
      block = this.block;
      requestAnimationFrame(turn);
    };
    requestAnimationFrame(turn);
  }
}
