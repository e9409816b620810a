import type { Film } from "./film";

/** A pause in the clock longer than this is not made up for: the page was hidden or the machine was busy. */
const LONGEST_TICK_MS = 250;
/** Below this share of the video's own rate a machine is too slow to keep up. */
const SLOW = 0.97;
const SLOWEST_FPS = 2;
/** So many seconds before the newest frame, playing keeps to the pace at which new ones are made. */
const EDGE_S = 1.6;

export const TEMPOS = [0.25, 0.5, 1, 2, 4] as const;

/** Frames that are played over and over: from one to just before another. */
export interface Range {
  from: number;
  to: number;
}

/** Decides which frame to show: paced by the clock, bounded by what is held, standing still while nobody looks. */
export class Playback {
  /** The frame shown, or -1 before the first one. */
  frame = -1;
  running = false;
  /** Where to stop by itself, for steps; null to go on for ever. */
  until: number | null = null;
  /** Whether it would go on but has no frame to show. */
  starved = false;
  /** How fast to play, 1 being as the clock. */
  tempo = 1;
  range: Range | null = null;
  /** Frames gone past since the beginning of the take. */
  passed = 0;
  private origin = 0;
  private generated: number | null = null;
  private fraction = 0;
  private last: number | null = null;
  private shown: number[] = [];

  constructor(private readonly film: Film, private fps: number) {}

  setFps(fps: number): void {
    this.fps = fps;
  }

  /** Keep to what is generated where that is slower than the clock: evenly slow is calmer than stop and go. */
  keepTo(generated: number | null): void {
    this.generated = generated;
  }

  /** Frames a second to show now. */
  get pace(): number {
    const wanted = this.fps * this.tempo;
    if (this.generated === null || this.generated >= SLOW * wanted || !this.atEdge) return wanted;
    return Math.min(wanted, Math.max(SLOWEST_FPS, SLOW * this.generated));
  }

  /** How fast it plays, 1 being as the clock. */
  get speed(): number {
    return this.pace / this.fps;
  }

  /** Whether what is shown was made just now. */
  get atEdge(): boolean {
    return this.film.end - this.frame <= EDGE_S * this.fps;
  }

  play(): void {
    this.running = true;
    this.until = null;
  }

  pause(): void {
    this.running = false;
    this.starved = false;
    this.until = null;
    this.last = null;
  }

  /** Stand still for a moment without pausing, as while the playhead is dragged. */
  hold(): void {
    this.last = null;
  }

  /** Play as far as `frame` and stop there. */
  runTo(frame: number): void {
    this.until = frame;
    this.running = true;
  }

  /** Show a frame of what was made, as soon as it is there. */
  seek(frame: number): void {
    const last = Math.max(0, this.film.end - 1);
    this.frame = Math.min(this.film.skip(Math.min(Math.max(0, Math.round(frame)), last)), last);
    this.fraction = 0;
    this.last = null;
  }

  /** Begin a take, at a frame. */
  reset(origin = 0): void {
    this.frame = -1;
    this.origin = origin;
    this.fraction = 0;
    this.last = null;
    this.starved = false;
    this.range = null;
    this.shown = [];
    this.passed = 0;
  }

  /** Where it is, or where it will begin. */
  get place(): number {
    return this.frame < 0 ? this.origin : this.frame;
  }

  /** The frame after one, at the end of the range its beginning. */
  after(frame: number): number {
    const { range } = this;
    return range !== null && frame < range.to && frame + 1 >= range.to ? range.from : frame + 1;
  }

  /** Advance to time `now` in milliseconds; returns whether another frame is to be shown. */
  tick(now: number, visible: boolean): boolean {
    if (!this.running || !visible) {
      this.last = null;
      return false;
    }
    if (this.frame < 0) return this.begin(now);
    const elapsed = this.last === null ? 0 : Math.min(now - this.last, LONGEST_TICK_MS);
    this.last = now;
    this.fraction += (elapsed / 1000) * this.pace;
    const before = this.frame;
    while (this.fraction >= 1) {
      if (this.until !== null && this.frame >= this.until) {
        this.pause();
        break;
      }
      // A frame that is gone for good is skipped: waiting for it would be for ever.
      const next = this.film.next(this.after(this.frame));
      this.starved = next < 0;
      if (this.starved) {
        this.fraction = 1;
        break;
      }
      this.frame = next;
      this.fraction -= 1;
      this.passed++;
      this.shown.push(now);
    }
    return this.frame !== before;
  }

  /** Frames a second shown lately; null before there is anything to count. */
  rate(now: number, over = 2000): number | null {
    this.shown = this.shown.filter((when) => now - when <= over);
    return this.shown.length < 2 ? null : (this.shown.length * 1000) / over;
  }

  private begin(now: number): boolean {
    const first = this.film.next(this.origin);
    this.starved = first < 0;
    if (first < 0) return false;
    this.frame = first;
    this.last = now;
    this.shown.push(now);
    return true;
  }
}
