/** Runs passes on Dawn without the back end around them: what a kernel is tested with before anything else is. */
import { create, globals } from "webgpu";
import type { DeviceLimits, Pass } from "../src/kernels/row.ts";
import { expand } from "../src/wgsl.ts";
import { SHADERS } from "../src/generated/shaders.ts";

Object.assign(globalThis, globals);
if (process.env["FA_VULKAN_ICD"]) process.env["VK_DRIVER_FILES"] = process.env["FA_VULKAN_ICD"];

// One instance a process, kept for as long as it lives. Without the feature shaders compile 20 times faster on SwiftShader.
const software = create(["disable-dawn-features=use_vulkan_zero_initialize_workgroup_memory_extension"]);

/** A device of the software adapter, with default limits and no feature; or with subgroups, and all the workgroup memory there is. */
export async function softwareDevice(subgroups = false): Promise<GPUDevice> {
  const adapter = await software.requestAdapter();
  if (!adapter) throw new Error("no software Vulkan driver: npm run doctor says how to get one");
  if (!subgroups) return adapter.requestDevice();
  const { maxComputeWorkgroupStorageSize } = adapter.limits;
  return adapter.requestDevice({ requiredFeatures: ["subgroups"], requiredLimits: { maxComputeWorkgroupStorageSize } });
}

const none = create(["backend=null", "enable-dawn-features=allow_unsafe_apis"]);

/** A device that validates shaders and runs nothing: every feature that Dawn knows, and the limits of a large GPU. */
export async function nullDevice(): Promise<GPUDevice> {
  const adapter = (await none.requestAdapter())!;
  const { maxComputeWorkgroupStorageSize, maxComputeInvocationsPerWorkgroup, maxComputeWorkgroupSizeX } =
    adapter.limits;
  return adapter.requestDevice({
    requiredFeatures: [...adapter.features] as GPUFeatureName[],
    requiredLimits: { maxComputeWorkgroupStorageSize, maxComputeInvocationsPerWorkgroup, maxComputeWorkgroupSizeX },
  });
}

export function limitsOf({ limits, features, adapterInfo }: GPUDevice): DeviceLimits {
  const { subgroupMinSize = 0, subgroupMaxSize = 0 } = features.has("subgroups") ? adapterInfo : {};
  return {
    maxComputeWorkgroupStorageSize: limits.maxComputeWorkgroupStorageSize,
    maxComputeInvocationsPerWorkgroup: limits.maxComputeInvocationsPerWorkgroup,
    maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
    maxStorageBuffersPerShaderStage: limits.maxStorageBuffersPerShaderStage,
    minStorageBufferOffsetAlignment: limits.minStorageBufferOffsetAlignment,
    subgroupMinSize,
    subgroupMaxSize,
  };
}

/** WGSL of a shader file, or of text that includes others. */
export function shaderText(shader: string, params: Pass["params"]): string {
  return Object.hasOwn(SHADERS, shader)
    ? expand(shader, params, SHADERS)
    : expand("test", params, { ...SHADERS, test: shader });
}

const compiled = new WeakMap<GPUDevice, Map<string, Promise<GPUComputePipeline>>>();

/** Compiles a pass, once a device. @throws with the compiler's messages */
export function compile(device: GPUDevice, { shader, params }: Pick<Pass, "shader" | "params">) {
  let pipelines = compiled.get(device);
  if (!pipelines) compiled.set(device, (pipelines = new Map()));
  const key = JSON.stringify([shader, params]);
  let pipeline = pipelines.get(key);
  if (!pipeline) {
    const code = shaderText(shader, params);
    const module = device.createShaderModule({ code });
    pipeline = device
      .createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint: "main" } })
      .catch((error: unknown) => {
        throw new Error(`${String(error)}\n${code}`);
      });
    pipelines.set(key, pipeline);
  }
  return pipeline;
}

/**
 * Runs passes in order on buffers of the names and contents given; resolves to what the buffers named hold then.
 * @throws if they leave a word of `state` that is not 0
 */
export async function runPasses<N extends string>(
  device: GPUDevice,
  passes: readonly Pass[],
  contents: Readonly<Record<string, Uint8Array>>,
  results: readonly N[],
): Promise<Record<N, Uint8Array<ArrayBuffer>>> {
  const buffers = new Map<string, GPUBuffer>();
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
  for (const [name, bytes] of Object.entries(contents)) {
    const size = Math.max(4, Math.ceil(bytes.byteLength / 4) * 4);
    const buffer = device.createBuffer({ size, usage, mappedAtCreation: true });
    new Uint8Array(buffer.getMappedRange()).set(bytes);
    buffer.unmap();
    buffers.set(name, buffer);
  }
  const stateBytes = Math.max(0, ...passes.map(({ stateBytes: bytes = 0 }) => bytes));
  if (stateBytes > 0) buffers.set("state", device.createBuffer({ size: stateBytes, usage }));
  const pipelines = await Promise.all(passes.map((pass) => compile(device, pass)));
  device.pushErrorScope("validation");
  const encoder = device.createCommandEncoder();
  for (const [n, pass] of passes.entries()) {
    if (pass.workgroups === 0) continue;
    const words = Uint32Array.from([0, pass.workgroups, 0, 0, ...pass.uniforms]);
    const uniforms = device.createBuffer({
      size: Math.ceil(words.byteLength / 16) * 16,
      usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
    });
    device.queue.writeBuffer(uniforms, 0, words);
    const entries: GPUBindGroupEntry[] = pass.buffers.map(({ name, offset = 0, bytes }, at) => {
      const buffer = buffers.get(name);
      if (!buffer) throw new Error(`${pass.shader} wants a buffer ${name}`);
      return { binding: at + 1, resource: { buffer, offset, ...(bytes !== undefined && { size: bytes }) } };
    });
    const group = device.createBindGroup({
      layout: pipelines[n].getBindGroupLayout(0),
      entries: [{ binding: 0, resource: { buffer: uniforms } }, ...entries],
    });
    const compute = encoder.beginComputePass();
    compute.setPipeline(pipelines[n]);
    compute.setBindGroup(0, group);
    const x = Math.min(pass.workgroups, 65535);
    compute.dispatchWorkgroups(x, Math.ceil(pass.workgroups / x));
    compute.end();
  }
  const copyOf = (name: string): GPUBuffer => {
    const buffer = buffers.get(name)!;
    const copy = device.createBuffer({ size: buffer.size, usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ });
    encoder.copyBufferToBuffer(buffer, 0, copy, 0, buffer.size);
    return copy;
  };
  const read = results.map((name) => ({ name, copy: copyOf(name) }));
  const state = stateBytes > 0 ? copyOf("state") : undefined;
  device.queue.submit([encoder.finish()]);
  const error = await device.popErrorScope();
  if (error) throw new Error(error.message);
  if (state) {
    await state.mapAsync(GPUMapMode.READ);
    const left = new Uint32Array(state.getMappedRange()).filter((word) => word !== 0).length;
    if (left > 0) throw new Error(`${left} words of the state are not 0`);
    state.destroy();
  }
  const found = {} as Record<N, Uint8Array<ArrayBuffer>>;
  for (const { name, copy } of read) {
    await copy.mapAsync(GPUMapMode.READ);
    found[name] = new Uint8Array(copy.getMappedRange()).slice(0, contents[name].byteLength);
    copy.destroy();
  }
  for (const buffer of buffers.values()) buffer.destroy();
  return found;
}
