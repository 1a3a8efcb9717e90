/** What a WebGPU device reads from its memory a second, at best. */
import { FaError } from "@fa/core";
import type { DeviceTimer } from "./bench.ts";
import { timeSubmitted } from "./gpu-timer.ts";
import type { Bandwidth } from "./results.ts";

const WORKGROUPS = 2048;
const INVOCATIONS = 256;
/** Far more than caches hold; what a binding may be limits it. */
const MOST_BYTES = 512 * 2 ** 20;
const BYTES_ON_SOFTWARE = 16 * 2 ** 20;

const WGSL = `
@group(0) @binding(0) var<storage, read_write> words: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> sums: array<u32>;

const STEP = ${WORKGROUPS * INVOCATIONS}u;

@compute @workgroup_size(${INVOCATIONS})
fn fill(@builtin(global_invocation_id) id: vec3<u32>) {
  for (var n = id.x; n < arrayLength(&words); n += STEP) { words[n] = vec4<u32>(1u); }
}

@compute @workgroup_size(${INVOCATIONS})
fn read(@builtin(global_invocation_id) id: vec3<u32>) {
  var sum = vec4<u32>(0u);
  for (var n = id.x; n < arrayLength(&words); n += STEP) { sum += words[n]; }
  sums[id.x] = sum.x + sum.y + sum.z + sum.w;
}
`;

const STORAGE = 0x0080;
const COPY_SRC = 0x0004;
const COPY_DST = 0x0008;
const MAP_READ = 0x0001;

/** Reads recorded together, doubled until they take so long: the clock's grain and a submission's cost do not show. */
const LEAST_MS = 20;
const TRIES = 5;

/**
 * @param timer of the device; the wall's clock is looked at without one
 * @throws FaError when what was read is not what had been written
 */
export async function readRate(
  device: GPUDevice,
  timer: DeviceTimer | undefined,
  software: boolean,
): Promise<Bandwidth> {
  const most = software ? BYTES_ON_SOFTWARE : Math.min(MOST_BYTES, device.limits.maxStorageBufferBindingSize);
  const bytes = most - (most % 16);
  const module = device.createShaderModule({ code: WGSL });
  const words = device.createBuffer({ size: bytes, usage: STORAGE });
  const sumBytes = WORKGROUPS * INVOCATIONS * 4;
  const sums = device.createBuffer({ size: sumBytes, usage: STORAGE | COPY_SRC });
  const readable = device.createBuffer({ size: sumBytes, usage: MAP_READ | COPY_DST });
  const layout = device.createBindGroupLayout({
    entries: [0, 1].map((binding) => ({ binding, visibility: 0x4, buffer: { type: "storage" as const } })),
  });
  const bound = device.createBindGroup({
    layout,
    entries: [words, sums].map((buffer, binding) => ({ binding, resource: { buffer } })),
  });
  const pipelineOf = (entryPoint: string) =>
    device.createComputePipelineAsync({
      layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module, entryPoint },
    });
  const record = (encoder: GPUCommandEncoder, pipeline: GPUComputePipeline, times: number): void => {
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, bound);
    for (let n = 0; n < times; n++) pass.dispatchWorkgroups(WORKGROUPS);
    pass.end();
  };
  const time = (recordInto: (encoder: unknown) => void): Promise<number> =>
    timer ? timer.time(recordInto) : timeSubmitted(device, recordInto);
  try {
    const [fill, read] = await Promise.all(["fill", "read"].map(pipelineOf));
    const timed = (times: number) => time((encoder) => record(encoder as GPUCommandEncoder, read, times));
    const encoder = device.createCommandEncoder();
    record(encoder, fill, 1);
    record(encoder, read, 1);
    encoder.copyBufferToBuffer(sums, 0, readable, 0, sumBytes);
    device.queue.submit([encoder.finish()]);
    await readable.mapAsync(0x0001);
    const total = new Uint32Array(readable.getMappedRange()).reduce((sum, one) => sum + one, 0);
    readable.unmap();
    if (total !== bytes / 4) throw new FaError("FA_BACKEND", `${bytes / 4} ones must add up; got ${total}.`);
    let times = 1;
    let best = 0;
    for (let tries = 0; tries < TRIES;) {
      const ms = await timed(times);
      best = Math.max(best, (bytes * times) / ms / 1e6);
      if (ms < LEAST_MS && times < 1024) times *= 2;
      else tries++;
    }
    return { gbs: best, what: `reading ${bytes / 2 ** 20} MiB of the GPU's memory` };
  } finally {
    for (const buffer of [words, sums, readable]) buffer.destroy();
  }
}
