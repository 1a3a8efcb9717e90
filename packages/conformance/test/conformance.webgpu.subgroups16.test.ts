import { describeSubgroups } from "./webgpu.ts";

await describeSubgroups(16);
