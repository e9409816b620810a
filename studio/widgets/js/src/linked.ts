import type { Pin } from "./readings";

/** What one view points at, for the others to show as well. */
export interface Shown {
  /** The latent frame whose slot is pointed at; null for none. */
  pointed?: number | null;
  /** The layer and head that all views show. */
  pin?: Pin;
  /** The block looked at; null for the newest. */
  chosen?: number | null;
}

interface Told extends Shown {
  origin: string;
  /** Who comes late asks what the others show. */
  asking?: boolean;
}

/** The part of a BroadcastChannel that is used here. */
export interface Channel {
  postMessage(message: unknown): void;
  addEventListener(type: "message", listener: (event: { data: unknown }) => void): void;
  close(): void;
}

const NAME = "longlive-studio";

/** Links the widgets of one source, in this page and in other tabs: each widget's code is a copy of its own. */
export class Linked {
  private channel: Channel | null = null;
  private origin = "";

  constructor(
    private readonly heard: (shown: Shown) => void,
    private readonly open: () => Channel = () => new BroadcastChannel(NAME) as Channel,
    private readonly known: () => Shown | null = () => null,
  ) {}

  /** Find the others of a source. */
  join(origin: string): void {
    this.origin = origin;
    if (this.channel !== null || origin === "") return;
    try {
      this.channel = this.open();
    } catch {
      return; // Some front ends have no channels; then each widget is by itself.
    }
    this.channel.addEventListener("message", ({ data }) => {
      const told = data as Partial<Told> | null;
      if (told === null || typeof told !== "object" || told.origin !== this.origin) return;
      if (told.asking !== true) return this.heard(told);
      const known = this.known();
      if (known !== null) this.tell(known);
    });
    this.channel.postMessage({ origin, asking: true });
  }

  tell(shown: Shown): void {
    this.channel?.postMessage({ origin: this.origin, ...shown });
  }

  close(): void {
    this.channel?.close();
    this.channel = null;
  }
}
