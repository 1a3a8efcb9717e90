/** Problems for every variant of a kernel, and their plans. */
import {
  attentionProblem,
  DTYPES,
  FLOAT_DTYPES,
  linearProblem,
  plan,
  type AttentionOptionsOf,
  type DType,
  type FloatDType,
  type Plan,
  type Problem,
  type TensorSpec,
} from "@fa/core";
import type { WebgpuRow } from "../src/kernels/row.ts";

/** The plan of a problem by one row, whatever the device. */
export function planOf<P extends Problem>(row: WebgpuRow<P>, problem: P): Plan<P> {
  const capabilities = {
    dtypes: DTYPES,
    maxHeadDim: 256,
    sharedBytes: Infinity,
    maxBufferBytes: 2 ** 40,
    features: row.needs,
  };
  const made = plan(problem, capabilities, [row]);
  if (!made.ok) throw new Error(made.reasons.map(({ reason }) => reason).join());
  return made;
}

const [B, H, Hkv] = [2, 4, 2];
const spec = (dtype: DType, ...shape: number[]): TensorSpec => ({ shape, dtype });

/** Nothing, each option, and all at once. */
function optionsOf(dtype: FloatDType, Sq: number, Skv: number): AttentionOptionsOf<TensorSpec>[] {
  const bias = spec(dtype, B, H, Sq, Skv);
  const mask = spec("bool", 1, 1, Sq, Skv);
  const alibiSlopes = spec(dtype, H);
  const sinks = spec("float32", H);
  const dropout = { p: 0.5, seed: 1 };
  return [
    {},
    { causal: true },
    { softcap: 5 },
    { bias: spec("float32", 1, H, 1, Skv) },
    { mask },
    { alibiSlopes, causal: true },
    { sinks },
    { dropout },
    { bias, mask },
    { causal: true, softcap: 5, bias, alibiSlopes, sinks, dropout },
    { causal: true, window: [9, -1], softcap: 5, bias, mask, alibiSlopes, sinks, dropout },
  ];
}

/** Problems that reach every variant of the shaders of an op. */
function* problemsOf(op: Problem["op"], dtypes: readonly FloatDType[]): Generator<Problem> {
  for (const dtype of dtypes) {
    if (op === "cast") {
      for (const resultDType of FLOAT_DTYPES) yield { op, dtype, resultDType, elements: 77 };
    } else if (op === "linear" || op === "linearBackward") {
      for (const [M, K, split] of [
        [64, 64, [64, 32]],
        [2048, 1024, [2048]],
        [3, 5, [7, 1]],
      ] as const) {
        const N = split.reduce((sum, width) => sum + width, 0);
        const bias = op === "linear" ? spec(dtype, N) : undefined;
        yield linearProblem(op, { x: spec(dtype, M, K), weight: spec(dtype, N, K), bias }, [...split], op);
      }
    } else {
      for (const [Sq, Skv, D, Dv] of [
        [300, 300, 64, 64],
        [1, 5000, 128, 128],
        [33, 70, 1, 7],
        [65, 40, 192, 256],
      ] as const) {
        const q = spec(dtype, B, H, Sq, D);
        const [k, v] = [spec(dtype, B, Hkv, Skv, D), spec(dtype, B, Hkv, Skv, Dv)];
        for (const options of optionsOf(dtype, Sq, Skv)) yield attentionProblem({ q, k, v }, options, op);
      }
    }
  }
}

/** Plans that reach every variant of a row's shaders. */
export function* plansOf(row: WebgpuRow): Generator<Plan> {
  for (const problem of problemsOf(row.op, row.dtypes as FloatDType[])) {
    let made;
    try {
      made = planOf(row, problem);
    } catch {
      continue; // It does not take this one.
    }
    yield made;
  }
}
