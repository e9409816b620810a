// The messages of the recache lab; studio/widgets/lab.py has the other end.
import type { GridSize, Moment, SlotFields } from "../types";

/** A policy, alone or with what its recache does to the sink. */
export type Policy = string | string[];

export interface LabState {
  type: "labstate";
  version: number;
  state: "making" | "ready" | "error" | "closed";
  error: string | null;
}

export interface LabSettings extends Omit<LabState, "type"> {
  type: "lab";
  name: string;
  fps: number;
  width: number;
  height: number;
  grid: GridSize;
  first: string;
  then: string;
  /** First block under the second prompt. */
  at: number;
  blocks: number;
  seed: number;
  policies: Policy[];
  names: string[];
  /** Whether somebody judges what the films show. */
  judged: boolean;
  /** Words of the prompts that the model has never seen. */
  unknown: { word: string; nearest: string | null }[];
  choices: Policy[];
}

export interface LabBlock {
  type: "labblock";
  version: number;
  /** Number of the run; null where all share it. */
  run: number | null;
  block: number;
  policy: string | null;
  slots: SlotFields[];
  own: number[];
  /** Share of the attention on each slot. */
  shares: number[];
  residue: Partial<Record<Moment, number | null>>;
  alignment: Record<string, number | null>;
  /** Share of the attention that finds words of the first prompt and of the second in the cache; empty where that is not known. */
  words: number[];
  /** Faults of the cache that appeared with the block. */
  warnings: string[];
  sizes: number[];
}

export interface LabTable {
  type: "labtable";
  version: number;
  columns: string[];
  rows: (string | number | null)[][];
}

export type LabMessage = LabSettings | LabState | LabBlock | LabTable;
