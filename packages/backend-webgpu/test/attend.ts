/** One attention problem on one row of the kernel table, and the same in float64. */
import {
  attentionProblem,
  bytesPerElement,
  decode,
  encode,
  lseShape,
  outShape,
  type AttentionOptionsOf,
  type AttentionProblem,
  type AttentionSizes,
  type FloatDType,
  type Plan,
} from "@fa/core";
import { naiveAttention, type AttentionNumbers } from "@fa/core/reference";
import type { DeviceLimits, WebgpuRow } from "../src/kernels/row.ts";
import { limitsOf, runPasses } from "./passes.ts";
import { planOf } from "./problems.ts";

export interface Numbers {
  readonly shape: readonly number[];
  readonly values: Float64Array;
  readonly dtype: FloatDType | "bool";
}

export interface Case {
  readonly problem: AttentionProblem;
  /** q, k, v and the tensors of the options, rounded to their dtypes. */
  readonly tensors: Readonly<Record<string, Numbers>>;
}

/** A problem with numbers from -2 to 2, the same every run. Tensors among the options are functions of the index. */
export function caseOf(
  { B, H, Hkv, Sq, Skv, D, Dv }: AttentionSizes,
  options: AttentionOptionsOf<Numbers> = {},
  dtype: FloatDType = "float32",
): Case {
  let state = 12345;
  const draw = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 30 - 2;
  };
  const heads = (count: number, length: number, dim: number): number[] =>
    options.layout === "bshd" ? [B, length, count, dim] : [B, count, length, dim];
  const make = (shape: number[]): Numbers => ({
    shape,
    dtype,
    values: decode(dtype, encode(dtype, Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, draw))),
  });
  const inputs = { q: make(heads(H, Sq, D)), k: make(heads(Hkv, Skv, D)), v: make(heads(Hkv, Skv, Dv)) };
  const problem = attentionProblem(inputs, options);
  const { bias, mask, alibiSlopes, sinks } = options;
  const given = Object.entries({ bias, mask, alibiSlopes, sinks }).filter(([, tensor]) => tensor !== undefined);
  return { problem, tensors: { ...inputs, ...(Object.fromEntries(given) as Record<string, Numbers>) } };
}

export function numbers(
  shape: readonly number[],
  value: (n: number) => number,
  dtype: Numbers["dtype"] = "float32",
): Numbers {
  const length = shape.reduce((a, b) => a * b, 1);
  const values = Float64Array.from({ length }, (_, n) => value(n));
  return { shape, dtype, values: dtype === "bool" ? values : decode(dtype, encode(dtype, values)) };
}

export function expected({ problem, tensors }: Case): AttentionNumbers {
  const values = Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name, tensor.values]));
  const mask = tensors["mask"] && Uint8Array.from(tensors["mask"].values);
  return naiveAttention(problem, { ...(values as Record<"q" | "k" | "v", Float64Array>), mask });
}

/** Out and lse of a row; both are full of NaN before. */
export async function attend(
  device: GPUDevice,
  row: WebgpuRow<AttentionProblem>,
  { problem, tensors }: Case,
  limits: Partial<DeviceLimits> = {},
): Promise<AttentionNumbers> {
  const plan: Plan<AttentionProblem> = planOf(row, problem);
  const contents: Record<string, Uint8Array> = {};
  for (const [name, { dtype, values }] of Object.entries(tensors)) {
    contents[name] = dtype === "bool" ? Uint8Array.from(values) : encode(dtype, values);
  }
  const size = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);
  contents["out"] = new Uint8Array(size(outShape(problem)) * bytesPerElement(problem.resultDType)).fill(0xff);
  contents["lse"] = new Uint8Array(size(lseShape(problem)) * 4).fill(0xff);
  contents["workspace"] = new Uint8Array(plan.workspaceBytes).fill(0xff);
  const passes = row.passes(plan, { ...limitsOf(device), ...limits }, new Set(Object.keys(contents)));
  const { out, lse } = await runPasses(device, passes, contents, ["out", "lse"]);
  return { out: decode(problem.resultDType, out), lse: decode("float32", lse) };
}

/** The largest difference beyond a tolerance relative to the size of values; NaN where one is a number and the other is not. */
export function distance(got: Float64Array, wanted: Float64Array): number {
  let worst = 0;
  for (let n = 0; n < wanted.length; n++) {
    if (Object.is(got[n], wanted[n]) || (Number.isNaN(got[n]) && Number.isNaN(wanted[n]))) continue;
    const error = Math.abs(got[n] - wanted[n]);
    if (!(error <= worst)) worst = error;
  }
  return worst;
}
