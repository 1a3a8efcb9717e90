import {
  DTYPES,
  FaError,
  MAX_HEAD_DIM,
  Queue,
  type Backend,
  type Bindings,
  type Capabilities,
  type DeviceBuffer,
  type KernelRow,
  type MemoryUse,
  type Plan,
  type Roof,
} from "@fa/core";
import { Buffers, sizeClass, USAGE, type WebgpuBuffer } from "./buffers.ts";
import type { Adapter } from "./adapter.ts";
import type { Device, Verdict } from "./device.ts";
import type { WebgpuRow } from "./kernels/row.ts";
import { Launcher, type BuffersByName, type Prepared } from "./launch.ts";
import { measureRoof } from "./roof.ts";

/** Staging buffers that results are read through are kept, up to so many bytes. */
const STAGING_BYTES = 64 * 2 ** 20;

/**
 * What is ready to run is submitted before `run` returns. What has to be compiled first, or stands behind such work, waits
 * in a queue.
 */
export class WebgpuBackend implements Backend {
  readonly name = "webgpu";
  readonly capabilities: Capabilities;
  readonly kernels: readonly KernelRow[];
  readonly device: string;
  readonly #device: Device;
  readonly #buffers: Buffers;
  readonly #launcher: Launcher;
  readonly #queue = new Queue();
  #staging: GPUBuffer[] = [];
  /** Of work whose call had returned before it was known; the next who waits for the device hears of it. */
  #failure: FaError | undefined;
  #disposed = false;

  constructor(device: Device, { name, features, limits }: Adapter, kernels: readonly WebgpuRow[]) {
    this.#device = device;
    this.#buffers = new Buffers(device);
    this.#launcher = new Launcher(device, limits);
    this.device = name;
    this.kernels = kernels;
    this.capabilities = {
      dtypes: DTYPES,
      maxHeadDim: MAX_HEAD_DIM,
      sharedBytes: limits.maxComputeWorkgroupStorageSize,
      maxBufferBytes: device.gpu.limits.maxBufferSize,
      features,
    };
  }

  allocate(bytes: number, contents?: Uint8Array | "zero"): DeviceBuffer {
    this.#checkOpen();
    if (contents === undefined) return this.#buffers.make(bytes);
    return this.#buffers.make(bytes, (buffer) => {
      if (contents === "zero") this.#submit((encoder) => encoder.clearBuffer(buffer));
      else this.#write(buffer, contents);
    });
  }

  /** A caller's buffer as a tensor's memory: not copied, and never destroyed. */
  wrap(native: unknown, bytes: number): DeviceBuffer {
    this.#checkOpen();
    const { size, usage } = (native ?? {}) as Partial<GPUBuffer>;
    const wants = USAGE.STORAGE | USAGE.COPY_SRC | USAGE.COPY_DST;
    if (typeof size !== "number" || typeof usage !== "number" || (usage & USAGE.STORAGE) === 0) {
      throw new FaError(
        "FA_TENSOR",
        `webgpu: what is wrapped must be a GPUBuffer of this device with usage STORAGE; got ${typeof usage === "number" ? `usage ${usage}` : typeof native}. Create it with usage ${wants} (STORAGE | COPY_SRC | COPY_DST).`,
      );
    }
    if (size < bytes || size % 4 !== 0) {
      throw new FaError(
        "FA_SHAPE",
        `webgpu: a wrapped GPUBuffer must hold the ${bytes} bytes of its shape, in a multiple of 4; got ${size} bytes. Check the shape and dtype.`,
      );
    }
    return this.#buffers.wrap(native as GPUBuffer, bytes);
  }

  /** The `GPUBuffer` behind a tensor. It belongs to the tensor, and holds the tensor's bytes from its start. */
  native(buffer: DeviceBuffer): GPUBuffer {
    this.#checkOpen();
    return this.#own(buffer).gpu;
  }

  async read(buffer: DeviceBuffer): Promise<Uint8Array<ArrayBuffer>> {
    this.#checkOpen();
    const own = this.#own(buffer);
    return this.#queue.idle ? this.#read(own) : this.#queue.add(() => this.#read(own));
  }

  free(buffer: DeviceBuffer): void {
    if (this.#disposed) return;
    if (this.#queue.idle) this.#buffers.free(buffer);
    else void this.#queue.add(() => this.#buffers.free(buffer));
  }

  run(plan: Plan, bindings: Bindings): void | Promise<void> {
    this.#checkOpen();
    const buffers = this.#bound(bindings);
    const prepared = this.#launcher.prepare(plan, Object.keys(bindings));
    const workspace = this.#workspace(prepared);
    if (workspace) buffers.workspace = workspace;
    const fresh = Object.values(buffers).filter(({ verdict }) => verdict);
    const compiling = this.#launcher.compile(prepared);
    const enqueue = (): Verdict => {
      const verdict = this.#enqueue(prepared, buffers);
      // What comes after it may have the memory: it runs after it.
      if (workspace) this.#buffers.free(workspace);
      return verdict;
    };
    if (prepared.tried && fresh.length === 0 && !compiling && this.#queue.idle) {
      void enqueue().then((error) => (this.#failure ??= error));
      return;
    }
    return this.#queue.add(async () => {
      try {
        await compiling;
        for (const buffer of fresh) {
          const error = await this.#buffers.check(buffer);
          if (error) throw error;
        }
      } catch (error) {
        if (workspace) this.#buffers.free(workspace);
        throw error;
      }
      const verdict = enqueue();
      if (prepared.tried) {
        void verdict.then((error) => (this.#failure ??= error));
        return;
      }
      const error = await verdict;
      if (error) throw error;
      prepared.tried = true;
    });
  }

  /**
   * Records a plan into a caller's encoder. Its workspace, if it has any, lives as long as the first of its results.
   * @throws FaError FA_TENSOR unless `encoder` is a command encoder
   */
  encode(encoder: unknown, plan: Plan, bindings: Bindings): void {
    this.#checkOpen();
    if (typeof (encoder as Partial<GPUCommandEncoder> | null)?.beginComputePass !== "function") {
      throw new FaError(
        "FA_TENSOR",
        "webgpu: the encoder must be a GPUCommandEncoder of this device; got something else. Make it with device.createCommandEncoder().",
      );
    }
    const buffers = this.#bound(bindings);
    const prepared = this.#launcher.prepare(plan, Object.keys(bindings));
    this.#launcher.compileNow(prepared);
    const workspace = this.#workspace(prepared);
    if (workspace) {
      buffers.out.attached = workspace;
      buffers.workspace = workspace;
    }
    this.#launcher.recordAll(encoder as GPUCommandEncoder, prepared.dispatches, buffers);
  }

  async sync(): Promise<void> {
    this.#checkOpen();
    if (!this.#queue.idle) await this.#queue.add(() => {});
    await this.#settled(this.#device.gpu.queue.onSubmittedWorkDone());
  }

  memory(): MemoryUse {
    return this.#buffers.memory;
  }

  /** Shaders that have been compiled so far. For tests and the curious. */
  statistics(): { readonly shaders: number } {
    return { shaders: this.#launcher.shaders };
  }

  async roof(): Promise<Roof> {
    this.#checkOpen();
    return this.#queue.add(() => measureRoof(this.#device));
  }

  /** Work that was given before is done before. A device that is the caller's stays. */
  async dispose(): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    await this.#queue.add(() => {});
    this.#buffers.dispose();
    this.#launcher.dispose();
    for (const staging of this.#staging) staging.destroy();
    this.#staging = [];
    if (this.#device.owned) this.#device.gpu.destroy();
  }

  #workspace({ workspaceBytes }: Prepared): WebgpuBuffer | undefined {
    return workspaceBytes > 0 ? this.#buffers.make(workspaceBytes) : undefined;
  }

  /** Submits a plan, in as many pieces as it takes to keep each short. */
  #enqueue(prepared: Prepared, buffers: BuffersByName): Verdict {
    const { kernel, dispatches, flops } = prepared;
    const start = performance.now();
    const { verdict } = this.#device.scoped(`running kernel ${kernel}`, () => {
      for (let at = 0; at < dispatches.length;) {
        this.#submit((encoder) => {
          at = this.#launcher.record(encoder, prepared, buffers, at);
        });
      }
    });
    if (this.#launcher.wantsToLearn(flops)) {
      void this.#device.gpu.queue.onSubmittedWorkDone().then(
        () => this.#launcher.learn(flops, (performance.now() - start) / 1000),
        () => {},
      );
    }
    return verdict;
  }

  #submit(record: (encoder: GPUCommandEncoder) => void): void {
    const encoder = this.#device.gpu.createCommandEncoder();
    record(encoder);
    this.#device.gpu.queue.submit([encoder.finish()]);
  }

  /** The queue takes whole words. */
  #write(buffer: GPUBuffer, { buffer: memory, byteOffset, byteLength }: Uint8Array): void {
    const { queue } = this.#device.gpu;
    const whole = byteLength - (byteLength % 4);
    if (whole > 0) queue.writeBuffer(buffer, 0, memory, byteOffset, whole);
    if (whole < byteLength) {
      const tail = new Uint8Array(4);
      tail.set(new Uint8Array(memory, byteOffset + whole, byteLength - whole));
      queue.writeBuffer(buffer, whole, tail);
    }
  }

  async #read(buffer: WebgpuBuffer): Promise<Uint8Array<ArrayBuffer>> {
    const error = await this.#buffers.check(buffer);
    if (error) throw error;
    const bytes = Math.ceil(buffer.bytes / 4) * 4;
    if (bytes === 0) {
      await this.#settled(this.#device.gpu.queue.onSubmittedWorkDone());
      return new Uint8Array(0);
    }
    const { value: staging, verdict } = this.#device.scoped("reading a tensor", () => {
      const target = this.#takeStaging(bytes);
      this.#submit((encoder) => encoder.copyBufferToBuffer(buffer.gpu, 0, target, 0, bytes));
      return target;
    });
    // A staging buffer that could not be had cannot be mapped either, for a reason that says less.
    const mapped = staging.mapAsync(1, 0, bytes);
    mapped.catch(() => {});
    const refused = await verdict;
    if (refused) throw refused;
    await this.#settled(mapped);
    const copy = new Uint8Array(buffer.bytes);
    copy.set(new Uint8Array(staging.getMappedRange(0, bytes), 0, buffer.bytes));
    staging.unmap();
    this.#keepStaging(staging);
    return copy;
  }

  #takeStaging(bytes: number): GPUBuffer {
    const size = sizeClass(bytes);
    const at = this.#staging.findIndex((staging) => staging.size === size);
    if (at !== -1) return this.#staging.splice(at, 1)[0];
    return this.#device.gpu.createBuffer({ size, usage: USAGE.MAP_READ | USAGE.COPY_DST });
  }

  #keepStaging(staging: GPUBuffer): void {
    this.#staging.push(staging);
    let total = this.#staging.reduce((sum, { size }) => sum + size, 0);
    while (total > STAGING_BYTES) {
      const oldest = this.#staging.shift()!;
      total -= oldest.size;
      oldest.destroy();
    }
  }

  /** Waits for the device, and tells of what failed meanwhile. */
  async #settled<T>(promise: Promise<T>): Promise<T> {
    const value = await this.#device.settle("waiting for the device", promise);
    const failure = this.#failure;
    this.#failure = undefined;
    if (failure) throw failure;
    return value;
  }

  #bound(bindings: Bindings): Record<string, WebgpuBuffer> {
    return Object.fromEntries(Object.entries(bindings).map(([name, buffer]) => [name, this.#own(buffer)]));
  }

  #own(buffer: DeviceBuffer): WebgpuBuffer {
    if (this.#buffers.has(buffer)) return buffer;
    throw new FaError(
      "FA_TENSOR",
      "webgpu: a buffer must be a live one of this back end; got a freed or a foreign one. Allocate it here.",
    );
  }

  #checkOpen(): void {
    this.#device.throwIfLost();
    if (!this.#disposed) return;
    throw new FaError("FA_DISPOSED", "webgpu: the back end must be open; got a disposed one. Open another.");
  }
}
