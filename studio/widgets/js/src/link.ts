import type { Message, Model, Reply } from "./types";

/** How the kernel is doing, as seen from this page. */
export type Contact = "connecting" | "good" | "deaf" | "lost" | "restarted";

const PING_MS = 2500;
/** A page that cannot reach a kernel which is busy with a cell says so after this long. */
const DEAF_MS = 4000;
/** After this long without any message the way past a model that was given up is taken. */
const MEND_MS = 3000;
/** Without a sign of life the kernel counts as gone after this long. */
const LOST_MS = 9000;

/** A name that this tab keeps when it is reloaded, so that the kernel does not wait for the page that was there before. */
function pageName(): string {
  const key = "studio-page";
  const fresh = crypto.randomUUID?.() ?? `page-${Math.random().toString(36).slice(2)}`;
  try {
    const name = sessionStorage.getItem(key) ?? fresh;
    sessionStorage.setItem(key, name);
    return name;
  } catch {
    return fresh; // Some front ends have no storage.
  }
}

/** Talks to the kernel: numbered commands with replies, confirmations, signs of life in both directions. */
export class Link {
  readonly client: string;
  contact: Contact = "connecting";
  private numbers = 0;
  private waiting = new Map<number, (answer: Message) => void>();
  private heardAt: number;
  private pingSent: number | null = null;
  private disconnected = false;
  private mended = false;
  private timer: ReturnType<typeof setInterval> | null = null;

  constructor(
    private readonly model: Model,
    private readonly receive: (message: Message, buffers: DataView[]) => void,
    private readonly changed: () => void,
    private readonly now: () => number = () => performance.now(),
  ) {
    this.client = pageName();
    this.heardAt = this.now();
    model.on("msg:custom", this.onMessage);
    model.on("comm_live_update", this.onConnection);
    model.on("comm:close", this.onConnection);
  }

  /** Ask for everything and begin to watch the connection. */
  open(): void {
    this.heardAt = this.now();
    this.pingSent = null;
    this.tell("ready", { hidden: document.hidden });
    this.timer ??= setInterval(() => this.watch(), PING_MS / 2);
  }

  /** Tell the kernel that nobody looks any more. */
  leave(): void {
    if (this.timer !== null) clearInterval(this.timer);
    this.timer = null;
    this.tell("bye");
  }

  destroy(): void {
    this.leave();
    this.model.off("msg:custom", this.onMessage);
    this.model.off("comm_live_update", this.onConnection);
    this.model.off("comm:close", this.onConnection);
  }

  tell(type: string, fields: Record<string, unknown> = {}, buffers: ArrayBuffer[] = []): void {
    try {
      const content = { type, client: this.client, ...fields };
      if (buffers.length > 0) this.model.send(content, undefined, buffers);
      else this.model.send(content);
    } catch {
      // The connection is gone; the watch says so.
    }
  }

  /** Send a command; resolves with its reply, which may be a refusal. */
  ask(type: string, fields: Record<string, unknown> = {}, buffers: ArrayBuffer[] = []): Promise<Reply> {
    return new Promise((resolve) => this.askFor(type, fields, (answer) => resolve(answer as Reply), buffers));
  }

  askFor(type: string, fields: Record<string, unknown>, answered: (answer: Message) => void, buffers: ArrayBuffer[] = []): void {
    const id = ++this.numbers;
    this.waiting.set(id, answered);
    this.tell(type, { id, ...fields }, buffers);
  }

  /** Look at the clock: is the kernel there, and do messages reach it? */
  watch(): void {
    const now = this.now();
    const quiet = now - this.heardAt;
    if (this.contact === "connecting" && quiet > MEND_MS && !this.mended) void this.mend();
    const unanswered = this.pingSent === null ? 0 : now - this.pingSent;
    // A hidden page is woken rarely, so its clock says nothing.
    if (!document.hidden && this.contact !== "restarted") {
      if (this.disconnected && unanswered > 2 * PING_MS) this.setContact("restarted");
      else if (quiet > LOST_MS) this.setContact("lost");
      else if (unanswered > DEAF_MS) this.setContact("deaf");
    }
    if (this.pingSent === null) {
      this.pingSent = now;
      this.askFor("ping", {}, () => {
        this.pingSent = null;
        this.disconnected = false;
        this.setContact("good");
      });
    } else if (unanswered > LOST_MS) {
      // That one is lost; a new question finds out when the kernel is back.
      this.pingSent = null;
    }
  }

  /**
   * Listen to the connection itself. anywidget drops every message to a model whose code was not loaded within two
   * seconds, as happens on a machine that is busy starting other things, and never picks it up again.
   */
  private async mend(): Promise<void> {
    this.mended = true;
    try {
      const model = await this.model.widget_manager?.get_model(String(this.model.get("key")));
      model?.comm?.on_msg(({ content, buffers }) => {
        if (content.data.method === "custom" && content.data.content) this.onMessage(content.data.content, buffers ?? []);
      });
    } catch {
      return; // Then the watch says that the kernel does not answer.
    }
    this.tell("ready", { hidden: document.hidden });
  }

  private setContact(contact: Contact): void {
    if (contact === this.contact) return;
    this.contact = contact;
    this.changed();
  }

  private onMessage = (message: Message, buffers: DataView[]): void => {
    if (this.timer === null) return; // Nobody looks: what is still under way is not for us.
    this.heardAt = this.now();
    if (this.contact === "connecting" || this.contact === "lost") this.setContact("good");
    if ("client" in message) {
      if (message.client !== this.client) return;
      const answered = this.waiting.get(message.id);
      this.waiting.delete(message.id);
      answered?.(message);
      return;
    }
    this.receive(message, buffers);
  };

  private onConnection = (): void => {
    // The widget's other end went away: a kernel that was restarted has no such widget any more. A ping makes sure.
    this.disconnected = true;
    this.pingSent = null;
    this.watch();
  };
}
