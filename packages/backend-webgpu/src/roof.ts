import type { Roof } from "@fa/core";
import { USAGE } from "./buffers.ts";
import type { Device } from "./device.ts";
import { SHADERS } from "./generated/shaders.ts";
import { expand } from "./wgsl.ts";

const WORKGROUPS = 4096;
/** A round of roof.wgsl: 256 invocations, 8 accumulators of 4 lanes, a multiplication and an addition each. */
const FLOPS_A_ROUND = WORKGROUPS * 256 * 8 * 4 * 2;

/** So small that nothing grows in a million rounds. */
const FACTOR = 2 ** -30;
/** Sums are not negative. */
const NEVER = -1;

/** Float32 multiply-adds in registers: the best of some runs, whose length doubles until they take long enough to be timed. */
export async function measureRoof(device: Device, budgetMs = 100): Promise<Roof> {
  const { gpu } = device;
  const module = gpu.createShaderModule({ code: expand("roof.wgsl", {}, SHADERS) });
  const pipeline = await gpu.createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint: "main" } });
  const uniforms = gpu.createBuffer({ size: 16, usage: USAGE.UNIFORM | USAGE.COPY_DST });
  const sums = gpu.createBuffer({ size: 256, usage: USAGE.STORAGE });
  const group = gpu.createBindGroup({
    layout: pipeline.getBindGroupLayout(0),
    entries: [uniforms, sums].map((buffer, binding) => ({ binding, resource: { buffer } })),
  });
  let gflops = 0;
  try {
    const deadline = performance.now() + budgetMs;
    for (let rounds = 1; gflops === 0 || performance.now() < deadline;) {
      gpu.queue.writeBuffer(uniforms, 0, Uint32Array.of(rounds));
      gpu.queue.writeBuffer(uniforms, 4, Float32Array.of(FACTOR, NEVER));
      const encoder = gpu.createCommandEncoder();
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(WORKGROUPS);
      pass.end();
      const start = performance.now();
      gpu.queue.submit([encoder.finish()]);
      await device.settle("measuring the roof", gpu.queue.onSubmittedWorkDone());
      const ms = performance.now() - start;
      if (ms < budgetMs / 8) rounds *= 2;
      else gflops = Math.max(gflops, (rounds * FLOPS_A_ROUND) / ms / 1e6);
    }
  } finally {
    uniforms.destroy();
    sums.destroy();
  }
  return { gflops, what: "register-only multiply-add, float32" };
}
