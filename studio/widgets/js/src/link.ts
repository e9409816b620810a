import type { Comm, CommMessage, Message, Model, Reply } from "./types";

/** How the kernel is doing, as seen from this page. */
export type Contact = "connecting" | "good" | "deaf" | "lost" | "restarted";

const PING_MS = 2500;
/** A page that cannot reach a kernel which is busy with a cell says so after this long. */
const DEAF_MS = 4000;
/** After this long without any message the way past a model that was given up is taken. */
const MEND_MS = 3000;
/** Without a sign of life the kernel counts as gone after this long. */
const LOST_MS = 9000;

/** The name, shared by all widgets of the page, whichever copy of this module they came with. */
const NAME = Symbol.for("studio.page");
type Page = Pick<Window, "sessionStorage" | "addEventListener">;

/**
 * A name that this tab keeps when it is reloaded, so that the kernel does not wait for the page that was there before.
 *
 * It is put down only as the page goes: a tab that is duplicated takes along what was put down, and must not find it.
 */
export function pageName(page: Page = globalThis): string {
  const held = page as { [NAME]?: string };
  return (held[NAME] ??= named(page));
}

function named(page: Page): string {
  const key = "studio-page";
  const fresh = crypto.randomUUID?.() ?? `page-${Math.random().toString(36).slice(2)}`;
  try {
    const storage = page.sessionStorage;
    const name = storage.getItem(key) ?? fresh;
    storage.removeItem(key);
    page.addEventListener("pagehide", () => storage.setItem(key, name));
    page.addEventListener("pageshow", () => storage.removeItem(key));
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
  /** Gives the connection back to who listened to it before; null where nobody was displaced. */
  private giveBack: (() => void) | null = null;
  /** Messages that were taken from the connection itself. */
  private readonly taken = new WeakSet<Message>();
  private timer: ReturnType<typeof setInterval> | null = null;

  constructor(
    private readonly model: Model,
    private readonly receive: (message: Message, buffers: DataView[]) => void,
    private readonly changed: () => void,
    private readonly now: () => number = () => performance.now(),
  ) {
    this.client = pageName();
    this.heardAt = this.now();
    model.on("msg:custom", this.onCustom);
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
    this.giveBack?.();
    this.model.off("msg:custom", this.onCustom);
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
   *
   * The connection has one listener. Who listened before goes on hearing everything, or no trait would ever change in
   * this page again; as soon as the model passes messages on by itself, the connection is given back.
   */
  private async mend(): Promise<void> {
    this.mended = true;
    try {
      const model = await this.model.widget_manager?.get_model(String(this.model.get("key")));
      if (this.contact !== "connecting") return; // It was only late.
      const { comm } = model ?? {};
      const former = comm === undefined ? null : listenerOf(comm) ?? model?._handle_comm_msg?.bind(model) ?? null;
      comm?.on_msg((message) => {
        const { method, content } = message.content.data;
        if (method === "custom" && content) {
          this.taken.add(content);
          this.onMessage(content, message.buffers ?? []);
        }
        // A model that was given up refuses everything; whoever hands out the messages need not hear of it.
        return Promise.resolve(former?.(message)).catch(() => {});
      });
      if (comm !== undefined && former !== null) this.giveBack = () => comm.on_msg(former);
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

  /** A message came by the normal way. */
  private onCustom = (message: Message, buffers: DataView[]): void => {
    this.giveBack?.();
    this.giveBack = null;
    if (!this.taken.delete(message)) this.onMessage(message, buffers);
  };

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

/** Who listens to a connection, where it says so. */
function listenerOf(comm: Comm): ((message: CommMessage) => unknown) | undefined {
  const { jsServicesComm } = comm;
  return jsServicesComm?.onMsg?.bind(jsServicesComm) ?? comm.onMsg?.bind(comm);
}
