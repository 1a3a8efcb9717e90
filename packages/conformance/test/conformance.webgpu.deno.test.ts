import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { inDeno, noDeno } from "../../../tools/deno.ts";
import { root } from "../../../tools/test-needs.ts";
import { conformanceChecks, type ConformanceReport } from "../src/runner.ts";

// The whole suite on wgpu takes a quarter of an hour: npm run webgpu-verify -- --software --deno.
const [capability, runs] = ["plain", 1];
const checks = await conformanceChecks({ capabilities: [capability], runs });

describe.skipIf(noDeno)(`WebGPU in Deno, by wgpu${noDeno ? `: ${noDeno}` : ""}`, () => {
  let report: ConformanceReport;
  beforeAll(async () => {
    const backend = join(root, "packages/backend-webgpu/src/index.ts");
    const options = ["-b", backend, "-p", JSON.stringify({ software: true }), "--runs", String(runs), "--json"];
    report = await inDeno("packages/conformance/src/cli.ts", ...options, "--capability", capability);
  }, 600_000);

  it.each(checks)("$name", ({ name }) => {
    const result = report.results.find((one) => one.name === name);
    expect(result?.status, result?.reason).toBe("passed");
  });
});
