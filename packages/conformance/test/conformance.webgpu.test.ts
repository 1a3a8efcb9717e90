import { describeWebgpu, HALF_TYPES, otherThan } from "./webgpu.ts";

await describeWebgpu("WebGPU", { driver: "swiftshader", capabilities: await otherThan(HALF_TYPES) });
