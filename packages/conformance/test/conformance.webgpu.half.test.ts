import { describeWebgpu, HALF_TYPES } from "./webgpu.ts";

await describeWebgpu("WebGPU, half types", { driver: "swiftshader", capabilities: HALF_TYPES });
await describeWebgpu("WebGPU within the default limits, with the tiles of large problems", {
  driver: "swiftshader",
  tier: "portable",
  largeTiles: true,
  capabilities: ["plain", "causal", "gqa", "nan", "edges"],
});
