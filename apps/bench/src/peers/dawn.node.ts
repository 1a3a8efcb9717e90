import { createRequire } from "node:module";
import { webgpu } from "@fa/backend-webgpu";

/** As the back end finds it: what the root installs for the tests. */
const DAWN: string = "webgpu";

interface Dawn {
  create(flags: string[]): GPU;
  readonly globals: object;
}

/** One instance a process, alive as long as the process: Dawn crashes when it goes before its devices. */
let gpu: GPU | undefined;

/**
 * Dawn becomes the process's `navigator.gpu`, so that ours finds the same.
 * @param flags Dawn's; the first call decides
 * @throws Error when it is not installed
 */
export async function useDawn(flags: readonly string[]): Promise<GPU> {
  if (gpu) return gpu;
  const dawn = (await import(DAWN)) as Dawn;
  Object.assign(globalThis, dawn.globals);
  gpu = dawn.create([...flags]);
  Object.defineProperty(navigator, "gpu", { value: gpu });
  return gpu;
}

/**
 * The GPU of this machine, by Dawn.
 * @throws Error when there is none
 */
export async function openAdapter(flags: readonly string[], software: boolean): Promise<GPUAdapter> {
  const dawn = await useDawn(flags);
  const { ok, reason } = await webgpu({ software }).probe();
  if (!ok) throw new Error(reason);
  const adapter = await dawn.requestAdapter({ powerPreference: "high-performance" });
  return adapter ?? (await dawn.requestAdapter({ forceFallbackAdapter: true }))!;
}

/** "Dawn, npm webgpu 0.6.2" */
export function dawnVersion(): string {
  const { version } = createRequire(import.meta.url)(`${DAWN}/package.json`) as { version: string };
  return `Dawn, npm webgpu ${version}`;
}

/** A developer's configuration: subgroup matrices, and float16 on NVIDIA's driver for Linux. */
export const MATRIX_FLAGS: readonly string[] = [
  "enable-dawn-features=allow_unsafe_apis,vulkan_enable_f16_on_nvidia",
  "disable-dawn-features=timestamp_quantization",
];

/** Timestamps as the GPU has them. Of several flags of one name Dawn takes the last. */
export const EXACT_TIMESTAMPS = "disable-dawn-features=timestamp_quantization";

/** Makes shaders compile twenty times faster on SwiftShader. */
export const SOFTWARE_FLAGS: readonly string[] = [
  "disable-dawn-features=use_vulkan_zero_initialize_workgroup_memory_extension",
];
