// CPUs that play GPUs, for tests of WebGPU where there is none. A process has one Vulkan driver: call `useDriver` before
// anything of WebGPU is loaded, and give each driver a test file of its own.

import { join } from "node:path";
import { root } from "./test-needs.ts";

/** Drivers that tests run on, by what their environment says of them (vitest.config.ts). */
export const DRIVERS = {
  /** Float32, subgroups of 4. */
  swiftshader: { icd: "FA_VULKAN_ICD", how: "apt-get install chromium" },
  /** Float16 too, and subgroups of 4, 8 or 16, as `LP_NATIVE_VECTOR_WIDTH` says. */
  lavapipe: { icd: "FA_LAVAPIPE_ICD", how: "bash tools/lavapipe.sh" },
} as const;

/** Options of `webgpu()` for a software adapter. Without Dawn's own zeroing of workgroup memory shaders compile 20 times faster. */
export const SOFTWARE = {
  software: true,
  dawn: ["disable-dawn-features=use_vulkan_zero_initialize_workgroup_memory_extension"],
} as const;

/** Whether the driver is here; from now on it is the process's. Else why not. */
export function useDriver(
  driver: keyof typeof DRIVERS,
  { subgroup }: { readonly subgroup?: 4 | 8 | 16 } = {},
): { readonly here: true } | { readonly here: false; readonly why: string } {
  const { icd, how } = DRIVERS[driver];
  const path = process.env[icd];
  if (!path) return { here: false, why: `${driver}, a software Vulkan driver, is not here: ${how}` };
  process.env["VK_DRIVER_FILES"] = path;
  if (driver === "lavapipe") {
    // Its compiler without optimising: half the time.
    process.env["GALLIVM_PERF"] = "nopt";
    // Mesa finds what it has compiled by the shader alone: with one cache for all, code for 16 lanes would run as if for 4.
    process.env["MESA_SHADER_CACHE_DIR"] = join(root, "node_modules", ".cache", `mesa-${subgroup ?? "default"}`);
    if (subgroup) process.env["LP_NATIVE_VECTOR_WIDTH"] = String(32 * subgroup);
  }
  return { here: true };
}
