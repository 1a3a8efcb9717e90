import type { AttentionCase } from "../cases.ts";
import type { CaseNumbers } from "../truth.ts";

/** A library as the process that runs it sees it. */
export interface Player {
  /** Its version and device, in a few words. */
  readonly what: string;
  /** Puts the inputs where the library wants them. */
  place(item: AttentionCase, data: CaseNumbers): Promise<Played>;
}

export interface Played {
  /** One call; resolves when its work is done. */
  call(): Promise<Output>;
  free(): void | Promise<void>;
  /** The most that tensors and workspace took, where the library tells. */
  readonly peakBytes?: () => number;
}

export interface Output {
  /** The results as numbers in layout "bhsd", by the names of the contract. */
  numbers(): Promise<Readonly<Record<string, Float32Array>>>;
  dispose(): void;
}

/** Which library to be, and how. Sent to the process that runs it. */
export interface PlayerSpec {
  readonly library: "ours" | "onnxruntime-web" | "jax-js" | "tfjs-wasm";
  readonly threads: number;
  /** Of ours. */
  readonly simd?: "relaxed" | "plain" | undefined;
}

/** @throws Error for what no peer is asked to do */
export function checkPeerCase({ facts, problem }: AttentionCase): void {
  const { Hkv, H, Sq, Skv, dtype, pass } = facts;
  if (Hkv !== H || Sq !== Skv || dtype !== "float32" || pass !== "forward" || problem.B !== 1) {
    throw new Error("peers are compared on float32 forward passes with equal heads and lengths");
  }
}
