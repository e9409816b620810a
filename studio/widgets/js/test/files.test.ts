import { describe, expect, it } from "vitest";
import { fileName, partOf, pieces, unfit, withEnding } from "../src/files";
import { branches, forkBlock, seekScale, stripes } from "../src/reach";
import type { Take } from "../src/types";
import { grid, timeline } from "./helpers";

describe("files", () => {
  it("names a file after its prompt", () => {
    expect(fileName("A red fox, running in the SNOW at night")).toBe("a_red_fox_running_in");
    expect(fileName("🦊")).toBe("video");
    expect(fileName("../../etc/passwd")).toBe("etc_passwd");
  });

  it("changes the ending with the format", () => {
    expect(withEnding("fox.mp4", "gif")).toBe("fox.gif");
    expect(withEnding("fox.gif", "png")).toBe("fox");
    expect(withEnding(" ", "webm")).toBe("video.webm");
    expect(withEnding("fox.v2", "mp4")).toBe("fox.v2.mp4");
  });

  it("takes the loop or everything", () => {
    expect(partOf("all", { from: 3, to: 9 }, 100)).toEqual([0, 100]);
    expect(partOf("range", { from: 3, to: 9 }, 100)).toEqual([3, 9]);
    expect(partOf("range", { from: 3, to: 900 }, 100)).toEqual([3, 100]);
    expect(partOf("range", null, 100)).toEqual([0, 100]);
  });

  it("cuts a file into parts", () => {
    expect(pieces(10, 4)).toEqual([[0, 4], [4, 8], [8, 10]]);
    expect(pieces(8, 4)).toEqual([[0, 4], [4, 8]]);
    expect(pieces(0, 4)).toEqual([[0, 0]]);
  });

  it("says what cannot be started from", () => {
    expect(unfit({ name: "a.png", size: 10, type: "image/png" }, 100)).toBeNull();
    expect(unfit({ name: "a", size: 10, type: "" }, 100)).toBeNull();
    expect(unfit({ name: "a.txt", size: 10, type: "text/plain" }, 100)).toContain("no image or clip");
    expect(unfit({ name: "a.mp4", size: 0, type: "video/mp4" }, 100)).toContain("empty");
    expect(unfit({ name: "a.mp4", size: 2 ** 30, type: "video/mp4" }, 2 ** 28)).toContain("larger than 256 MiB");
  });
});

describe("what is within reach", () => {
  const take = (number: number, parent: number | null, forked_at: number, blocks: number): Take =>
    ({ number, name: `t${number}`, parent, forked_at, blocks, seed: 0, current: number === 0 });

  it("shows takes as a tree beside the longest", () => {
    const found = branches([take(0, null, 0, 10), take(1, 0, 4, 20), take(2, null, 0, 5), take(3, 1, 6, 8), take(4, 9, 2, 4)]);
    expect(found.map(({ take: one, depth }) => [one.number, depth])).toEqual([[0, 0], [1, 1], [3, 2], [2, 0], [4, 0]]);
    expect(found[1]).toMatchObject({ from: 0.2, to: 1 });
  });

  it("colours what was made by its prompts", () => {
    const line = timeline([0, 2, 50]);
    expect(stripes(line, grid, 45)).toEqual([[0, 21 / 45, 0], [21 / 45, 1, 1]]);
    expect(stripes(line, grid, 0)).toEqual([]);
    expect(seekScale(line, grid, 45)).toBe(45);
    expect(seekScale(timeline([0], 10), grid, 45)).toBe(grid.start(10));
    expect(seekScale(line, grid, 0)).toBe(1);
  });

  it("forks at the block that is shown", () => {
    expect(forkBlock(grid, 0, 45)).toBe(0);
    expect(forkBlock(grid, 22, 45)).toBe(2);
    expect(forkBlock(grid, 900, 45)).toBe(4);
    expect(forkBlock(grid, 5, 0)).toBe(0);
  });
});
