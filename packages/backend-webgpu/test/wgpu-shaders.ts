/**
 * Run in Deno: compiles every shader that the portable rows may come to, by wgpu's compiler, and prints for each row how many there are
 * and what was wrong with which.
 */
import { SHADERS } from "../src/generated/shaders.ts";
import type { DeviceLimits } from "../src/kernels/row.ts";
import { KERNELS } from "../src/kernels/table.ts";
import { expand } from "../src/wgsl.ts";
import { plansOf } from "./problems.ts";

/** What is printed, a list of these as JSON. */
export interface Compiled {
  readonly id: string;
  readonly shaders: number;
  readonly errors: readonly string[];
}

const adapter = await navigator.gpu.requestAdapter();
if (!adapter) throw new Error("no adapter");
const device = await adapter.requestDevice();
const { limits } = device;
const known: DeviceLimits = {
  maxComputeWorkgroupStorageSize: limits.maxComputeWorkgroupStorageSize,
  maxComputeInvocationsPerWorkgroup: limits.maxComputeInvocationsPerWorkgroup,
  maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
  maxStorageBuffersPerShaderStage: limits.maxStorageBuffersPerShaderStage,
  minStorageBufferOffsetAlignment: limits.minStorageBufferOffsetAlignment,
  subgroupMinSize: 0,
  subgroupMaxSize: 0,
};

async function errorOf(code: string): Promise<string | undefined> {
  device.pushErrorScope("validation");
  device.createShaderModule({ code });
  return (await device.popErrorScope())?.message;
}
if (!(await errorOf("fn main() -> u32 { return 1.5; }"))) throw new Error("no error would be found");

const compiled: Compiled[] = [];
for (const row of KERNELS.filter(({ needs }) => needs.length === 0)) {
  const texts = new Set<string>();
  for (const plan of plansOf(row)) {
    for (const { shader, params } of row.passes(plan, known, new Set(["out", "lse"])))
      texts.add(expand(shader, params, SHADERS));
  }
  const errors: string[] = [];
  for (const code of texts) {
    const error = await errorOf(code);
    if (error) errors.push(`${error}\n${code}`);
  }
  compiled.push({ id: row.id, shaders: texts.size, errors });
}
console.log(JSON.stringify(compiled));
