// npm run kernel -- wasm/forward [options]: the harness of one back end's kernels. Verifies, then times.

import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { root } from "./test-needs.ts";

const harnessOf = (backend: string): string => join(root, "packages", `backend-${backend}`, "harness", "main.ts");

const [target = "", ...options] = process.argv.slice(2);
const [backend, kernel] = target.split("/");
if (!backend || !kernel || !existsSync(harnessOf(backend))) {
  const known = readdirSync(join(root, "packages"))
    .filter((name) => name.startsWith("backend-"))
    .map((name) => name.slice("backend-".length))
    .filter((name) => existsSync(harnessOf(name)));
  process.stderr.write(
    `Usage: npm run kernel -- BACKEND/KERNEL [options]; back ends with a harness: ${known.join(", ")}\n`,
  );
  process.exit(1);
}
const harness = ["--conditions=@fa/source", harnessOf(backend), kernel, ...options];
const { status } = spawnSync(process.execPath, harness, { stdio: "inherit" });
process.exit(status ?? 1);
