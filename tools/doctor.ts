// npm run doctor: which of the things that tests need are here, and how to get the others.
// Exits 1 when something is missing.

import {
  findChromium,
  findClang,
  findDeno,
  findLavapipe,
  findOracle,
  findSoftwareVulkan,
  type Need,
} from "./test-needs.ts";

function node(): Need {
  const major = Number(process.versions.node.split(".")[0]);
  const what = `Node ${process.versions.node}`;
  return major >= 24
    ? { found: true, path: process.execPath, why: what }
    : { found: false, why: `${what}; run this through npm run doctor, or install Node 24 or newer` };
}

const needs: readonly (readonly [string, string, Need])[] = [
  ["Node >= 24", "everything", node()],
  ["Chromium", "browser tests", findChromium()],
  ["software Vulkan", "WebGPU tests without a GPU", findSoftwareVulkan()],
  ["lavapipe", "WebGPU tests with float16 without a GPU", findLavapipe()],
  ["Deno", "WebGPU tests on wgpu, which is Firefox's WebGPU too", findDeno()],
  ["clang-19, wasm-ld-19", "rebuilding the .wasm files", findClang()],
  ["oracle data", "PyTorch's and ONNX's answers", findOracle()],
];

for (const [name, purpose, need] of needs) {
  console.log(`${need.found ? "ok     " : "missing"}  ${name} (${purpose})`);
  console.log(`         ${need.found ? `${need.path}, ${need.why}` : need.why}`);
}
process.exitCode = needs.every(([, , need]) => need.found) ? 0 : 1;
