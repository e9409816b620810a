import type { Film } from "./film";

/** A pause in the clock longer than this is not made up for: the page was hidden or the machine was busy. */
const LONGEST_TICK_MS = 250;
/** Below this share of the video's own rate a machine is too slow to keep up. */
const SLOW = 0.97;
const SLOWEST_FPS = 2;

/** Decides which frame to show: paced by the clock, bounded by what is held, standing still while nobody looks. */
export class Playback {
  /** The frame shown, or -1 before the first one. */
  frame = -1;
  running = false;
  /** Where to stop by itself, for steps; null to go on for ever. */
  until: number | null = null;
  /** Whether it would go on but has no frame to show. */
  starved = false;
  private fraction = 0;
  private last: number | null = null;
  private shown: number[] = [];

  private pace: number;

  constructor(private readonly film: Film, private fps: number) {
    this.pace = fps;
  }

  setFps(fps: number): void {
    this.fps = this.pace = fps;
  }

  /** Keep to what is generated where that is slower than the clock: evenly slow is calmer than stop and go. */
  keepTo(generated: number | null): void {
    const slow = generated !== null && generated < SLOW * this.fps;
    this.pace = slow ? Math.max(SLOWEST_FPS, 0.97 * generated) : this.fps;
  }

  /** How fast it plays, 1 being as the clock. */
  get speed(): number {
    return this.pace / this.fps;
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

  /** Play as far as `frame` and stop there. */
  runTo(frame: number): void {
    this.until = frame;
    this.running = true;
  }

  /** Show a frame now, the nearest one held. */
  seek(frame: number): void {
    const at = this.film.atOrAfter(Math.max(0, frame));
    this.frame = at >= 0 ? at : Math.max(0, this.film.end - 1);
    this.fraction = 0;
    this.last = null;
  }

  /** Begin a new take. */
  reset(): void {
    this.frame = -1;
    this.fraction = 0;
    this.last = null;
    this.starved = false;
    this.shown = [];
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
      // A frame that never came while later ones did is skipped: waiting for it would be for ever.
      const next = this.film.atOrAfter(this.frame + 1);
      this.starved = next < 0;
      if (this.starved) {
        this.fraction = 1;
        break;
      }
      this.frame = next;
      this.fraction -= 1;
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
    const first = this.film.atOrAfter(0);
    this.starved = first < 0;
    if (first < 0) return false;
    this.frame = first;
    this.last = now;
    this.shown.push(now);
    return true;
  }
}
