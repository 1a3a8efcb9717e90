import { beforeAll, describe, expect, test } from "vitest";
import { KERNELS } from "../src/kernels/table.ts";
import { compile, limitsOf, nullDevice } from "./passes.ts";
import { plansOf } from "./problems.ts";

let device: GPUDevice;
beforeAll(async () => {
  device = await nullDevice();
});

describe.each(KERNELS)("$id", (row) => {
  test("every shader is valid WGSL and binds what its passes name", async () => {
    let valid = 0;
    for (const plan of plansOf(row)) {
      for (const pass of row.passes(plan, limitsOf(device), new Set(["out", "lse"]))) {
        const pipeline = await compile(device, pass).catch((error: Error) => error);
        if (pipeline instanceof Error) {
          // The device that validates has no more workgroup memory than any other; a row that says what it takes may.
          const [, bytes] = /total use of workgroup storage \((\d+) bytes\)/.exec(pipeline.message) ?? [];
          if (bytes === undefined) throw pipeline;
          expect(Number(bytes)).toBeLessThanOrEqual(row.sharedBytes?.(plan.problem, row.tile) ?? 0);
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
