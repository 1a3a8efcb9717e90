import {
  DTYPES,
  FaError,
  MAX_HEAD_DIM,
  refuseBuffer,
  refuseDisposed,
  type Backend,
  type Bindings,
  type Capabilities,
  type DeviceBuffer,
  type KernelRow,
  type MemoryUse,
  type Plan,
  type Roof,
} from "@fa/core";
import type { Probed } from "./abi.ts";
import { Buffers, type CudaBuffer, type PoolOptions } from "./buffers.ts";
import type { Device, Launch } from "./device.ts";
import { kernelTable, type CudaRow } from "./kernels.ts";

/** Rows and keys that kernels count in 32 bits, with room for the band. */
const LONGEST = 2 ** 30;

/** Memory of a tensor in CUDA's own terms. */
export interface CudaMemory {
  /** CUdeviceptr. Work on it goes through `stream`, or waits for it. */
  readonly pointer: bigint;
  /** cudaStream_t of this back end. */
  readonly stream: bigint;
}

export class CudaBackend implements Backend {
  readonly name = "cuda";
  readonly device: string;
  readonly capabilities: Capabilities;
  readonly kernels: readonly KernelRow[];
  readonly #device: Device;
  readonly #buffers: Buffers;
  readonly #prepared = new WeakMap<Plan, readonly Launch[]>();
  #disposed: Promise<void> | undefined;

  constructor(device: Device, probed: Probed, pool: PoolOptions) {
    this.#device = device;
    this.#buffers = new Buffers(device, pool);
    this.device = probed.name;
    this.kernels = kernelTable(probed.processors);
    this.capabilities = {
      dtypes: DTYPES,
      maxHeadDim: MAX_HEAD_DIM,
      sharedBytes: probed.sharedBytes,
      maxBufferBytes: probed.memoryBytes,
      features: [`sm_${probed.major}${probed.minor}`, ...(probed.sm90a ? ["sm_90a"] : [])],
    };
  }

  allocate(bytes: number, contents?: Uint8Array | "zero"): DeviceBuffer {
    this.#checkOpen();
    const buffer = this.#buffers.make(bytes);
    if (contents === undefined || bytes === 0) return buffer;
    try {
      if (contents === "zero") this.#device.fill(buffer.pointer, 0, bytes);
      else this.#device.upload(buffer.pointer, contents);
    } catch (error) {
      this.#buffers.free(buffer);
      throw error;
    }
    return buffer;
  }

  /** A caller's device memory as a tensor's: `{ pointer }`, a CUdeviceptr as bigint or number. Not copied, and never freed. */
  wrap(native: unknown, bytes: number): DeviceBuffer {
    this.#checkOpen();
    const { pointer } = (native ?? {}) as Partial<CudaMemory>;
    const address = typeof pointer === "bigint" || typeof pointer === "number" ? Number(pointer) : NaN;
    if (!Number.isSafeInteger(address) || address <= 0) {
      throw new FaError(
        "FA_TENSOR",
        "cuda: what is wrapped must be { pointer }, the address of device memory as a bigint; got something else. Pass what the other library calls its device pointer.",
      );
    }
    return this.#buffers.wrap(address, bytes);
  }

  /** Where a tensor lies on the device, and the stream that its work goes through. It belongs to the tensor. */
  native(buffer: DeviceBuffer): CudaMemory {
    this.#checkOpen();
    return { pointer: BigInt(this.#own(buffer).pointer), stream: BigInt(this.#device.stream) };
  }

  async read(buffer: DeviceBuffer): Promise<Uint8Array<ArrayBuffer>> {
    this.#checkOpen();
    const { pointer, bytes } = this.#own(buffer);
    return this.#device.read(pointer, bytes);
  }

  free(buffer: DeviceBuffer): void {
    if (!this.#disposed) this.#buffers.free(buffer);
  }

  run(plan: Plan, bindings: Bindings): void {
    this.#checkOpen();
    for (const name in bindings) this.#own(bindings[name]);
    const launches = this.#prepare(plan);
    const workspace = plan.workspaceBytes > 0 ? this.#buffers.make(plan.workspaceBytes) : undefined;
    const pointerOf = (tensor: string): number =>
      tensor === "workspace" ? (workspace?.pointer ?? 0) : ((bindings[tensor] as CudaBuffer | undefined)?.pointer ?? 0);
    try {
      for (const launch of launches) this.#device.run(launch, pointerOf);
    } finally {
      // What comes after it may have the memory: it runs after it.
      if (workspace) this.#buffers.free(workspace);
    }
  }

  async sync(): Promise<void> {
    this.#checkOpen();
    await this.#device.read(0, 0);
  }

  memory(): MemoryUse {
    return this.#buffers.memory;
  }

  /** Memory that is kept for the next who asks. For tests and the curious. */
  statistics(): { readonly idleBytes: number } {
    return { idleBytes: this.#buffers.idleBytes };
  }

  async roof(): Promise<Roof> {
    this.#checkOpen();
    const gflops = await this.#device.roof();
    return { gflops, what: "register-only mma.sync, bfloat16" };
  }

  /** Work that was given before is done before. */
  dispose(): Promise<void> {
    this.#disposed ??= this.#close();
    return this.#disposed;
  }

  async #close(): Promise<void> {
    // A broken device has nothing left to wait for.
    await this.#device.read(0, 0).catch(() => {});
    this.#buffers.dispose();
    this.#device.close();
  }

  #prepare(plan: Plan): readonly Launch[] {
    const known = this.#prepared.get(plan);
    if (known) return known;
    const { problem, kernel } = plan;
    if ("Sq" in problem && Math.max(problem.Sq * (problem.H / problem.Hkv), problem.Skv) > LONGEST) {
      throw new FaError(
        "FA_UNSUPPORTED",
        `cuda: sequences must have at most ${LONGEST} rows; got Sq=${problem.Sq}, Skv=${problem.Skv}. Split them.`,
      );
    }
    const launches = (kernel as CudaRow).launches(plan as Plan<never>);
    this.#prepared.set(plan, launches);
    return launches;
  }

  #own(buffer: DeviceBuffer): CudaBuffer {
    if (this.#buffers.has(buffer)) return buffer;
    refuseBuffer("cuda");
  }

  #checkOpen(): void {
    this.#device.throwIfDead();
    if (this.#disposed) refuseDisposed("cuda");
  }
}
