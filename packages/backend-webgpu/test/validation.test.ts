import {
  attentionProblem,
  FLOAT_DTYPES,
  linearProblem,
  type AttentionOptionsOf,
  type DType,
  type FloatDType,
  type Problem,
  type TensorSpec,
} from "@fa/core";
import { beforeAll, describe, expect, test } from "vitest";
import { KERNELS } from "../src/kernels/table.ts";
import { compile, limitsOf, nullDevice, planOf } from "./passes.ts";

let device: GPUDevice;
beforeAll(async () => {
  device = await nullDevice();
});

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

describe.each(KERNELS)("$id", (row) => {
  test("every shader is valid WGSL and binds what its passes name", async () => {
    let valid = 0;
    for (const problem of problemsOf(row.op, row.dtypes as FloatDType[])) {
      let plan;
      try {
        plan = planOf(row, problem);
      } catch {
        continue;
      }
      for (const pass of row.passes(plan, limitsOf(device), new Set(["out", "lse"]))) {
        const pipeline = await compile(device, pass).catch((error: Error) => error);
        if (pipeline instanceof Error) {
          // The device that validates has no more workgroup memory than any other; a row that says what it takes may.
          const [, bytes] = /total use of workgroup storage \((\d+) bytes\)/.exec(pipeline.message) ?? [];
          if (bytes === undefined) throw pipeline;
          expect(Number(bytes)).toBeLessThanOrEqual(row.sharedBytes?.(problem, row.tile) ?? 0);
          valid++;
          continue;
        }
        device.pushErrorScope("validation");
        const buffers = pass.buffers.map((_, n) => {
          const buffer = device.createBuffer({ size: 256, usage: GPUBufferUsage.STORAGE });
          return { binding: n + 1, resource: { buffer } };
        });
        const uniforms = device.createBuffer({
          size: Math.ceil((pass.uniforms.byteLength + 16) / 16) * 16,
          usage: GPUBufferUsage.UNIFORM,
        });
        const entries = [{ binding: 0, resource: { buffer: uniforms } }, ...buffers];
        device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
        const error = await device.popErrorScope();
        expect(error?.message, `${pass.shader} of ${JSON.stringify(pass.params)}`).toBeUndefined();
        valid++;
      }
    }
    expect(valid).toBeGreaterThan(0);
  }, 180_000);
});
