import type { DeviceBuffer, FaError, MemoryUse } from "@fa/core";
import { outOfMemory, type Device, type Verdict } from "./device.ts";

/** GPUBufferUsage, which Node has no global for. */
export const USAGE = {
  MAP_READ: 0x0001,
  COPY_SRC: 0x0004,
  COPY_DST: 0x0008,
  UNIFORM: 0x0040,
  STORAGE: 0x0080,
} as const;

const TENSOR_USAGE = USAGE.STORAGE | USAGE.COPY_SRC | USAGE.COPY_DST;

/** Freed buffers are kept for the next who asks, up to so many bytes and so many buffers. */
const IDLE_BYTES = 256 * 2 ** 20;
const IDLE_BUFFERS = 256;

/** Smallest buffer, in bytes: a multiple of what shaders read at once. */
const GRANULE = 256;

/** Memory of a tensor or a workspace. `gpu` may be larger than `bytes`. */
export interface WebgpuBuffer extends DeviceBuffer {
  gpu: GPUBuffer;
  /** A caller's, never destroyed or handed on. */
  readonly wrapped: boolean;
  /** Of a new buffer, until it is known. */
  verdict: Verdict | undefined;
  /** Whether its contents are still anything, so that another buffer would do as well. */
  readonly blank: boolean;
  /** Freed with it. */
  attached?: WebgpuBuffer | undefined;
}

/** Makes buffers, counts them, and keeps some of those that are freed. Work that was submitted may still use a freed one. */
export class Buffers {
  readonly #device: Device;
  /** The one freed last comes last. */
  readonly #idle: GPUBuffer[] = [];
  readonly #live = new Set<DeviceBuffer>();
  #idleBytes = 0;
  #currentBytes = 0;
  #peakBytes = 0;

  constructor(device: Device) {
    this.#device = device;
  }

  get memory(): MemoryUse {
    return { currentBytes: this.#currentBytes, peakBytes: this.#peakBytes };
  }

  has(buffer: DeviceBuffer): buffer is WebgpuBuffer {
    return this.#live.has(buffer);
  }

  /**
   * @param fill writes its contents; without it they are anything
   * @throws FaError FA_OUT_OF_MEMORY for what no buffer can hold; that memory ran out shows in the verdict
   */
  make(bytes: number, fill?: (buffer: GPUBuffer) => void): WebgpuBuffer {
    const size = sizeClass(bytes);
    const { maxBufferSize } = this.#device.gpu.limits;
    if (size > maxBufferSize)
      throw outOfMemory(`a buffer of ${bytes} bytes`, `a device whose buffers hold ${maxBufferSize}`);
    const idle = this.#takeIdle(size);
    // Known to be good, and nothing to write.
    if (idle && !fill) return this.#admit({ bytes, gpu: idle, wrapped: false, verdict: undefined, blank: true });
    const { value: gpu, verdict } = this.#device.scoped(`a buffer of ${bytes} bytes`, () => {
      const made = idle ?? this.#create(size);
      fill?.(made);
      return made;
    });
    return this.#admit({ bytes, gpu, wrapped: false, verdict, blank: fill === undefined });
  }

  wrap(gpu: GPUBuffer, bytes: number): WebgpuBuffer {
    return this.#admit({ bytes, gpu, wrapped: true, verdict: undefined, blank: false });
  }

  /**
   * Waits until it is known whether a new buffer was had. One that was not, and has no contents yet, is tried again once
   * the idle ones are given back.
   */
  async check(buffer: WebgpuBuffer): Promise<FaError | undefined> {
    const error = await buffer.verdict;
    buffer.verdict = undefined;
    if (error?.code !== "FA_OUT_OF_MEMORY") return error;
    this.trim();
    if (!buffer.blank) return this.#refused(buffer, error);
    const again = this.#device.scoped(`a buffer of ${buffer.bytes} bytes`, () => this.#create(sizeClass(buffer.bytes)));
    buffer.gpu = again.value;
    const still = await again.verdict;
    return still && this.#refused(buffer, still);
  }

  free(buffer: DeviceBuffer): void {
    if (!this.#live.delete(buffer)) return;
    const { gpu, wrapped, verdict, attached } = buffer as WebgpuBuffer;
    if (attached) this.free(attached);
    if (wrapped) return;
    this.#currentBytes -= gpu.size;
    if (verdict) {
      // Not known to be good.
      gpu.destroy();
      return;
    }
    this.#idle.push(gpu);
    this.#idleBytes += gpu.size;
    while (this.#idleBytes > IDLE_BYTES || this.#idle.length > IDLE_BUFFERS) this.#destroyOldest();
  }

  /** Gives back what is idle. */
  trim(): void {
    while (this.#idle.length > 0) this.#destroyOldest();
  }

  dispose(): void {
    for (const buffer of this.#live) {
      const { gpu, wrapped } = buffer as WebgpuBuffer;
      if (!wrapped) gpu.destroy();
    }
    this.#live.clear();
    this.#currentBytes = 0;
    this.trim();
  }

  /** A buffer that the device has no memory for: nothing of it is kept. */
  #refused(buffer: WebgpuBuffer, error: FaError): FaError {
    buffer.verdict = Promise.resolve(error);
    return error;
  }

  #create(size: number): GPUBuffer {
    return this.#device.gpu.createBuffer({ size, usage: TENSOR_USAGE });
  }

  #admit(buffer: WebgpuBuffer): WebgpuBuffer {
    this.#live.add(buffer);
    if (!buffer.wrapped) this.#currentBytes += buffer.gpu.size;
    this.#peakBytes = Math.max(this.#peakBytes, this.#currentBytes);
    return buffer;
  }

  #takeIdle(size: number): GPUBuffer | undefined {
    const at = this.#idle.findLastIndex((gpu) => gpu.size === size);
    if (at === -1) return undefined;
    this.#idleBytes -= size;
    return this.#idle.splice(at, 1)[0];
  }

  #destroyOldest(): void {
    const gpu = this.#idle.shift()!;
    this.#idleBytes -= gpu.size;
    gpu.destroy();
  }
}

/** Sizes that buffers come in, at most an eighth larger than asked for, so that they can be used again. */
export function sizeClass(bytes: number): number {
  const step = Math.max(GRANULE, 2 ** (Math.floor(Math.log2(Math.max(bytes, 1))) - 3));
  return Math.max(GRANULE, Math.ceil(bytes / step) * step);
}
