// The back ends that CI must have seen at work. A file counts when it ran in its project and a test in it passed.

export interface Ran {
  readonly project: string;
  readonly file: string;
  readonly passed: number;
}

const REQUIRED = [
  { name: "reference in Node", project: "node", file: "conformance.reference.test.ts" },
  { name: "wasm in Node", project: "node", file: "conformance.wasm.test.ts" },
  { name: "webgpu in Node", project: "node", file: "conformance.webgpu.test.ts" },
  { name: "wasm in Chromium", project: "browser", file: "conformance.wasm.browser.test.ts" },
  { name: "webgpu in Chromium", project: "browser", file: "conformance.webgpu.browser.test.ts" },
  { name: "the web page in Chromium", project: "node", file: "page.test.ts" },
  { name: "CUDA kernels on the CPU", project: "node", file: "conformance.cuda.test.ts" },
] as const;

/** Names of the required back ends that did not run. */
export function missingRequired(ran: readonly Ran[]): string[] {
  return REQUIRED.filter(
    ({ project, file }) =>
      !ran.some((one) => one.project === project && one.file.endsWith(`/${file}`) && one.passed > 0),
  ).map(({ name }) => name);
}
