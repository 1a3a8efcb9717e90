import type { Tier } from "@fa/backend-webgpu";
import type { AttentionCase } from "../cases.ts";
import type { GaugeName, Pace } from "../contest.ts";
import type { GpuIdentity } from "../results.ts";
import type { CaseNumbers } from "../truth.ts";

/** A library as the process that runs it sees it. */
export interface Player {
  /** Its version and device, in a few words. */
  readonly what: string;
  /** Puts the inputs where the library wants them. */
  place(item: AttentionCase, numbers: () => CaseNumbers): Promise<Played>;
  /** A rate that the library measures, where it does: GFLOP/s, or bytes a second. */
  gauge?(name: GaugeName): Promise<number>;
  /** The GPU that it computes on, where it can tell. */
  facts?(): GpuIdentity;
}

export interface Played {
  /** One call; resolves when its work is done. */
  call(): Promise<Output>;
  /** For those who measure a call by how the time of a chain of calls grows with its length. */
  readonly chains?: Chains | undefined;
  /** Copies of keys and values that the calls of a chain take in turn; 1 unless given. */
  readonly inputSets?: number | undefined;
  /** The kernel that `call` runs. */
  readonly kernel?: string | undefined;
  free(): void | Promise<void>;
  /** The most that tensors and workspace took, where the library tells. */
  readonly peakBytes?: () => number;
}

export interface Output {
  /** The results as numbers in layout "bhsd", by the names of the contract: all rows, or those of `rowsToCheck`. */
  numbers(): Promise<Readonly<Record<string, Float32Array>>>;
  dispose(): void;
}

export interface Chains {
  readonly pace: () => Promise<Pace>;
  /** Milliseconds a call, without what a chain of any length costs. */
  readonly slope: (calls: number) => Promise<number>;
}

/** Which library to be, and how. Sent to the process that runs it. */
export interface PlayerSpec {
  readonly library:
    | "ours"
    | "onnxruntime-web"
    | "jax-js"
    | "tfjs-wasm"
    | "ours-webgpu"
    | "onnxruntime-node"
    | "ours-cuda"
    | "torch";
  readonly threads: number;
  /** Of ours. */
  readonly simd?: "relaxed" | "plain" | undefined;
  /** Of ours on WebGPU. */
  readonly tier?: Tier | undefined;
  readonly float16Scores?: boolean | undefined;
  /** Whether a CPU that plays a GPU will do. */
  readonly software?: boolean | undefined;
}

/** @throws Error for what no peer is asked to do */
export function checkPeerCase({ facts, problem }: AttentionCase): void {
  const { Hkv, H, Sq, Skv, dtype, pass } = facts;
  if (Hkv !== H || Sq !== Skv || dtype !== "float32" || pass !== "forward" || problem.B !== 1) {
    throw new Error("peers are compared on float32 forward passes with equal heads and lengths");
  }
}
