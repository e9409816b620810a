import { describe, expect, it } from "vitest";
import { Fetching } from "../src/fetching";
import { Film } from "../src/film";
import { grid } from "./helpers";

function asking() {
  const asked: [number, number, number][] = [];
  const fetching = new Fetching((take, block, count) => asked.push([take, block, count]));
  const film = new Film(grid);
  film.clear(2, 40, grid.start(40));
  return { asked, fetching, film };
}

describe("fetching", () => {
  it("asks for what is lacking once, and again when it does not come", () => {
    const { asked, fetching, film } = asking();
    expect(fetching.need(film, 5, 3, 1000)).toBe(true);
    expect(fetching.need(film, 5, 3, 1500)).toBe(true);
    expect(asked).toEqual([[2, 5, 3]]);
    fetching.need(film, 5, 3, 6000);
    expect(asked).toEqual([[2, 5, 3], [2, 5, 3]]);
  });

  it("asks on while it plays, for what is under way as well: the last question counts", () => {
    const { asked, fetching, film } = asking();
    fetching.need(film, 5, 3, 1000);
    film.put(5, grid.start(5), new Array(12).fill(1), new Uint8Array(12));
    fetching.need(film, 6, 3, 1200);
    expect(asked).toEqual([[2, 5, 3], [2, 6, 3]]);
  });

  it("does not ask for what is here, gone, or to come by itself", () => {
    const { asked, fetching, film } = asking();
    film.put(5, grid.start(5), new Array(12).fill(1), new Uint8Array(12));
    film.miss(6, 8);
    expect(fetching.need(film, 5, 3, 1000)).toBe(false);
    expect(fetching.need(film, 39, 3, 1000)).toBe(true);
    expect(fetching.need(film, 40, 3, 1000)).toBe(false);
    expect(asked).toEqual([[2, 39, 1]]);
  });

  it("begins anew with another take", () => {
    const { asked, fetching, film } = asking();
    fetching.need(film, 5, 1, 1000);
    film.clear(3, 40, grid.start(40));
    fetching.need(film, 5, 1, 1001);
    expect(asked).toEqual([[2, 5, 1], [3, 5, 1]]);
  });
});
