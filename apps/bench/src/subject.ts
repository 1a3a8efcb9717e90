import { decode, type Tensor } from "@fa/core";
import type { Verification } from "./verify.ts";

/** A case whose inputs lie on a back end, ready to be called again and again. */
export interface Subject {
  /** Enqueues the work. The results are the caller's to free. */
  call(): Promise<Results>;
  /** The same, recorded into commands of the platform that are submitted elsewhere; left out where there is no such thing. */
  record?(encoder: unknown): Results;
  /**
   * From now on calls read copies of their inputs in turn, so that caches hold none, if memory is what the case waits for.
   * @returns how many copies there are
   */
  takeTurns?(): number;
  /** The kernel that `call` runs, where it is one. */
  readonly kernel?: string | undefined;
  /** Compares results with the truth. */
  verify(results: Results): Promise<Verification>;
}

export interface Results {
  readonly tensors: Readonly<Record<string, Tensor>>;
  dispose(): void;
}

export function resultsOf(tensors: Readonly<Record<string, Tensor>>): Results {
  return {
    tensors,
    dispose() {
      for (const tensor of Object.values(tensors)) tensor.dispose();
    },
  };
}

/** A tensor's numbers. */
export async function valuesOf(tensor: Tensor): Promise<Float64Array> {
  const { buffer, byteOffset, byteLength } = await tensor.data();
  return decode(tensor.dtype, new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength));
}
