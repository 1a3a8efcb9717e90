// Examples of READMEs run as they stand, and print what their comments or this test say.

import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { examples, printed, promised } from "./examples.ts";
import { root } from "./test-needs.ts";

describe("README.md", () => {
  it("has the tables that kernel tables and result files give", () => {
    const check = ["--conditions=@fa/source", join(root, "apps/bench/src/readme.ts"), "--check"];
    const { status, stderr } = spawnSync(process.execPath, check, { encoding: "utf8" });
    expect(status, stderr).toBe(0);
  });
  it("has one example, which gives out and lse on wasm", () => {
    const code = examples("README.md", "ts");
    expect(code).toHaveLength(1);
    expect(printed(code[0])).toMatch(/^wasm \[ 1, 8, 256, 64 \] Float32Array\(3\) \[[^N]*\] 2048$/ms);
  });
});

describe.each(["packages/core/README.md", "packages/conformance/README.md"])("%s", (readme) => {
  const code = examples(readme, "js");
  it("has an example", () => expect(code.length).toBeGreaterThan(0));
  it.each(code)("prints what its comments say:\n%s", (snippet) => {
    expect(promised(snippet).length).toBeGreaterThan(0);
    expect(printed(snippet).trim().split("\n")).toEqual(promised(snippet));
  });
});

describe("packages/backend-wasm/README.md", () => {
  it.each(examples("packages/backend-wasm/README.md", "ts"))("runs:\n%s", (code) => {
    expect(printed(`${code}\nconsole.log(fa.backend.name); await fa.dispose();`).trim()).toBe("wasm");
  });
});
