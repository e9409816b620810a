import { describe, expect, it } from "vitest";
import { Film } from "../src/film";
import { Playback } from "../src/playback";
import { film, grid } from "./helpers";

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

  it("keeps to a machine that is slower than the clock, where it shows what is made just now", () => {
    const held = film(0, 21);
    const playback = new Playback(held, 16);
    playback.play();
    playback.keepTo(8);
    const shown = run(playback, 2);
    expect(shown.length).toBeGreaterThan(13);
    expect(shown.length).toBeLessThan(18);
    expect(playback.speed).toBeCloseTo(0.485);
    playback.keepTo(15.9);
    expect(playback.speed).toBe(1);
    playback.keepTo(0.01);
    expect(playback.speed).toBeCloseTo(2 / 16);
    playback.keepTo(null);
    expect(playback.speed).toBe(1);
    // In the past there is no need to wait for anybody.
    playback.keepTo(8);
    held.end = 400;
    expect(playback.speed).toBe(1);
  });

  it.each([0.25, 0.5, 2, 4])("plays at %s times the clock", (tempo) => {
    const playback = new Playback(film(0, 800), 16);
    playback.tempo = tempo;
    playback.play();
    playback.keepTo(10);
    run(playback, 5);
    expect(Math.abs(playback.frame - 80 * tempo)).toBeLessThanOrEqual(2);
    expect(playback.passed).toBe(playback.frame);
  });

  it("plays a range over and over", () => {
    const playback = new Playback(film(0, 100), 16);
    playback.range = { from: 20, to: 30 };
    playback.seek(25);
    playback.play();
    const shown = run(playback, 2);
    expect(Math.min(...shown)).toBe(20);
    expect(Math.max(...shown)).toBe(29);
    expect(shown.slice(0, 8)).toEqual([26, 27, 28, 29, 20, 21, 22, 23]);
    // Beyond the range it plays on.
    playback.seek(40);
    expect(run(playback, 0.5, 2000).at(-1)).toBeGreaterThan(44);
  });

  it("waits at the end of a range whose beginning is not here any more", () => {
    const held = film(21, 45);
    held.live = 3;
    const playback = new Playback(held, 16);
    playback.range = { from: 9, to: 30 };
    playback.seek(25);
    playback.play();
    run(playback, 1);
    expect([playback.frame, playback.starved]).toEqual([29, true]);
    held.put(1, 9, new Array(12).fill(1), new Uint8Array(12));
    playback.tick(1010, true);
    expect(playback.frame).toBe(9);
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
    held.miss(1, 2);
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

  it("begins where it is told to, and goes where it is put", () => {
    const held = film(45, 60);
    const playback = new Playback(held, 16);
    playback.reset(45);
    expect(playback.place).toBe(45);
    playback.play();
    expect(run(playback, 0.1)[0]).toBe(45);
    playback.seek(50.2);
    expect(playback.frame).toBe(50);
    playback.seek(10); // not here, but it can be had
    expect(playback.frame).toBe(10);
    held.miss(0, 3);
    playback.seek(10);
    expect(playback.frame).toBe(grid.start(3));
    playback.seek(500);
    expect(playback.frame).toBe(59);
    playback.seek(-3);
    expect(playback.frame).toBe(grid.start(3));
  });

  it("is patient with an empty film", () => {
    const playback = new Playback(new Film(grid), 16);
    playback.play();
    expect(run(playback, 1)).toEqual([]);
    expect([playback.starved, playback.rate(1000)]).toEqual([true, null]);
  });
});
