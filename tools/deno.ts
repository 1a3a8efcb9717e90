// Deno, for tests of WebGPU on wgpu, which is Firefox's too. A software adapter plays the GPU.

import { spawn } from "node:child_process";
import { join } from "node:path";
import { root } from "./test-needs.ts";

const { FA_DENO: deno, FA_VULKAN_ICD: driver } = process.env;

/** Why tests in Deno cannot run; undefined when they can. */
export const noDeno: string | undefined = !deno
  ? "Deno is not here: npm run doctor says how to get it"
  : !driver
    ? "no software Vulkan driver is here: apt-get install chromium"
    : undefined;

/** What a program of ours prints as JSON. */
export async function inDeno<T>(program: string, ...args: string[]): Promise<T> {
  const command = ["run", "-A", "--no-lock", "--conditions=@fa/source", join(root, program), ...args];
  const child = spawn(deno!, command, { cwd: root, env: { ...process.env, VK_DRIVER_FILES: driver } });
  let output = "";
  let errors = "";
  child.stdout.on("data", (text) => (output += text));
  child.stderr.on("data", (text) => (errors += text));
  child.on("error", ({ message }) => (errors += message));
  await new Promise((resolve) => child.on("close", resolve));
  if (!output) throw new Error(errors);
  return JSON.parse(output) as T;
}
