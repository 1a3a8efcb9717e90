import { webgpu } from "@fa/backend-webgpu";
import { describeConformance } from "./suite.ts";

// Those whose kernels differ most: the whole suite runs in Node.
await describeConformance("WebGPU in a browser", webgpu({ software: true }), {
  runs: 4,
  timeoutMs: 300_000,
  capabilities: ["plain", "causal", "mask", "nan", "edges", "gqa", "interface", "cast"],
});
