/** What the GPU does at best, now, in a process of its own. */
import { createAttention, type Attention } from "@fa/core";
import { deviceDescriptor, webgpu } from "@fa/backend-webgpu";
import { gpuTimer, timeSubmitted } from "../gpu-timer.ts";
import type { GpuIdentity } from "../results.ts";
import { chainsOf, roofSlope } from "./chains.ts";
import COPY_WGSL, { COPY_BYTES_A_WORKGROUP } from "./copy-roof.ts";
import { dawnVersion, MATRIX_FLAGS, openAdapter, SOFTWARE_FLAGS } from "./dawn.node.ts";
import MATRIX_WGSL from "./matrix-roof.ts";

interface Gauged {
  readonly adapter: GPUAdapter;
  readonly device: GPUDevice;
  readonly fa: Attention;
  readonly software: boolean;
}

let opened: Promise<Gauged> | undefined;

async function open(software: boolean): Promise<Gauged> {
  const adapter = await openAdapter([...MATRIX_FLAGS, ...(software ? SOFTWARE_FLAGS : [])], software);
  const device = await adapter.requestDevice(deviceDescriptor(adapter, "matrix"));
  const fa = await createAttention({ backends: [webgpu({ device, tier: "portable", software })] });
  return { adapter, device, fa, software };
}

/** A GPU that idled is several times slower. */
const WARM_MS = 800;
/** It does not cool down in less. */
const HOT_MS = 300;
let hotUntil = 0;

async function warm({ fa, software }: Gauged): Promise<void> {
  if (performance.now() < hotUntil || software) return;
  const until = performance.now() + WARM_MS;
  while (performance.now() < until) await fa.roof();
}

/** Opens the GPU of this process. */
export async function gpuFacts(software: boolean): Promise<GpuIdentity> {
  const { adapter } = await (opened ??= open(software));
  const { vendor, architecture, device, description } = adapter.info;
  return {
    adapter: device || [vendor, architecture].filter(Boolean).join(" "),
    driver: description || "unknown",
    webgpu: dawnVersion(),
  };
}

type GpuGaugeName = "fma" | "matrix" | "copy";

/** GFLOP/s, or for "copy" bytes a second; 0 for matrices where there are none. */
export async function gpuGauge(name: GpuGaugeName): Promise<number> {
  const gauged = await (opened ??= open(false));
  await warm(gauged);
  const rate = await GAUGES[name](gauged);
  hotUntil = performance.now() + HOT_MS;
  return rate;
}

const GAUGES: Readonly<Record<GpuGaugeName, (gauged: Gauged) => Promise<number>>> = {
  fma: async ({ fa }) => (await fa.roof()).gflops,
  copy: copyRate,
  matrix: ({ device }) => matrixRate(device),
};

/** Of each of two buffers: many times what caches hold, and what a dispatch costs is nothing beside it. */
const COPY_BYTES = 512 * 2 ** 20;
const COPY_BYTES_SOFTWARE = 8 * 2 ** 20;

async function copyRate({ device, software }: Gauged): Promise<number> {
  const size = software ? COPY_BYTES_SOFTWARE : COPY_BYTES;
  const buffers = [0, 1].map(() => device.createBuffer({ size, usage: 0x0080 | 0x0008 })); // STORAGE | COPY_DST
  // Any bits but zeros, which a device might make less of.
  const bits = Uint32Array.from({ length: 2 ** 20 }, (_, n) => Math.imul(n, 2654435761));
  for (let at = 0; at < size; at += bits.byteLength) device.queue.writeBuffer(buffers[0], at, bits);
  const dispatch = await dispatching(device, COPY_WGSL, buffers);
  const copies = (count: number): Promise<number> => dispatch(size / COPY_BYTES_A_WORKGROUP, count);
  try {
    const { callsPerSample } = await chainsOf(copies).pace();
    return (2 * size * 1000) / (await roofSlope(copies, callsPerSample));
  } finally {
    for (const one of buffers) one.destroy();
  }
}

const WORKGROUPS = 1056;
const ROUNDS = 512;
/** Of matrix-roof.ts: 8 subgroups a workgroup, 8 products of 16 x 16 x 16 a round. */
const FLOPS = WORKGROUPS * ROUNDS * 8 * 8 * 2 * 16 ** 3;

/** GFLOP/s of subgroup matrices; 0 where there are none. */
export async function matrixRate(device: GPUDevice): Promise<number> {
  if (!device.features.has("chromium-experimental-subgroup-matrix")) return 0;
  const buffer = (size: number, usage: number) => device.createBuffer({ size, usage: usage | 0x0008 });
  const [rounds, halves, sums] = [buffer(16, 0x0040), buffer(16384, 0x0080), buffer(1024 * 8, 0x0080)];
  device.queue.writeBuffer(rounds, 0, Uint32Array.of(ROUNDS));
  // Float16 from 0.5 to 2 of either sign: zeros would run cooler, and so faster.
  const bits = Uint16Array.from({ length: 8192 }, (_, n) => ((n * 40503) & 0x87ff) | 0x3800);
  device.queue.writeBuffer(halves, 0, bits);
  const dispatch = await dispatching(device, MATRIX_WGSL, [rounds, halves, sums]);
  const products = (count: number): Promise<number> => dispatch(WORKGROUPS, count);
  const { callsPerSample } = await chainsOf(products).pace();
  const ms = await roofSlope(products, callsPerSample);
  for (const one of [rounds, halves, sums]) one.destroy();
  return FLOPS / ms / 1e6;
}

/** Runs a shader of some workgroups so many times, one after the other; milliseconds of it on the device, or from the submission to the end. */
type Dispatching = (workgroups: number, times: number) => Promise<number>;

async function dispatching(device: GPUDevice, code: string, buffers: readonly GPUBuffer[]): Promise<Dispatching> {
  const module = device.createShaderModule({ code });
  const pipeline = await device.createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint: "main" } });
  const group = device.createBindGroup({
    layout: pipeline.getBindGroupLayout(0),
    entries: buffers.map((buffer, binding) => ({ binding, resource: { buffer } })),
  });
  const timer = gpuTimer(device);
  return (workgroups, times) => {
    const record = (encoder: unknown): void => {
      const pass = (encoder as GPUCommandEncoder).beginComputePass();
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      for (let n = 0; n < times; n++) pass.dispatchWorkgroups(workgroups);
      pass.end();
    };
    return timer ? timer.time(record) : timeSubmitted(device, record);
  };
}
