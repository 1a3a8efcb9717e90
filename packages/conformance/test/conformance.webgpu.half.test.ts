import { describeWebgpu, HALF_TYPES } from "./webgpu.ts";

await describeWebgpu("WebGPU, half types", { driver: "swiftshader", capabilities: HALF_TYPES });
await describeWebgpu("WebGPU within the default limits, with the tiles of large problems", {
  driver: "swiftshader",
  tier: "portable",
  tiles: "large",
  capabilities: ["plain", "causal", "gqa", "nan", "edges"],
});
await describeWebgpu("WebGPU with the tiles of medium problems", {
  driver: "swiftshader",
  tiles: "medium",
  capabilities: ["plain", "nan"],
});
