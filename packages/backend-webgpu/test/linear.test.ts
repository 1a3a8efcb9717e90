import { bytesPerElement, decode, encode, FLOAT_DTYPES, type FloatDType, type LinearProblem } from "@fa/core";
import { naiveLinear, naiveLinearBackward } from "@fa/core/reference";
import { compare } from "@fa/conformance";
import { beforeAll, describe, expect, test } from "vitest";
import { LINEAR, LINEAR_BACKWARD } from "../src/kernels/linear.ts";
import type { DeviceLimits, WebgpuRow } from "../src/kernels/row.ts";
import { limitsOf, runPasses, softwareDevice } from "./passes.ts";
import { planOf } from "./problems.ts";

let device: GPUDevice;
beforeAll(async () => {
  device = await softwareDevice();
});

function numbers(dtype: FloatDType, elements: number, seed: number): Float64Array {
  const values = Float64Array.from({ length: elements }, (_, n) => Math.sin((n + 1) * (seed + 0.37)) / 2);
  return decode(dtype, encode(dtype, values));
}

/** Runs a row on numbers and says how each result compares with the definition in float64. */
async function check(row: WebgpuRow<LinearProblem>, problem: LinearProblem, limits: DeviceLimits = limitsOf(device)) {
  const { dtype, M, N, K, split, bias } = problem;
  const inputs: Record<string, Float64Array> = {
    x: numbers(dtype, M * K, 1),
    weight: numbers(dtype, N * K, 2),
    ...(bias && { bias: numbers(dtype, N, 3) }),
  };
  const truth: Record<string, Float64Array> = {};
  if (row.op === "linear") {
    const data = { x: inputs["x"], weight: inputs["weight"], bias: inputs["bias"] };
    naiveLinear(problem, data).forEach((y, n) => (truth[`y${n}`] = y));
  } else {
    const dy = split.map((width, n) => numbers(dtype, M * width, 4 + n));
    dy.forEach((part, n) => (inputs[`dy${n}`] = part));
    Object.assign(truth, naiveLinearBackward(problem, { x: inputs["x"], weight: inputs["weight"], dy }));
  }
  const plan = planOf(row, problem);
  const contents: Record<string, Uint8Array> = { workspace: new Uint8Array(Math.max(plan.workspaceBytes, 2 ** 16)) };
  for (const [name, values] of Object.entries(inputs)) contents[name] = encode(dtype, values);
  // Results hold anything before.
  for (const [name, { length }] of Object.entries(truth))
    contents[name] = new Uint8Array(length * bytesPerElement(dtype)).fill(0xa5);
  const passes = row.passes(plan, limits, new Set(Object.keys(contents)));
  const got = await runPasses(device, passes, contents, Object.keys(truth));
  for (const [name, values] of Object.entries(truth)) {
    const rounded = decode(dtype, encode(dtype, values));
    const { ok, text } = compare(decode(dtype, got[name]), { truth: values, naive: rounded, kind: "gradient", dtype });
    expect(ok, `${name}: ${text}`).toBe(true);
  }
  return { passes, got };
}

function linear(
  op: LinearProblem["op"],
  dtype: FloatDType,
  M: number,
  K: number,
  split: readonly number[],
  bias = true,
): LinearProblem {
  return { op, dtype, M, K, N: split.reduce((sum, width) => sum + width, 0), split, bias: bias && op === "linear" };
}

/** M, K and the split of N: whole tiles, tails, one of everything, nothing, odd rows of narrow elements. */
const SIZES: readonly (readonly [number, number, readonly number[]])[] = [
  [64, 32, [64]],
  [70, 20, [36, 8, 24]],
  [1, 1, [1]],
  [3, 7, [5, 1]],
  [129, 33, [67]],
  [2, 200, [130]],
  [300, 300, [12]],
  [5, 290, [7]],
  [270, 3, [5]],
  [0, 4, [4]],
  [5, 0, [3]],
];

describe.each([LINEAR, LINEAR_BACKWARD])("$id", (row) => {
  describe.each(FLOAT_DTYPES)("%s", (dtype) => {
    test.each(SIZES)("M=%d K=%d N=%j agrees with the definition", async (M, K, split) => {
      await check(row, linear(row.op as LinearProblem["op"], dtype, M, K, split));
    });
  });

  test("the large tile agrees too, and gives the same bits every run", async () => {
    const problem =
      row.op === "linear"
        ? linear("linear", "float32", 1600, 20, [1660], false)
        : linear("linearBackward", "float32", 1600, 1660, [20]);
    const { passes, got } = await check(row, problem);
    expect(passes.map(({ params }) => params["BLOCKS"])).toContain(2);
    expect((await check(row, problem)).got).toEqual(got);
  });

  test("what a binding cannot show at once is taken by windows", async () => {
    for (const dtype of ["float32", "bfloat16"] as const) {
      for (const [M, K, split] of [
        [70, 20, [36, 8, 24]],
        [67, 33, [45]],
      ] as const) {
        const limits = { ...limitsOf(device), maxStorageBufferBindingSize: 2048 };
        const { passes } = await check(row, linear(row.op as LinearProblem["op"], dtype, M, K, split), limits);
        expect(passes.length).toBeGreaterThan(6);
      }
    }
  });
});

test("only a sum of several terms, or of long ones for few tiles, takes workspace", () => {
  const bytes = (op: LinearProblem["op"], M: number, K: number, split: readonly number[]): number =>
    planOf(op === "linear" ? LINEAR : LINEAR_BACKWARD, linear(op, "float16", M, K, split)).workspaceBytes;
  expect(bytes("linear", 4096, 512, [512, 512, 512])).toBe(0);
  expect(bytes("linearBackward", 4096, 4096, [4096])).toBe(0);
  expect(bytes("linearBackward", 4096, 1024, [1024, 1024])).toBe(4 * 4096 * 1025);
  // dweight: 64 tiles are shared by four workgroups each.
  expect(bytes("linearBackward", 2048, 512, [512])).toBe(4 * 4 * 512 * 513);
});
