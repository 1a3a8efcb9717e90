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

/** Freed, and good for whoever asks next. */
interface Idle {
  readonly gpu: GPUBuffer;
  /** Until it is known whether it was had. */
  verdict: Verdict | undefined;
}

/** Makes buffers, counts them, and keeps some of those that are freed. Work that was submitted may still use a freed one. */
export class Buffers {
  readonly #device: Device;
  readonly #flush: () => void;
  /** The one freed last comes last. */
  readonly #idle: Idle[] = [];
  readonly #live = new Set<DeviceBuffer>();
  #idleBytes = 0;
  #currentBytes = 0;
  #peakBytes = 0;

  /** @param flush submits what is recorded: a buffer must live until the commands that use it are submitted */
  constructor(device: Device, flush: () => void) {
    this.#device = device;
    this.#flush = flush;
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
    const blank = fill === undefined;
    if (idle && blank) return this.#admit({ bytes, gpu: idle.gpu, wrapped: false, verdict: idle.verdict, blank });
    const { value: gpu, verdict } = this.#device.scoped(`a buffer of ${bytes} bytes`, () => {
      const made = idle?.gpu ?? this.#create(size);
      fill?.(made);
      return made;
    });
    const both = idle?.verdict ? idle.verdict.then((error) => error ?? verdict) : verdict;
    return this.#admit({ bytes, gpu, wrapped: false, verdict: both, blank });
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
    const idle: Idle = { gpu, verdict };
    this.#idle.push(idle);
    this.#idleBytes += gpu.size;
    if (verdict) void this.#dropUnlessHad(idle);
    while (this.#idleBytes > IDLE_BYTES || this.#idle.length > IDLE_BUFFERS) this.#drop(this.#idle[0]);
  }

  /** Gives back what is idle. */
  trim(): void {
    while (this.#idle.length > 0) this.#drop(this.#idle[0]);
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

  #takeIdle(size: number): Idle | undefined {
    const at = this.#idle.findLastIndex(({ gpu }) => gpu.size === size);
    if (at === -1) return undefined;
    this.#idleBytes -= size;
    return this.#idle.splice(at, 1)[0];
  }

  async #dropUnlessHad(idle: Idle): Promise<void> {
    const error = await idle.verdict;
    idle.verdict = undefined;
    if (error) this.#drop(idle);
  }

  /** Destroys one that is still idle. */
  #drop(idle: Idle): void {
    const at = this.#idle.indexOf(idle);
    if (at === -1) return;
    this.#idle.splice(at, 1);
    this.#idleBytes -= idle.gpu.size;
    this.#flush();
    idle.gpu.destroy();
  }
}

/** Sizes that buffers come in, at most an eighth larger than asked for, so that they can be used again. */
export function sizeClass(bytes: number): number {
  const step = Math.max(GRANULE, 2 ** (Math.floor(Math.log2(Math.max(bytes, 1))) - 3));
  return Math.max(GRANULE, Math.ceil(bytes / step) * step);
}
