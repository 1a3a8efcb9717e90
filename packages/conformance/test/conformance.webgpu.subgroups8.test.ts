import { describeWebgpu } from "./webgpu.ts";

// A kernel each, since lavapipe takes half a minute to compile one: forward and backward, decode, cast.
const lane = { driver: "lavapipe", subgroup: 8 } as const;
const title = "WebGPU with float16 and subgroups of 8";
await describeWebgpu(title, { ...lane, only: "float16 golden causal_bottom_right_longer_keys" });
await describeWebgpu(title, { ...lane, only: "float16 golden causal_one_query_bottom_right" });
await describeWebgpu(title, { ...lane, capabilities: ["cast"] });
