// The addon of @fa/backend-cuda that plays CUDA on the CPU (packages/backend-cuda/native/emulate), built if it is not there.

import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { root, type Need } from "./test-needs.ts";

export function findEmulatedCuda(): Need {
  const build = join(root, "packages", "backend-cuda", "tools", "build.ts");
  const { status, stdout, stderr } = spawnSync(process.execPath, [build, "--emulated"], { encoding: "utf8" });
  if (status !== 0) throw new Error(`${build} --emulated failed:\n${stderr}`);
  const path = /^(\/.*\.node) \d+ bytes$/m.exec(stdout)?.[1];
  return path === undefined
    ? { found: false, why: stdout.trim() }
    : { found: true, path, why: "built from packages/backend-cuda/native" };
}
