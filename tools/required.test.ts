import { expect, test } from "vitest";
import { missingRequired, type Ran } from "./required.ts";

const all: readonly Ran[] = [
  { project: "node", file: "packages/conformance/test/conformance.reference.test.ts", passed: 9 },
  { project: "node", file: "packages/conformance/test/conformance.wasm.test.ts", passed: 9 },
  { project: "node", file: "packages/conformance/test/conformance.webgpu.test.ts", passed: 9 },
  { project: "browser", file: "packages/backend-wasm/test/conformance.wasm.browser.test.ts", passed: 1 },
  { project: "browser", file: "packages/conformance/test/conformance.webgpu.browser.test.ts", passed: 9 },
  { project: "node", file: "apps/web/test/page.test.ts", passed: 9 },
  { project: "node", file: "packages/conformance/test/conformance.cuda.test.ts", passed: 9 },
];

test("nothing is missing when every required back end ran", () => {
  expect(missingRequired(all)).toEqual([]);
});

test("a back end that did not run is named", () => {
  expect(missingRequired([])).toEqual([
    "reference in Node",
    "wasm in Node",
    "webgpu in Node",
    "wasm in Chromium",
    "webgpu in Chromium",
    "the web page in Chromium",
    "CUDA kernels on the CPU",
  ]);
  expect(missingRequired(all.slice(0, 3))).toEqual([
    "wasm in Chromium",
    "webgpu in Chromium",
    "the web page in Chromium",
    "CUDA kernels on the CPU",
  ]);
});

test("a file whose tests were all skipped or failed does not count", () => {
  expect(missingRequired(all.with(1, { ...all[1], passed: 0 }))).toEqual(["wasm in Node"]);
});

test("the same file in another project does not count", () => {
  expect(missingRequired(all.with(3, { ...all[3], project: "node" }))).toEqual(["wasm in Chromium"]);
});
