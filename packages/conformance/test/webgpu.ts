import { KERNELS, webgpu, type Tuning, type WebgpuOptions } from "@fa/backend-webgpu";
import { describe, expect, it } from "vitest";
import { create, globals } from "webgpu";
import { SOFTWARE, useDriver } from "../../../tools/software-gpu.ts";
import { conformanceChecks, type ConformanceOptions } from "../src/runner.ts";
import { describeConformance } from "./suite.ts";

/** Compiling a kernel takes a software adapter seconds, lavapipe half a minute. */
const TIMEOUT_MS = 600_000;

/** Capabilities whose checks repeat others in another type. */
export const HALF_TYPES = ["float16", "bfloat16"];

/** All capabilities but some. */
export async function otherThan(capabilities: readonly string[]): Promise<string[]> {
  const all = new Set((await conformanceChecks()).map(({ capability }) => capability));
  return [...all].filter((capability) => !capabilities.includes(capability));
}

interface Lane extends ConformanceOptions {
  readonly driver: Parameters<typeof useDriver>[0];
  readonly subgroup?: 4 | 8 | 16;
  readonly tier?: WebgpuOptions["tier"];
  /** As if every problem were of that size, in float32: problems of checks are small. */
  readonly tiles?: "medium" | "large";
}

/** A tuning that puts the rows for problems of that size before those for small ones. */
async function tuningFor(tiles: "medium" | "large"): Promise<Tuning> {
  const rows = KERNELS.filter(({ op, maxRows, needs }) => op === "attention" && !maxRows && needs.length === 0);
  const [small] = rows;
  const preferred = rows.filter(({ id, maxTotalRows }) =>
    tiles === "large" ? maxTotalRows === undefined : id.startsWith("forward-medium"),
  );
  const choices = preferred.map(({ id, headDim }) => ({
    kernel: id,
    dtype: "float32" as const,
    headDim: headDim!,
    ms: { [small.id]: 2, [id]: 1 },
  }));
  const { device } = await webgpu(SOFTWARE).probe();
  return { device: device!, choices };
}

/** Kept as long as the process: Dawn crashes when an instance is collected that was in use. */
let dawn: GPU | undefined;

/** How many lanes a subgroup has in truth, whatever the driver says: counted by a shader. */
async function subgroupSize(): Promise<number> {
  const { GPUBufferUsage: Usage, GPUMapMode: MapMode } = globals as typeof globalThis;
  dawn ??= create([...SOFTWARE.dawn]);
  const adapter = await dawn.requestAdapter();
  const device = await adapter!.requestDevice({ requiredFeatures: ["subgroups"] });
  const module = device.createShaderModule({
    code: `enable subgroups;
@group(0) @binding(0) var<storage, read_write> size: u32;
@compute @workgroup_size(64) fn main(@builtin(local_invocation_index) i: u32) {
  let lanes = subgroupAdd(1u);
  if (i == 0) { size = lanes; }
}`,
  });
  const pipeline = await device.createComputePipelineAsync({ layout: "auto", compute: { module } });
  const size = device.createBuffer({ size: 4, usage: Usage.STORAGE | Usage.COPY_SRC });
  const read = device.createBuffer({ size: 4, usage: Usage.MAP_READ | Usage.COPY_DST });
  const bindings = device.createBindGroup({
    layout: pipeline.getBindGroupLayout(0),
    entries: [{ binding: 0, resource: { buffer: size } }],
  });
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, bindings);
  pass.dispatchWorkgroups(1);
  pass.end();
  encoder.copyBufferToBuffer(size, 0, read, 0, 4);
  device.queue.submit([encoder.finish()]);
  await read.mapAsync(MapMode.READ);
  const [n] = new Uint32Array(read.getMappedRange());
  device.destroy();
  return n;
}

/** Checks on a software adapter, or their absence by name. A file has one driver. */
export async function describeWebgpu(
  title: string,
  { driver, subgroup, tier, tiles, ...options }: Lane,
): Promise<void> {
  const found = useDriver(driver, { subgroup });
  if (found.here) {
    const tuning = tiles && (await tuningFor(tiles));
    await describeConformance(title, webgpu({ ...SOFTWARE, tier, tuning }), {
      runs: 4,
      timeoutMs: TIMEOUT_MS,
      ...options,
    });
  } else {
    describe(title, () => {
      it.skip(found.why, () => {});
    });
  }
}

/**
 * Kernels on a driver with float16 and subgroups of that size: decode, which works on subgroups; and others, to which their size is
 * all the same, on the smallest, for which lavapipe compiles in a tenth of the time.
 */
export async function describeSubgroups(subgroup: 4 | 8 | 16): Promise<void> {
  const title = `WebGPU with float16 and subgroups of ${subgroup}`;
  const lane = { driver: "lavapipe", subgroup } as const;
  const decode = "float16 golden causal_one_query_bottom_right";
  if (subgroup === 4) {
    await describeWebgpu(title, { ...lane, only: decode });
    await describeWebgpu(title, { ...lane, only: "float16 golden causal_bottom_right_longer_keys" });
    await describeWebgpu(title, { ...lane, capabilities: ["cast"] });
  } else {
    await describeWebgpu(title, { ...lane, only: decode, capabilities: ["float16"] });
  }
  it.runIf(useDriver("lavapipe", { subgroup }).here)(`shaders run in subgroups of ${subgroup}`, async () => {
    expect(await subgroupSize()).toBe(subgroup);
  });
}
