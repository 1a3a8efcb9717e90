import {
  DTYPES,
  FaError,
  MAX_HEAD_DIM,
  Queue,
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
import { Buffers, sizeClass, USAGE, type WebgpuBuffer } from "./buffers.ts";
import type { Adapter } from "./adapter.ts";
import type { Device, Verdict } from "./device.ts";
import type { WebgpuRow } from "./kernels/row.ts";
import { Launcher, type BuffersByName, type Prepared } from "./launch.ts";
import { measureRoof } from "./roof.ts";

/** Calls that go to the device together, at most. */
const CALLS_A_SUBMISSION = 16;

/** Staging buffers that results are read through are kept, up to so many bytes. */
const STAGING_BYTES = 64 * 2 ** 20;

/** Commands that are not submitted yet. */
interface Recording {
  encoder: GPUCommandEncoder;
  /** One for all of them: between passes a device has more to do than between dispatches. */
  pass: GPUComputePassEncoder;
  /** Closes the error scopes that they are recorded in. */
  readonly judge: (what: string) => Verdict;
  /** When it was begun, in milliseconds. */
  readonly start: number;
  readonly kernels: Set<string>;
  calls: number;
  flops: number;
}

/**
 * What is ready to run is recorded before `run` returns. What has to be compiled first, or stands behind such work, waits
 * in a queue.
 *
 * A submission costs the processor more than recording a call does. So while the device is at work, calls gather, and go together
 * when it is done, when there are enough of them, or when anybody waits or touches memory from outside. A caller's device
 * may get the caller's own commands in between: there every call is submitted at once.
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
  #recording: Recording | undefined;
  /** Submissions that the device has not finished. */
  #inFlight = 0;
  #staging: GPUBuffer[] = [];
  /** Of work whose call had returned before it was known; the next who waits for the device hears of it. */
  #failure: FaError | undefined;
  /** Resolves when `#failure` knows of all that was submitted so far. */
  #told: Promise<unknown> = Promise.resolve();
  #disposed = false;

  constructor(device: Device, { name, features, limits }: Adapter, kernels: readonly WebgpuRow[]) {
    this.#device = device;
    this.#buffers = new Buffers(device, () => this.#flush());
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
    this.#flush();
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
    this.#flush();
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
    // Whoever waits for it hears of it, which may be later.
    compiling?.catch(() => {});
    const record = (): void => {
      this.#record(prepared, buffers);
      // What comes after it may have the memory: it runs after it.
      if (workspace) this.#buffers.free(workspace);
    };
    if (prepared.tried && fresh.length === 0 && !compiling && this.#queue.idle) {
      record();
      this.#flushUnlessBusy();
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
      if (prepared.tried) {
        record();
        this.#flushUnlessBusy();
        return;
      }
      // Alone, so that what the device says of it is said of it.
      this.#flush();
      record();
      const error = await this.#submitRecorded();
      if (error) throw error;
      prepared.tried = true;
    });
  }

  /**
   * Records a plan into a caller's encoder or compute pass. Its workspace, if it has any, lives as long as the first of its
   * results.
   * @throws FaError FA_TENSOR unless `encoder` is one of the two
   */
  encode(encoder: unknown, plan: Plan, bindings: Bindings): void {
    this.#checkOpen();
    const { beginComputePass, dispatchWorkgroups } = (encoder ?? {}) as Partial<
      GPUCommandEncoder & GPUComputePassEncoder
    >;
    if (typeof beginComputePass !== "function" && typeof dispatchWorkgroups !== "function") {
      throw new FaError(
        "FA_TENSOR",
        "webgpu: the encoder must be a GPUCommandEncoder or GPUComputePassEncoder of this device; got something else. Make it with device.createCommandEncoder().",
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
    if (typeof dispatchWorkgroups === "function") {
      this.#launcher.recordAll(encoder as GPUComputePassEncoder, prepared, buffers);
      return;
    }
    const pass = (encoder as GPUCommandEncoder).beginComputePass();
    this.#launcher.recordAll(pass, prepared, buffers);
    pass.end();
  }

  async sync(): Promise<void> {
    this.#checkOpen();
    if (!this.#queue.idle) await this.#queue.add(() => {});
    this.#flush();
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
    return this.#queue.add(() => {
      this.#flush();
      return measureRoof(this.#device);
    });
  }

  /** Work that was given before is done before. A device that is the caller's stays. */
  async dispose(): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    await this.#queue.add(() => {});
    this.#flush();
    this.#buffers.dispose();
    this.#launcher.dispose();
    for (const staging of this.#staging) staging.destroy();
    this.#staging = [];
    if (this.#device.owned) this.#device.gpu.destroy();
  }

  #workspace({ workspaceBytes }: Prepared): WebgpuBuffer | undefined {
    return workspaceBytes > 0 ? this.#buffers.make(workspaceBytes) : undefined;
  }

  /** Records a plan; of one that is too long for a submission all pieces but the last are submitted. */
  #record(prepared: Prepared, buffers: BuffersByName): void {
    const { kernel, dispatches, flops } = prepared;
    if (this.#recording && this.#launcher.isLong(this.#recording.flops + flops)) this.#flush();
    const recording = (this.#recording ??= {
      judge: this.#device.watch(),
      start: performance.now(),
      kernels: new Set(),
      calls: 0,
      flops: 0,
      ...this.#begin(),
    });
    recording.kernels.add(kernel);
    try {
      for (let at = 0; at < dispatches.length;) {
        at = this.#launcher.record(recording.pass, prepared, buffers, at);
        if (at === dispatches.length) break;
        this.#end(recording);
        Object.assign(recording, this.#begin());
      }
    } catch (error) {
      // Something that was wrapped is no buffer. Those that were recorded before are none the worse for it.
      this.#flush();
      throw error;
    }
    recording.calls++;
    recording.flops += flops;
  }

  #flushUnlessBusy(): void {
    const gathers = this.#device.owned && this.#inFlight > 0 && this.#recording!.calls < CALLS_A_SUBMISSION;
    if (!gathers) this.#flush();
  }

  /** Submits what is recorded. What the device has to say against it, the next who waits is told. */
  #flush(): void {
    const told = this.#submitRecorded()?.then((error) => (this.#failure ??= error));
    if (told) this.#told = told;
  }

  #submitRecorded(): Verdict | undefined {
    const recording = this.#recording;
    if (!recording) return undefined;
    this.#recording = undefined;
    const { judge, kernels } = recording;
    this.#end(recording);
    const verdict = judge(`running kernel ${[...kernels].join(", ")}`);
    void verdict.then((error) => error && this.#launcher.forgetState());
    void this.#follow(recording);
    return verdict;
  }

  #begin(): Pick<Recording, "encoder" | "pass"> {
    const encoder = this.#device.gpu.createCommandEncoder();
    return { encoder, pass: encoder.beginComputePass() };
  }

  #end({ encoder, pass }: Recording): void {
    pass.end();
    this.#device.gpu.queue.submit([encoder.finish()]);
  }

  /** Waits for what was submitted, and then submits what gathered meanwhile. */
  async #follow({ flops, start }: Recording): Promise<void> {
    this.#inFlight++;
    try {
      await this.#device.gpu.queue.onSubmittedWorkDone();
    } catch {
      return; // The device is lost.
    }
    this.#launcher.learn(flops, (performance.now() - start) / 1000);
    if (--this.#inFlight === 0) this.#flush();
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
    this.#flush();
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
    await this.#told;
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
    refuseBuffer("webgpu");
  }

  #checkOpen(): void {
    this.#device.throwIfLost();
    if (this.#disposed) refuseDisposed("webgpu");
  }
}
