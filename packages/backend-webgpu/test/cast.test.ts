import { bytesPerElement, decode, encode, FLOAT_DTYPES, type CastProblem, type FloatDType } from "@fa/core";
import { beforeAll, describe, expect, test } from "vitest";
import { CAST } from "../src/kernels/cast.ts";
import type { DeviceLimits } from "../src/kernels/row.ts";
import { limitsOf, runPasses, softwareDevice } from "./passes.ts";
import { planOf } from "./problems.ts";

let device: GPUDevice;
beforeAll(async () => {
  device = await softwareDevice();
});

function numbers(dtype: FloatDType, elements: number): Uint8Array<ArrayBuffer> {
  return encode(
    dtype,
    Float64Array.from({ length: elements }, (_, n) => (n % 7 === 6 ? NaN : Math.sin(n) * 2 ** ((n % 40) - 20))),
  );
}

async function cast(dtype: FloatDType, resultDType: FloatDType, elements: number, limits: DeviceLimits) {
  const problem: CastProblem = { op: "cast", dtype, resultDType, elements };
  const passes = CAST.passes(planOf(CAST, problem), limits, new Set());
  const y = new Uint8Array(elements * bytesPerElement(resultDType));
  const x = numbers(dtype, elements);
  return {
    passes,
    ...(await runPasses(device, passes, { x, y }, ["y"])),
    expected: encode(resultDType, decode(dtype, x)),
  };
}

describe.each(FLOAT_DTYPES)("from %s", (dtype) => {
  test.each(FLOAT_DTYPES)("to %s: odd sizes are right to the last element", async (resultDType) => {
    for (const elements of [1, 2, 3, 5, 1023, 4099]) {
      const { y, expected } = await cast(dtype, resultDType, elements, limitsOf(device));
      expect(y).toEqual(expected);
    }
  });
});

test("what a binding cannot show at once is cast by windows", async () => {
  for (const [from, to] of [
    ["float32", "float8e4m3"],
    ["bfloat16", "float32"],
    ["float16", "bfloat16"],
  ] as const) {
    const limits = { ...limitsOf(device), maxStorageBufferBindingSize: 4096 };
    const { passes, y, expected } = await cast(from, to, 5001, limits);
    expect(passes.length).toBeGreaterThan(2);
    expect(y).toEqual(expected);
  }
});

test("no elements, no passes", () => {
  const problem = { op: "cast", dtype: "float32", resultDType: "float16", elements: 0 } as const;
  expect(CAST.passes(planOf(CAST, problem), limitsOf(device), new Set())).toEqual([]);
});
