import type { GridSize } from "./types";

/** Counts frames, blocks and seconds. */
export class Grid {
  constructor(readonly size: GridSize, readonly fps: number) {}

  /** First frame of a block. */
  start(block: number): number {
    return block <= 0 ? 0 : this.size.first + (block - 1) * this.size.rest;
  }

  /** The block that holds a frame. */
  blockAt(frame: number): number {
    return frame < this.size.first ? 0 : 1 + Math.floor((frame - this.size.first) / this.size.rest);
  }

  seconds(frame: number): number {
    return frame / this.fps;
  }

  blockSeconds(block: number): number {
    return this.seconds(this.start(block));
  }

  /** The block whose start is nearest to a time. */
  nearestBlock(seconds: number): number {
    const frame = Math.max(0, seconds * this.fps);
    const block = this.blockAt(Math.floor(frame));
    return frame - this.start(block) <= this.start(block + 1) - frame ? block : block + 1;
  }
}

/** Minutes, seconds and tenths: 0:08.3. */
export function clock(seconds: number): string {
  const tenths = Math.floor(Math.max(0, seconds) * 10 + 1e-6);
  const minutes = Math.floor(tenths / 600);
  return `${minutes}:${((tenths % 600) / 10).toFixed(1).padStart(4, "0")}`;
}

/** Minutes and whole seconds: 0:08. */
export function shortClock(seconds: number): string {
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** Two digits that matter, and a dash for what is not known. */
export function figure(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (Math.abs(value) >= 99.5) return value.toFixed(0);
  if (Math.abs(value) >= 9.95) return value.toFixed(1);
  return value.toFixed(value >= 0.995 || value === 0 ? 1 : 2);
}
