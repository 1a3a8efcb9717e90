import type { DType } from "./dtype.ts";
import type { KernelRow, Plan } from "./plan.ts";

/** What an open back end can do: the facts that the planner chooses by. */
export interface Capabilities {
  /** Element types its kernels read and write. */
  readonly dtypes: readonly DType[];
  /** Largest D and Dv. */
  readonly maxHeadDim: number;
  /** Fast memory that one tile may use, in bytes; Infinity where there is no such limit. */
  readonly sharedBytes: number;
  /** Largest single buffer, in bytes. */
  readonly maxBufferBytes: number;
  /** Named abilities of the device that kernel rows may ask for, such as "relaxed-simd". */
  readonly features: readonly string[];
}

/** Memory of a back end. Opaque to core; the back end that made it knows what is inside. */
export interface DeviceBuffer {
  readonly bytes: number;
}

/** The buffers of one run, by the names of the contract: q, k, v, bias, out, lse, dq, ...; results of linear are y0, y1, ... */
export type Bindings = Readonly<Record<string, DeviceBuffer>>;

/** Bytes that an open back end holds now, and the most it has held: tensors and workspace together. */
export interface MemoryUse {
  readonly currentBytes: number;
  readonly peakBytes: number;
}

/** The arithmetic that this device can do at best, measured on it, not computed from its name. */
export interface Roof {
  readonly gflops: number;
  /** What was measured: "register-only relaxed FMA, float32, one thread". */
  readonly what: string;
}

export interface ProbeResult {
  readonly ok: boolean;
  /** Why not, or a remark on how. */
  readonly reason?: string | undefined;
  /** The device that would be used, in the words of its maker. */
  readonly device?: string | undefined;
  /**
   * What else its speed depends on: version, driver, options. Measured choices are remembered for as long as it stays the same, and
   * not at all where a candidate has none.
   */
  readonly identity?: string | undefined;
}

/**
 * An open back end. Work runs in the order it is given, so results may be read or freed at once after `run`:
 * `read` and `free` take effect after all work given before them.
 */
export interface Backend {
  readonly name: string;
  readonly device: string;
  readonly capabilities: Capabilities;
  readonly kernels: readonly KernelRow[];

  /**
   * A new buffer. `contents` are copied before the call returns, and may be a view on the back end's own memory;
   * "zero" clears it; left out, it holds anything, and whoever asks writes every byte.
   * @throws FaError FA_OUT_OF_MEMORY, after which everything made before is still usable
   */
  allocate(bytes: number, contents?: Uint8Array | "zero"): DeviceBuffer;
  /** A copy of the bytes, once all work given before is done. */
  read(buffer: DeviceBuffer): Promise<Uint8Array<ArrayBuffer>>;
  free(buffer: DeviceBuffer): void;

  /** Enqueues a plan. Throws or rejects with an FaError if it cannot; buffers keep what they held. */
  run(plan: Plan, bindings: Bindings): void | Promise<void>;
  /** Resolves when all work given before is done. */
  sync(): Promise<void>;

  /**
   * A buffer on memory that the caller has in the platform's own terms, such as a `GPUBuffer`: shared, not copied. `free` lets go
   * of it and leaves it alone.
   * @throws FaError FA_TENSOR, FA_SHAPE if it cannot be used as `bytes` bytes
   */
  wrap?(native: unknown, bytes: number): DeviceBuffer;
  /** The memory of a buffer in the platform's own terms. It stays the buffer's. */
  native?(buffer: DeviceBuffer): unknown;
  /** Records a plan into a caller's list of commands instead of running it. */
  encode?(encoder: unknown, plan: Plan, bindings: Bindings): void;

  memory(): MemoryUse;
  /** Measures the roof, in about 100 ms. */
  roof(): Promise<Roof>;
  /** Frees everything. Idempotent. */
  dispose(): Promise<void>;
}

/** What a caller passes to `createAttention`: knows whether its back end would work here, and opens it. */
export interface BackendProvider {
  readonly name: string;
  /** Cheap and without side effects; never throws. */
  probe(): Promise<ProbeResult>;
  open(): Promise<Backend>;
}
