// The messages between the kernel and this page; studio/widgets/protocol.py has the other end.

export interface GridSize {
  /** Frames in the first block. */
  first: number;
  /** Frames in every later block. */
  rest: number;
}

/** A prompt that is mixed in. */
export interface Weighted {
  prompt: string;
  weight: number;
}

/** How the prompt before goes over into a segment's own, through its first blocks. */
export interface Transition {
  blocks: number;
  kind: "linear" | "spherical";
}

export interface Segment {
  prompt: string;
  /** First block. */
  start: number;
  /** A place in the palette, or a colour of its own. */
  colour: number | string;
  policy?: string;
  sink_policy?: string;
  note?: string;
  weight?: number;
  blend?: Weighted[];
  transition?: Transition;
}

export interface Marker {
  block: number;
  name?: string;
  colour?: string;
}

/** What undo and redo would go over, and how many steps there are of each. */
export interface History {
  /** Raised by every change. */
  version: number;
  undo: string | null;
  redo: string | null;
  steps: [number, number];
}

export interface Timeline {
  segments: Segment[];
  /** By number of a prompt the segment that it stands for: mere cuts, as a split leaves them, do not count. */
  turns: number[];
  /** Blocks in all; null for no end. */
  length: number | null;
  markers: Marker[];
  /** Places in the palette of the prompts that are mixed in. */
  shades: Record<string, number>;
  /** Null where nothing can be edited. */
  history: History | null;
}

/** One run of a timeline, forked from a block of another. */
export interface Take {
  number: number;
  name: string;
  parent: number | null;
  /** Its first block that its parent does not have. */
  forked_at: number;
  blocks: number;
  seed: number;
  current: boolean;
}

/** A file that is written. */
export interface Saving {
  path: string;
  state: "running" | "done" | "cancelled" | "failed";
  /** Frames written, and in all. */
  done: number;
  total: number;
  error: string | null;
}

/** A prompt that a key switches to. */
export interface Quick {
  name: string;
  prompt: string;
}

/** An edit of the timeline; `studio/timeline/operations.py` says what each one does. */
export interface Operation {
  op: string;
  [name: string]: unknown;
}

/** What to do where an edit changes what was generated. */
export type Choice = "keep" | "fork" | "regenerate";

/** Why an edit was held back: it would change blocks from `block` on, of which `begun` have begun. */
export interface Past {
  block: number;
  begun: number;
  choices: Choice[];
}

export interface Switch {
  prompt: string;
  policy: string;
  requested_frame: number;
  requested_block: number;
  effective_block: number;
  effective_frame: number;
  latency_s: number | null;
}

export interface Stats {
  /** The take that was current. */
  take: number;
  generated_fps: number | null;
  denoise_ms: number | null;
  commit_ms: number | null;
  recache_ms: number | null;
  vae_ms: number | null;
  switch_latency_s: number | null;
  lead_s: number | null;
  played_fps: number | null;
  next_frame_s: number | null;
  dropped_frames: number;
  device_state: string;
  generated_blocks: number;
  generated_frames: number;
  seed: number;
  device: string;
}

export interface Failure {
  message: string;
  traceback: string;
}

export interface UnknownWord {
  word: string;
  start: number;
  end: number;
  nearest: string | null;
}

export type SourceState =
  | "idle" | "warming" | "playing" | "waiting" | "paused" | "finished" | "error" | "closed";

export interface Hello {
  type: "hello";
  version: number;
  name: string;
  fps: number;
  width: number;
  height: number;
  grid: GridSize;
  take: number;
  playhead: number;
  /** First block that arrives by itself; earlier ones are asked for. */
  live: number;
  /** Frames made. */
  made: number;
  /** Whether it keeps takes and goes on from any block of them. */
  forkable: boolean;
  /** Whether it can start from a picture or a clip, and be written to a file; the last such file. */
  startable: boolean;
  exportable: boolean;
  export: Saving | null;
  /** Whether frames come as well; else the newest block is shown. */
  frames: boolean;
  /** Whether the cache can be watched, and whether it is. */
  watchable: boolean;
  watching: boolean;
  /** Whether the residue is measured. */
  measuring: boolean;
  /** Whether blocks that nobody watched can be read later. */
  rereads: boolean;
  /** Whether a point of a block that is there already can be read. */
  looks_back: boolean;
  /** Why watching, or measuring, ended by itself. */
  trouble: string | null;
  again: Again;
  /** Name of what makes the frames, the same in all its widgets. */
  origin: string;
  /** Whether the timeline can be edited. */
  editable: boolean;
  takes: Take[];
  quick: Quick[];
  state: SourceState;
  timeline: Timeline;
  /** The switches of this take so far. */
  switches: Switch[];
  stats: Stats;
  error: Failure | null;
}

export interface BlockMessage {
  type: "block";
  serial: number;
  take: number;
  index: number;
  /** Frame number of the first frame sent. */
  first: number;
  /** Frame number just past the block, of which this message may hold a part. */
  end: number;
  sizes: number[];
  /** JPEG quality where a slow link had it lowered. */
  reduced: number | null;
  prompt: string;
  switch: Switch | null;
}

/** Frame, role, prompt, way of writing, block of writing. */
export type SlotFields = [
  number | null, "sink" | "window" | "empty", number | null, "commit" | "recache" | null, number | null,
];

/** Something wrong with the cache. */
export interface Fault {
  kind: string;
  block: number;
  layer: number | null;
  slot: number | null;
  message: string;
}

export interface CacheMessage {
  type: "cache";
  /** To be confirmed, where it was not sent as soon as it was read. */
  serial?: number;
  take: number;
  block: number;
  prompt: string;
  policy: string | null;
  prompts: Record<string, string>;
  slots: SlotFields[];
  before: SlotFields[] | null;
  own: number[];
  layers: number[];
  heads: number;
  /** Token rows and columns of a latent frame. */
  tokens: [number, number];
  /** Frame within the block, token row and column of the point whose gaze was read. */
  point: [number, number, number] | null;
  words: string[] | null;
  grid: [number, number];
  counts: number[];
  sizes: number[];
  /** What was left of the prompt before the last switch, by moment. */
  residue: Partial<Record<Moment, number | null>>;
  /** The same by slot, when the block was made; empty where it was not measured. */
  left: (number | null)[];
  /** How well the latest frames show each prompt, by its number. */
  alignment: Record<string, number | null>;
  /** Every word in the cache, those of old prompts too: prompt, place, text and share of the attention; null where unknown. */
  trace: { words: [number, number, string, number][]; rest: number; unheard: number } | null;
  warnings: Fault[];
}

/** Whether something is being read once more, and what went wrong the last time. */
export interface Again {
  busy: boolean;
  error: string | null;
}

export type Moment = "before" | "after" | "made";

export interface Reply {
  type: "reply";
  client: string;
  id: number;
  error: string | null;
  effective_block?: number;
  /** Set where an edit would change the past. */
  past?: Past | null;
  version?: number;
  /** What was moved or passed over when a file was read. */
  notes?: string[];
  /** A file that was written: what stands in it, its name, and what it cannot hold. */
  text?: string;
  name?: string;
  lost?: string[];
}

export interface ThumbsMessage {
  type: "thumbs";
  take: number;
  blocks: number[];
  sizes: number[];
}

export type Message =
  | Hello
  | BlockMessage
  | CacheMessage
  | Reply
  | { type: "watch"; on: boolean; measuring: boolean; trouble: string | null }
  | ({ type: "again" } & Again)
  | ({ type: "timeline" } & Timeline)
  | ThumbsMessage
  | { type: "takes"; takes: Take[] }
  | { type: "quick"; prompts: Quick[] }
  | ({ type: "stats" } & Stats)
  | ({ type: "error" } & Failure)
  | { type: "state"; state: SourceState }
  | { type: "switch"; switch: Switch }
  /** Another take is shown than the `former` one; `shared` of the first blocks are the same in both. */
  | { type: "restart"; take: number; former: number; shared: number; seed: number; start: number; live: number; made: number }
  | { type: "export"; export: Saving | null }
  | { type: "missing"; take: number; block: number; next: number }
  | { type: "words"; client: string; id: number; unknown: UnknownWord[] }
  | { type: "pong"; client: string; id: number }
  | { type: "beat" };

/** The part of a Jupyter widget model that is used here. */
export interface Model {
  get(name: string): unknown;
  on(name: string, callback: (...args: never[]) => void): void;
  off(name?: string | null, callback?: ((...args: never[]) => void) | null): void;
  send(content: unknown, callbacks?: unknown, buffers?: ArrayBuffer[]): void;
  widget_manager?: { get_model(key: string): Promise<{ comm?: Comm; _handle_comm_msg?(message: CommMessage): unknown }> };
}

/** The connection below a widget model. */
export interface Comm {
  on_msg(callback: (message: CommMessage) => unknown): void;
  /** Who listens so far: on_msg takes their place. */
  onMsg?: (message: CommMessage) => unknown;
  jsServicesComm?: { onMsg?: (message: CommMessage) => unknown };
}

export interface CommMessage {
  content: { data: { method?: string; content?: Message } };
  buffers?: DataView[];
}
