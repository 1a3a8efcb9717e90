/** Random problems, and a back end's answers to them. */
import {
  attentionProblem,
  bytesPerElement,
  decode,
  encode,
  linearProblem,
  outShape,
  plan,
  type AttentionOptionsOf,
  type AttentionProblem,
  type Backend,
  type DeviceBuffer,
  type DType,
  type Plan,
  type Problem,
  type TensorSpec,
} from "@fa/core";
import { random } from "./variants.ts";

export type Tensors = Record<string, { readonly dtype: DType; readonly values: ArrayLike<number> }>;

export const count = (shape: readonly number[]): number => shape.reduce((product, size) => product * size, 1);

export function planFor(backend: Backend, problem: Problem): Plan {
  const made = plan(problem, backend.capabilities, backend.kernels);
  if (!made.ok) throw new Error(made.reasons.map(({ reason }) => reason).join("; "));
  return made;
}

/** Runs a problem with results of the given sizes, filled with rubbish before. */
export async function compute(
  backend: Backend,
  problem: Problem,
  inputs: Tensors,
  results: Readonly<Record<string, { readonly dtype: DType; readonly length: number }>>,
): Promise<Record<string, Float64Array>> {
  const bindings: Record<string, DeviceBuffer> = {};
  for (const [name, { dtype, values }] of Object.entries(inputs)) {
    const bytes = encode(dtype, values);
    bindings[name] = backend.allocate(bytes.length, bytes);
  }
  for (const [name, { dtype, length }] of Object.entries(results)) {
    const bytes = length * bytesPerElement(dtype);
    bindings[name] = backend.allocate(bytes, new Uint8Array(bytes).fill(0xff));
  }
  await backend.run(planFor(backend, problem), bindings);
  const numbers: Record<string, Float64Array> = {};
  for (const [name, { dtype }] of Object.entries(results)) {
    numbers[name] = decode(dtype, await backend.read(bindings[name]));
  }
  for (const buffer of Object.values(bindings)) backend.free(buffer);
  return numbers;
}

export interface Case {
  readonly forward: AttentionProblem;
  readonly backward: AttentionProblem;
  readonly inputs: Tensors;
  readonly dout: ArrayLike<number>;
}

export const pick = <T>(next: () => number, ...choices: T[]): T =>
  choices[Math.floor(((next() + 1) / 2) * choices.length)];

/** A random problem. With `poison`, some q, k, v and dout hold NaN and infinities, and something is always hidden. */
export function randomCase(seed: number, poison: boolean): Case {
  const next = random(seed);
  for (let n = 0; n < 8; n++) next();
  const [B, Hkv, group] = [pick(next, 1, 2), pick(next, 1, 2), pick(next, 1, 3)];
  const H = Hkv * group;
  const [Sq, Skv] = [pick(next, 1, 7, 33, 101, 130), pick(next, 1, 5, 24, 97, 150)];
  const [D, Dv] = [pick(next, 1, 3, 8, 24, 40, 64), pick(next, 1, 5, 16, 31, 64)];
  const layout = pick<"bhsd" | "bshd">(next, "bhsd", "bshd");
  const shape = (heads: number, rows: number, dim: number): number[] =>
    layout === "bhsd" ? [B, heads, rows, dim] : [B, rows, heads, dim];
  const broadcast = (): number[] => [pick(next, 1, B), pick(next, 1, H), pick(next, 1, Sq), pick(next, 1, Skv)];
  const specs = {
    q: { shape: shape(H, Sq, D), dtype: "float32" },
    k: { shape: shape(Hkv, Skv, D), dtype: "float32" },
    v: { shape: shape(Hkv, Skv, Dv), dtype: "float32" },
  } as const;
  const some = (probability: number): boolean => (next() + 1) / 2 < probability;
  const optional: Record<string, TensorSpec> = {};
  if (some(0.4)) optional.bias = { shape: broadcast(), dtype: "float32" };
  if (some(0.4)) optional.mask = { shape: broadcast(), dtype: "bool" };
  if (some(0.3)) optional.alibiSlopes = { shape: pick(next, [H], [B, H]), dtype: "float32" };
  if (some(0.3)) optional.sinks = { shape: [H], dtype: "float32" };
  const options: AttentionOptionsOf<TensorSpec> = {
    ...optional,
    layout,
    causal: poison && !optional.mask ? true : pick<boolean | "top-left">(next, false, true, "top-left"),
    ...(some(0.3) && { window: [pick(next, -1, 0, 20), pick(next, -1, 0, 9)] as const }),
    ...(some(0.3) && { softcap: 2 }),
    ...(some(0.3) && { dropout: { p: pick(next, 0.3, 0.9, 1), seed: seed * 7919, offset: 3 } }),
    ...(some(0.7) && { blockSize: { q: pick(next, 1, 5, 16, 50, 200), kv: pick(next, 1, 3, 8, 30, 48, 200) } }),
  };
  const numbers = (spec: TensorSpec): number[] => Array.from({ length: count(spec.shape) }, next);
  const inputs: Tensors = {};
  for (const [name, spec] of Object.entries<TensorSpec>({ ...specs, ...optional })) {
    const values = numbers(spec);
    if (spec.dtype === "bool") values.forEach((x, n) => (values[n] = x > -0.2 ? 1 : 0));
    // Small, since distances are large where Skv < Sq and float32 scores of that size lose digits.
    if (name === "alibiSlopes") values.forEach((x, n) => (values[n] = x / 20));
    inputs[name] = { dtype: spec.dtype, values };
  }
  const forward = attentionProblem(specs, options);
  const dout = numbers({ shape: outShape(forward), dtype: "float32" });
  if (poison) {
    const targets = [inputs.q.values, inputs.k.values, inputs.v.values, dout] as number[][];
    for (const values of targets) {
      if (some(0.5)) values[Math.floor(((next() + 1) / 2) * values.length)] = pick(next, NaN, Infinity, -Infinity);
    }
  }
  return { forward, backward: attentionProblem(specs, options, "attentionBackward"), inputs, dout };
}

/** A linear problem of odd sizes: forward and backward, all that they read, and what they give. */
export interface LinearCase {
  readonly label: string;
  readonly forward: Problem;
  readonly withoutBias: Problem;
  readonly backward: Problem;
  /** x, weight and dy0, dy1, ... */
  readonly inputs: Tensors;
  /** The same with bias. */
  readonly withBias: Tensors;
  readonly results: Readonly<Record<string, { readonly dtype: DType; readonly length: number }>>;
  readonly gradients: Readonly<Record<string, { readonly dtype: DType; readonly length: number }>>;
}

/** x [M, K], weight [N, K], and the widths that N is split in. */
const LINEAR_SIZES = [
  [1, 1, [1]],
  [7, 300, [5, 9, 200]],
  [100, 64, [192]],
  [500, 64, [192, 192, 192]],
  [97, 513, [1, 1, 1]],
  [0, 5, [3]],
  [3, 0, [4]],
  [300, 20, [250, 30]],
] as const;

export const LINEAR_CASES: readonly LinearCase[] = LINEAR_SIZES.map(([M, K, split]) => {
  const next = random(M + K);
  const N = split.reduce((sum: number, width) => sum + width, 0);
  const array = (length: number) => ({ dtype: "float32", values: Float32Array.from({ length }, next) }) as const;
  const of = (length: number) => ({ dtype: "float32", length }) as const;
  const x = { shape: [M, K], dtype: "float32" } as const;
  const weight = { shape: [N, K], dtype: "float32" } as const;
  const bias = { shape: [N], dtype: "float32" } as const;
  const dys = split.map((width, n) => [`dy${n}`, array(M * width)] as const);
  const inputs = { x: array(M * K), weight: array(N * K), ...Object.fromEntries(dys) };
  return {
    label: `M=${M} K=${K}`,
    forward: linearProblem("linear", { x, weight, bias }, split),
    withoutBias: linearProblem("linear", { x, weight }, split),
    backward: linearProblem("linear", { x, weight, bias }, split, "linearBackward"),
    inputs,
    withBias: { ...inputs, bias: array(N) },
    results: Object.fromEntries(split.map((width, n) => [`y${n}`, of(M * width)])),
    gradients: { dx: of(M * K), dweight: of(N * K), dbias: of(N) },
  };
});
