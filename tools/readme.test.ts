// The README's example runs as it stands, and what it prints is an answer.

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { root } from "./test-needs.ts";

const blocks = [...readFileSync(join(root, "README.md"), "utf8").matchAll(/^```ts\n(.*?)^```$/gms)];
const FROM_SOURCES = ["--conditions=@fa/source", "--input-type=module-typescript"];

describe("README", () => {
  it("shows an example", () => expect(blocks.length).toBeGreaterThan(0));
  it.each(blocks.map(([, code]) => code))("runs:\n%s", (code) => {
    const printed = execFileSync(process.execPath, FROM_SOURCES, { encoding: "utf8", cwd: root, input: code });
    expect(printed).toMatch(/^wasm \[ 1, 8, 256, 64 \] Float32Array\(3\) \[[^N]*\] 2048$/ms);
  });
});
