// What the tests share: back ends, golden vectors made by PyTorch, and comparison.

import { readFileSync } from "node:fs";
import { wasm } from "@fa/backend-wasm";
import {
  createAttention,
  decode,
  encode,
  reference,
  typedArray,
  type Attention,
  type BackendProvider,
  type DType,
  type Tensor,
} from "@fa/core";
import { readSafetensors, type StoredTensor } from "@fa/core/safetensors";
import type { FlashMHAConfig } from "../src/index.ts";

export const PROVIDERS: readonly BackendProvider[] = [reference(), wasm()];

export function open(provider: BackendProvider): Promise<Attention> {
  return createAttention({ backends: [provider] });
}

export interface GoldenCase {
  readonly name: string;
  readonly about: string;
  readonly options: Required<Pick<FlashMHAConfig, "embedDim" | "numHeads" | "numHeadsKv" | "bias" | "causal">>;
  readonly shape: { readonly B: number; readonly S: number; readonly E: number };
  /** How the big case's inputs are made, instead of being stored. */
  readonly generated?: {
    readonly key: readonly number[];
    readonly tensors: readonly {
      readonly name: string;
      readonly stream: number;
      readonly shape: readonly number[];
      readonly factor: number;
      readonly first: readonly number[];
      readonly last: number;
      readonly sum: number;
    }[];
  };
  /** Which rows of a result are stored: [b, s], or a row of a weight. */
  readonly samples?: Readonly<Record<string, readonly (number | readonly [number, number])[]>>;
}

const folder = new URL("../../conformance/golden/", import.meta.url);

/** The bytes of a golden file. */
export function goldenFile(file: string): Uint8Array {
  return readFileSync(new URL(file, folder));
}

export const CASES: readonly GoldenCase[] = (
  JSON.parse(new TextDecoder().decode(goldenFile("mha.json"))) as { cases: GoldenCase[] }
).cases;

const stored = readSafetensors(goldenFile("mha.safetensors"));

export function goldenCase(name: string): GoldenCase {
  return CASES.find((one) => one.name === name)!;
}

/** A stored array of a case: "x", "out", "grad.Wqkv.weight", ... */
export function goldenTensor(name: string): StoredTensor {
  const tensor = stored.get(name);
  if (!tensor) throw new Error(`no golden tensor ${name}`);
  return tensor;
}

export function goldenValues(name: string): Float64Array {
  const { dtype, bytes } = goldenTensor(name);
  return decode(dtype, bytes);
}

/** Values on the device, rounded to a dtype. */
export function upload(
  fa: Attention,
  values: ArrayLike<number>,
  shape: readonly number[],
  dtype: DType = "float32",
): Tensor {
  return fa.tensor(typedArray(dtype, encode(dtype, values)), { shape, dtype });
}

export async function valuesOf(tensor: Tensor): Promise<Float64Array> {
  const data = await tensor.data();
  return decode(tensor.dtype, new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength));
}

export async function bitsOf(tensor: Tensor): Promise<Uint8Array> {
  const { buffer, byteOffset, byteLength } = await tensor.data();
  return new Uint8Array(buffer, byteOffset, byteLength);
}

/** Numbers of about unit size that depend on nothing but `seed`. */
export function noise(elements: number, seed: number): Float64Array {
  return Float64Array.from({ length: elements }, (_, n) => Math.sin(12.9898 * (n + 1) + 78.233 * seed) * 1.5);
}

export interface Tolerance {
  /** Of the largest value expected: errors of a sum go with its terms, not with what is left of them. */
  readonly ofLargest: number;
  /** Sum of squared errors over sum of squares. */
  readonly nmse: number;
}

export const TOLERANCE: Readonly<Record<"float32" | "float16" | "bfloat16", Tolerance>> = {
  float32: { ofLargest: 2e-6, nmse: 1e-12 },
  float16: { ofLargest: 4 * 2 ** -11, nmse: 1e-6 },
  bfloat16: { ofLargest: 4 * 2 ** -8, nmse: 1e-4 },
};

/**
 * What is wrong with values that should be others, nothing if they are close: by both gates, so that neither one bad element
 * nor a small bias everywhere goes unseen. NaN is never close.
 */
export function deviations(got: Float64Array, want: Float64Array, tolerance: Tolerance, what: string): string[] {
  if (got.length !== want.length) return [`${what}: ${got.length} values in place of ${want.length}`];
  let [worst, largest, errors, squares] = [0, 0, 0, 0];
  for (let n = 0; n < want.length; n++) {
    const error = Math.abs(got[n] - want[n]);
    if (!(error <= worst)) worst = error;
    largest = Math.max(largest, Math.abs(want[n]));
    errors += error ** 2;
    squares += want[n] ** 2;
  }
  const found: string[] = [];
  if (!(worst <= tolerance.ofLargest * largest)) found.push(`${what}: error ${worst}, largest value ${largest}`);
  if (!(errors <= tolerance.nmse * squares)) found.push(`${what}: normalised mean square error ${errors / squares}`);
  return found;
}
