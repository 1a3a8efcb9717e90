/** How long a WebGPU device itself takes, by its timestamps. */
import { FaError } from "@fa/core";
import type { DeviceTimer } from "./bench.ts";

/** By their numbers: not every platform has `GPUBufferUsage` as a global. */
const COPY_SRC = 0x0004;
const COPY_DST = 0x0008;
const QUERY_RESOLVE = 0x0200;
const MAP_READ = 0x0001;

/** Two timestamps of 64 bits, in nanoseconds. */
const BYTES = 16;

/**
 * @param grainMs what its timestamps step by; browsers round them to 0.1 ms
 * @returns undefined for a device without the feature "timestamp-query".
 * @see https://www.w3.org/TR/webgpu/#timestamp
 */
export function gpuTimer(device: GPUDevice, grainMs = 0.1): DeviceTimer | undefined {
  if (!device.features.has("timestamp-query")) return undefined;
  const querySet = device.createQuerySet({ type: "timestamp", count: 2 });
  const resolved = device.createBuffer({ size: BYTES, usage: QUERY_RESOLVE | COPY_SRC });
  const readable = device.createBuffer({ size: BYTES, usage: MAP_READ | COPY_DST });
  return {
    // The grain is a hundredth of it. No longer: the results of its calls have to fit the memory that the back end keeps for them, for new
    // memory is cleared while the clock runs.
    sampleMs: 100 * grainMs,
    grainMs,
    async time(record) {
      const encoder = device.createCommandEncoder();
      // Written when all before it is done: the ends of two passes that do nothing, and what is recorded between them.
      const mark = (endOfPassWriteIndex: number): void =>
        encoder.beginComputePass({ timestampWrites: { querySet, endOfPassWriteIndex } }).end();
      mark(0);
      record(encoder);
      mark(1);
      encoder.resolveQuerySet(querySet, 0, 2, resolved, 0);
      encoder.copyBufferToBuffer(resolved, 0, readable, 0, BYTES);
      device.queue.submit([encoder.finish()]);
      await readable.mapAsync(0x0001);
      const [begin, end] = new BigUint64Array(readable.getMappedRange().slice(0));
      readable.unmap();
      if (end >= begin) return Number(end - begin) / 1e6;
      throw new FaError("FA_BACKEND", "the GPU's timestamps must not go back; they do. Its driver cannot tell time.");
    },
  };
}

/** The same where there are no timestamps: milliseconds from the submission of what is recorded to its end. */
export async function timeSubmitted(device: GPUDevice, record: (encoder: unknown) => void): Promise<number> {
  const encoder = device.createCommandEncoder();
  record(encoder);
  const commands = encoder.finish();
  const start = performance.now();
  device.queue.submit([commands]);
  await device.queue.onSubmittedWorkDone();
  return performance.now() - start;
}
