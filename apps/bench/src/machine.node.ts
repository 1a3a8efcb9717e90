import { execFileSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { availableParallelism, cpus } from "node:os";
import { dirname, join } from "node:path";
import type { GoldenFiles } from "./golden.ts";
import type { Machine } from "./results.ts";

/** @param name what people call it; made from the processor unless given, never from the host's name */
export function thisMachine(name?: string): Machine {
  const cpu = cpus()[0]?.model.trim() ?? "unknown processor";
  const cores = availableParallelism();
  return {
    name: name ?? `${cpu}, ${cores} ${cores === 1 ? "core" : "cores"}`,
    cpu,
    cores,
    platform: `${process.platform}-${process.arch}`,
    runtime: `node ${process.versions.node}`,
  };
}

/** The commit of the code that runs, "-dirty" if files differ from it; null when nobody knows. A copy without git is told by FA_COMMIT. */
export function currentCommit(): string | null {
  const { FA_COMMIT } = process.env;
  if (FA_COMMIT) return FA_COMMIT;
  try {
    const args = ["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"];
    return execFileSync("git", args, {
      cwd: import.meta.dirname,
      stdio: ["ignore", "pipe", "ignore"],
      encoding: "utf8",
    }).trim();
  } catch {
    return null;
  }
}

/** PyTorch's answers, as they come with the conformance package. */
export async function readGolden(): Promise<GoldenFiles> {
  const home = dirname(createRequire(import.meta.url).resolve("@fa/conformance/package.json"));
  const [json, data] = await Promise.all(
    ["mha.json", "mha.safetensors"].map((file) => readFile(join(home, "golden", file))),
  );
  return { json: json, data: data };
}
