import { describe, expect, it } from "vitest";
import { Film } from "../src/film";
import { Playback } from "../src/playback";
import { film } from "./helpers";

/** Let the screen refresh 60 times a second for some seconds; returns the frames shown. */
function run(playback: Playback, seconds: number, from = 0, visible = true): number[] {
  const shown: number[] = [];
  for (let tick = 0; tick <= seconds * 60; tick++) {
    if (playback.tick(from + (tick * 1000) / 60, visible)) shown.push(playback.frame);
  }
  return shown;
}

describe("playback", () => {
  it("shows every frame once, 16 a second", () => {
    const playback = new Playback(film(0, 200), 16);
    playback.play();
    const shown = run(playback, 5);
    expect(shown).toEqual([...shown.keys()]);
    expect(shown.length).toBeGreaterThanOrEqual(80);
    expect(shown.length).toBeLessThanOrEqual(82);
    expect(playback.rate(5000)).toBeCloseTo(16, 0);
  });

  it("waits where there is no frame, and goes on at once when there is", () => {
    const held = film(0, 9);
    const playback = new Playback(held, 16);
    playback.play();
    run(playback, 2);
    expect([playback.frame, playback.starved]).toEqual([8, true]);
    held.put(1, 9, [1, 1, 1], new Uint8Array(3));
    expect(playback.tick(2020, true)).toBe(true);
    expect([playback.frame, playback.starved]).toEqual([9, false]);
    run(playback, 1, 2040);
    expect(playback.frame).toBe(11);
  });

  it("stands still while nobody looks, without a leap afterwards", () => {
    const playback = new Playback(film(0, 400), 16);
    playback.play();
    run(playback, 1);
    const before = playback.frame;
    expect(run(playback, 5, 1000, false)).toEqual([]);
    playback.tick(60_000, true);
    playback.tick(60_010, true);
    expect(playback.frame - before).toBeLessThanOrEqual(1);
  });

  it("keeps to a machine that is slower than the clock", () => {
    const playback = new Playback(film(0, 400), 16);
    playback.play();
    playback.keepTo(8);
    const shown = run(playback, 5);
    expect(shown.length).toBeGreaterThan(35);
    expect(shown.length).toBeLessThan(42);
    expect(playback.speed).toBeCloseTo(0.485);
    playback.keepTo(15.9);
    expect(playback.speed).toBe(1);
    playback.keepTo(0.01);
    expect(playback.speed).toBeCloseTo(2 / 16);
    playback.keepTo(null);
    expect(playback.speed).toBe(1);
  });

  it("does not make up for a stall", () => {
    const playback = new Playback(film(0, 400), 16);
    playback.play();
    run(playback, 1);
    const before = playback.frame;
    playback.tick(9000, true);
    expect(playback.frame - before).toBeLessThanOrEqual(5);
  });

  it("skips frames that were lost", () => {
    const held = film(0, 9);
    held.put(2, 21, [1], new Uint8Array(1));
    const playback = new Playback(held, 16);
    playback.play();
    expect(run(playback, 1).slice(-2)).toEqual([8, 21]);
  });

  it("stops by itself at the end of a step", () => {
    const playback = new Playback(film(0, 100), 16);
    playback.runTo(8);
    run(playback, 2);
    expect([playback.frame, playback.running]).toEqual([8, false]);
    playback.play();
    run(playback, 0.5, 2000);
    expect(playback.frame).toBeGreaterThan(8);
  });

  it("begins where the frames begin", () => {
    const playback = new Playback(film(45, 60), 16);
    playback.play();
    expect(run(playback, 0.1)[0]).toBe(45);
    playback.seek(50);
    expect(playback.frame).toBe(50);
    playback.seek(10);
    expect(playback.frame).toBe(45);
    playback.seek(500);
    expect(playback.frame).toBe(59);
  });

  it("is patient with an empty film", () => {
    const playback = new Playback(new Film(), 16);
    playback.play();
    expect(run(playback, 1)).toEqual([]);
    expect([playback.starved, playback.rate(1000)]).toEqual([true, null]);
  });
});
