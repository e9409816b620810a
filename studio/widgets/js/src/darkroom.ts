/** Decompresses one picture. */
export type Decode = (jpeg: Uint8Array) => Promise<ImageBitmap>;

/** The part of a worker that is needed here. */
export interface Hand {
  postMessage(message: unknown, transfer: Transferable[]): void;
  terminate(): void;
  onmessage: ((event: MessageEvent) => void) | null;
  onerror: ((event: ErrorEvent) => void) | null;
}

interface Job {
  jpeg: Uint8Array;
  resolve: (picture: ImageBitmap) => void;
  reject: (error: unknown) => void;
}

/** A worker with nothing to do for so long is let go of; the next picture begins another one. */
const IDLE_MS = 20_000;

// Runs in the worker, so it knows nothing of this module.
const WORK = `onmessage = async ({ data: { id, jpeg } }) => {
  try {
    const picture = await createImageBitmap(new Blob([jpeg], { type: "image/jpeg" }));
    postMessage({ id, picture }, [picture]);
  } catch (error) {
    postMessage({ id, error: String(error) });
  }
};`;

function hire(): Hand {
  const address = URL.createObjectURL(new Blob([WORK], { type: "text/javascript" }));
  try {
    return new Worker(address);
  } finally {
    URL.revokeObjectURL(address);
  }
}

const here: Decode = (jpeg) => createImageBitmap(new Blob([jpeg as Uint8Array<ArrayBuffer>], { type: "image/jpeg" }));

/**
 * Decompresses pictures beside the page, where it costs the page's own thread nothing: already handing a file to the
 * browser takes that thread longer than all the rest of a frame. Where workers are not allowed it is done here.
 */
export class Darkroom {
  private hand: Hand | null = null;
  private barred = false;
  private jobs = new Map<number, Job>();
  private numbers = 0;
  private idle: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly begin: () => Hand = hire, private readonly alone: Decode = here, private readonly idleMs = IDLE_MS) {}

  readonly decode: Decode = (jpeg) => {
    const hand = this.reach();
    if (hand === null) return this.alone(jpeg);
    return new Promise((resolve, reject) => {
      const id = ++this.numbers;
      this.jobs.set(id, { jpeg, resolve, reject });
      const copy = jpeg.slice();
      hand.postMessage({ id, jpeg: copy }, [copy.buffer]);
    });
  };

  private reach(): Hand | null {
    clearTimeout(this.idle);
    this.idle = setTimeout(() => this.rest(), this.idleMs);
    if (this.hand !== null || this.barred) return this.hand;
    try {
      const hand = this.begin();
      hand.onmessage = ({ data }) => this.done(data as { id: number; picture?: ImageBitmap; error?: string });
      hand.onerror = () => this.bar();
      this.hand = hand;
    } catch {
      this.barred = true;
    }
    return this.hand;
  }

  private done({ id, picture, error }: { id: number; picture?: ImageBitmap; error?: string }): void {
    const job = this.jobs.get(id);
    this.jobs.delete(id);
    if (job === undefined) picture?.close();
    else if (picture !== undefined) job.resolve(picture);
    else job.reject(new Error(error));
  }

  /** This page may have no workers: what was begun is done here. */
  private bar(): void {
    this.barred = true;
    this.hand?.terminate();
    this.hand = null;
    const left = [...this.jobs.values()];
    this.jobs.clear();
    for (const { jpeg, resolve, reject } of left) this.alone(jpeg).then(resolve, reject);
  }

  private rest(): void {
    if (this.jobs.size > 0) {
      this.idle = setTimeout(() => this.rest(), this.idleMs);
      return;
    }
    this.hand?.terminate();
    this.hand = null;
  }
}

export const decodeJpeg: Decode = new Darkroom().decode;
