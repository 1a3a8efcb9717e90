import { describeWebgpu, HALF_TYPES } from "./webgpu.ts";

await describeWebgpu("WebGPU, half types", { driver: "swiftshader", capabilities: HALF_TYPES });
await describeWebgpu("WebGPU within the default limits", {
  driver: "swiftshader",
  tier: "portable",
  capabilities: ["plain", "causal", "gqa", "edges"],
});
