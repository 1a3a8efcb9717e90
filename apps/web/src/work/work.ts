/** What a worker is asked to do and what it tells meanwhile. Plain data: it passes through `postMessage`. */
import type { FloatDType } from "@fa/core";
import type { Outcome, RunFile } from "@fa/bench";
import type { CheckResult } from "@fa/conformance";
import type { Abilities } from "./abilities.ts";

/** Back ends that a page can run, the fastest first. */
export const BACKENDS = {
  webgpu: "WebGPU",
  wasm: "WebAssembly",
  "webgpu-software": "WebGPU on a software adapter",
  reference: "Reference",
} as const;
export type BackendId = keyof typeof BACKENDS;

export function isBackend(id: string): id is BackendId {
  return Object.hasOwn(BACKENDS, id);
}

/** Whether a back end would work here. */
export interface BackendState {
  readonly id: BackendId;
  readonly ok: boolean;
  /** Why not, or a remark on how. */
  readonly reason: string;
  readonly device: string;
}

export const BENCH_PARTS = {
  tutorial: "the tutorials' case",
  module: "FlashMHA, against PyTorch's answers",
  sweep: "forward, full and causal",
  backward: "backward",
  decode: "decode: one query over S keys",
} as const;
export type BenchPart = keyof typeof BENCH_PARTS;

export interface BenchPlan {
  readonly parts: readonly BenchPart[];
  readonly sizes: readonly number[];
  readonly heads: number;
  readonly dim: number;
  readonly dtype: FloatDType;
  /** A small FlashMHA and few samples. */
  readonly quick: boolean;
  readonly budgetMs: number;
}

/** Each kind of work: what it is asked with, and what it tells, one or many times. */
export interface Work {
  readonly look: {
    readonly ask: undefined;
    readonly tell: { readonly abilities: Abilities; readonly backends: readonly BackendState[] };
  };
  /** Which capabilities the suite has checks of, and how many. */
  readonly capabilities: { readonly ask: undefined; readonly tell: readonly (readonly [string, number])[] };
  readonly suite: {
    readonly ask: {
      readonly backend: BackendId;
      /** All unless given. */
      readonly capabilities: readonly string[] | undefined;
      readonly runs: number;
    };
    readonly tell:
      | { readonly kind: "begun"; readonly device: string; readonly total: number }
      | { readonly kind: "result"; readonly result: CheckResult };
  };
  readonly bench: {
    readonly ask: { readonly backend: BackendId; readonly plan: BenchPlan };
    readonly tell:
      | {
          readonly kind: "begun";
          readonly run: Pick<RunFile, "backend" | "candidates" | "roof" | "bandwidth">;
          /** Of the cases to come. */
          readonly titles: readonly string[];
        }
      | { readonly kind: "outcome"; readonly outcome: Outcome }
      /** Measured anew after the last case: another job may have had the machine before the first. */
      | ({ readonly kind: "again" } & Pick<RunFile, "roof" | "bandwidth">);
  };
}
export type Kind = keyof Work;

export type ToWorker = { readonly [K in Kind]: { readonly kind: K; readonly ask: Work[K]["ask"] } }[Kind];
export type FromWorker =
  | { readonly kind: "tell"; readonly tell: unknown }
  | { readonly kind: "end" }
  | { readonly kind: "error"; readonly message: string };
