/** `@fa/backend-webgpu`: attention on WebGPU, in browsers, in Node through Dawn, and on a caller's own device. */
export { KERNELS } from "./kernels/table.ts";
