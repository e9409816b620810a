import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Darkroom, type Hand } from "../src/darkroom";

function picture(name: string): ImageBitmap & { closed: boolean } {
  const made = { name, closed: false, close: () => void (made.closed = true) };
  return made as unknown as ImageBitmap & { closed: boolean };
}

/** A worker that answers when it is told to. */
class Helper implements Hand {
  onmessage: ((event: MessageEvent) => void) | null = null;
  onerror: ((event: ErrorEvent) => void) | null = null;
  asked: { id: number; jpeg: Uint8Array }[] = [];
  ended = false;

  postMessage(message: unknown): void {
    this.asked.push(message as { id: number; jpeg: Uint8Array });
  }

  terminate(): void {
    this.ended = true;
  }

  answer(data: unknown): void {
    this.onmessage?.({ data } as MessageEvent);
  }
}

describe("darkroom", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it("sends a copy to one worker and gives each picture to who asked for it", async () => {
    const helper = new Helper();
    const begun = vi.fn(() => helper);
    const room = new Darkroom(begun, () => Promise.reject(new Error("here")));
    const file = new Uint8Array([1, 2, 3]);
    const [first, second] = [room.decode(file), room.decode(new Uint8Array([4]))];
    expect(begun).toHaveBeenCalledTimes(1);
    expect([...(helper.asked[0]?.jpeg ?? [])]).toEqual([1, 2, 3]);
    expect(helper.asked[0]?.jpeg.buffer).not.toBe(file.buffer);
    const [a, b] = [picture("a"), picture("b")];
    helper.answer({ id: helper.asked[1]?.id, picture: b });
    helper.answer({ id: helper.asked[0]?.id, picture: a });
    expect(await first).toBe(a);
    expect(await second).toBe(b);
  });

  it("passes on that a file is broken, and lets go of a picture that nobody asked for", async () => {
    const helper = new Helper();
    const room = new Darkroom(() => helper);
    const asked = room.decode(new Uint8Array([1]));
    helper.answer({ id: helper.asked[0]?.id, error: "no JPEG" });
    await expect(asked).rejects.toThrow("no JPEG");
    const late = picture("late");
    helper.answer({ id: 99, picture: late });
    expect(late.closed).toBe(true);
  });

  it("works by itself where workers are not allowed", async () => {
    const alone = vi.fn(async (_: Uint8Array) => picture("alone"));
    const barred = new Darkroom(() => {
      throw new Error("not allowed");
    }, alone);
    await barred.decode(new Uint8Array([1]));
    expect(alone).toHaveBeenCalledTimes(1);

    const helper = new Helper();
    const later = new Darkroom(() => helper, alone);
    const asked = later.decode(new Uint8Array([2]));
    helper.onerror?.({} as ErrorEvent);
    await asked;
    await later.decode(new Uint8Array([3]));
    expect(alone.mock.calls.map(([jpeg]) => [...jpeg])).toEqual([[1], [2], [3]]);
    expect(helper.ended).toBe(true);
    expect(helper.asked).toHaveLength(1);
  });

  it("lets go of a worker that has nothing to do, and begins another", () => {
    const helpers: Helper[] = [];
    const room = new Darkroom(() => helpers[helpers.push(new Helper()) - 1] as Helper, undefined, 1000);
    void room.decode(new Uint8Array([1]));
    vi.advanceTimersByTime(5000);
    expect(helpers[0]?.ended).toBe(false);
    helpers[0]?.answer({ id: helpers[0].asked[0]?.id, picture: picture("a") });
    vi.advanceTimersByTime(1000);
    expect(helpers[0]?.ended).toBe(true);
    void room.decode(new Uint8Array([2]));
    expect(helpers).toHaveLength(2);
  });
});
