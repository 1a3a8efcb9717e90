import type { DeviceBuffer, MemoryUse } from "@fa/core";
import { outOfMemory, type Device } from "./device.ts";

/** Smallest piece of memory, in bytes. */
const GRANULE = 512;

/** Every bit set: NaN in each float dtype. */
const POISON = 0xff;

export interface PoolOptions {
  /** Idle memory that is kept at most; 0: none, and buffers are as large as asked for to the byte. */
  readonly poolBytes: number;
  /** New buffers hold NaN, in place of whatever was there. */
  readonly poison: boolean;
}

/** Memory of a tensor or a workspace. */
export interface CudaBuffer extends DeviceBuffer {
  /** On the device. */
  readonly pointer: number;
  /** That it takes: `bytes` or a little more. */
  readonly size: number;
  /** A caller's, never freed or handed on. */
  readonly wrapped: boolean;
}

/**
 * Makes buffers, counts them, and keeps those that are freed for the next who asks. All work of an instance goes through one
 * stream, so memory may change hands while work that uses it is still under way.
 */
export class Buffers {
  readonly #device: Device;
  /** Idle pointers by size; of a size, the one freed last comes last. */
  readonly #idle = new Map<number, number[]>();
  readonly #live = new Set<DeviceBuffer>();
  readonly #poolBytes: number;
  readonly #poison: boolean;
  #idleBytes = 0;
  #currentBytes = 0;
  #peakBytes = 0;

  constructor(device: Device, { poolBytes, poison }: PoolOptions) {
    this.#device = device;
    this.#poolBytes = poolBytes;
    this.#poison = poison;
  }

  get memory(): MemoryUse {
    return { currentBytes: this.#currentBytes, peakBytes: this.#peakBytes };
  }

  get idleBytes(): number {
    return this.#idleBytes;
  }

  has(buffer: DeviceBuffer): buffer is CudaBuffer {
    return this.#live.has(buffer);
  }

  /** @throws FaError FA_OUT_OF_MEMORY, when there is none even after giving back what is idle */
  make(bytes: number): CudaBuffer {
    const size = this.#poolBytes > 0 ? sizeClass(bytes) : Math.max(bytes, 1);
    const pointer = this.#takeIdle(size) ?? this.#allocate(size, bytes);
    if (this.#poison) this.#device.fill(pointer, POISON, size);
    return this.#admit({ bytes, pointer, size, wrapped: false });
  }

  wrap(pointer: number, bytes: number): CudaBuffer {
    return this.#admit({ bytes, pointer, size: 0, wrapped: true });
  }

  free(buffer: DeviceBuffer): void {
    if (!this.#live.delete(buffer)) return;
    const { pointer, size, wrapped } = buffer as CudaBuffer;
    if (wrapped) return;
    this.#currentBytes -= size;
    if (this.#idleBytes + size > this.#poolBytes) {
      this.#device.free(pointer);
      return;
    }
    this.#idleBytes += size;
    const same = this.#idle.get(size);
    if (same) same.push(pointer);
    else this.#idle.set(size, [pointer]);
  }

  /** Gives back what is idle. */
  trim(): void {
    for (const pointer of [...this.#idle.values()].flat()) this.#device.free(pointer);
    this.#idle.clear();
    this.#idleBytes = 0;
  }

  dispose(): void {
    for (const buffer of this.#live) {
      const { pointer, wrapped } = buffer as CudaBuffer;
      if (!wrapped) this.#device.free(pointer);
    }
    this.#live.clear();
    this.#currentBytes = 0;
    this.trim();
  }

  #allocate(size: number, bytes: number): number {
    let pointer = this.#device.allocate(size);
    if (pointer === undefined && this.#idleBytes > 0) {
      this.trim();
      pointer = this.#device.allocate(size);
    }
    if (pointer === undefined) throw outOfMemory(`a buffer of ${bytes} bytes`, "no memory for it");
    return pointer;
  }

  #admit(buffer: CudaBuffer): CudaBuffer {
    this.#live.add(buffer);
    this.#currentBytes += buffer.size;
    this.#peakBytes = Math.max(this.#peakBytes, this.#currentBytes);
    return buffer;
  }

  #takeIdle(size: number): number | undefined {
    const pointer = this.#idle.get(size)?.pop();
    if (pointer !== undefined) this.#idleBytes -= size;
    return pointer;
  }
}

/** Sizes that memory comes in, at most an eighth larger than asked for, so that it can be used again. */
export function sizeClass(bytes: number): number {
  const step = Math.max(GRANULE, 2 ** (Math.floor(Math.log2(Math.max(bytes, 1))) - 3));
  return Math.max(GRANULE, Math.ceil(bytes / step) * step);
}
