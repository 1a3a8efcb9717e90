import type { Plan } from "@fa/core";
import { sizeClass, USAGE, type WebgpuBuffer } from "./buffers.ts";
import type { Device } from "./device.ts";
import { SHADERS } from "./generated/shaders.ts";
import type { BufferWindow, DeviceLimits, Pass, WebgpuRow } from "./kernels/row.ts";
import { expand, type ShaderParams } from "./wgsl.ts";

/** Workgroups that a dispatch may have along one dimension, on every device. */
const MAX_WORKGROUPS = 65535;

/** Prepared plans that are kept: their shaders are compiled and their uniforms on the device. */
const PREPARED_PLANS = 128;

/** Operations that a dispatch may have on a device of unknown speed: a second on a slow integrated one. */
const FIRST_FLOPS_A_DISPATCH = 5e11;
/** How long a dispatch may take on a device whose speed is known, in seconds. Systems reset devices that hang for two. */
const SECONDS_A_DISPATCH = 0.4;

/** A pipeline, or its coming into being. */
interface Compiled {
  readonly descriptor: GPUComputePipelineDescriptor;
  ready: { readonly pipeline: GPUComputePipeline; readonly layout: GPUBindGroupLayout } | undefined;
  pending: Promise<void> | undefined;
}

/**
 * Bind groups that a dispatch keeps, for calls on the same buffers: results come back from the pool. As many as a network
 * has layers, several times over.
 */
const BIND_GROUPS = 256;

interface Dispatch {
  readonly compiled: Compiled;
  /** By the numbers of the buffers; the one made last comes last. */
  readonly groups: Map<string, GPUBindGroup>;
  readonly uniforms: GPUBuffer;
  readonly buffers: readonly BufferWindow[];
  readonly stateBytes: number;
  readonly workgroups: readonly [number, number, number];
  readonly flops: number;
}

/** A plan that can be enqueued at once. */
export interface Prepared {
  readonly kernel: string;
  readonly dispatches: readonly Dispatch[];
  readonly workspaceBytes: number;
  readonly flops: number;
  /** Whether it went through the device's validation before. */
  tried: boolean;
}

/** Turns plans into dispatches. Shaders and uniforms are made once; a problem of the same shape finds them ready. */
export class Launcher {
  readonly #device: Device;
  readonly #limits: DeviceLimits;
  readonly #compiled = new Map<string, Compiled>();
  /** The one used last comes last. */
  readonly #prepared = new Map<string, Prepared>();
  #flopsADispatch = FIRST_FLOPS_A_DISPATCH;
  /** All 0 between passes, so one for all of them. */
  #state: GPUBuffer | undefined;

  constructor(device: Device, limits: DeviceLimits) {
    this.#device = device;
    this.#limits = limits;
  }

  /** Shaders compiled so far. */
  get shaders(): number {
    return this.#compiled.size;
  }

  /**
   * Dispatches of a plan. What is not compiled yet is pending in them; see `compile`.
   * @param bound names of the tensors of the call
   */
  prepare(plan: Plan, bound: readonly string[]): Prepared {
    const { problem, kernel, tile } = plan;
    const key = JSON.stringify([kernel.id, tile, bound, problem], (_, value: unknown) =>
      typeof value === "bigint" ? `${value}n` : value,
    );
    let prepared = this.#prepared.get(key);
    if (prepared) {
      this.#prepared.delete(key);
    } else {
      const passes = (kernel as WebgpuRow)
        .passes(plan, this.#limits, new Set(bound))
        .filter(({ workgroups }) => workgroups > 0);
      const dispatches = passes.flatMap((pass) => this.#dispatchesOf(pass));
      prepared = {
        kernel: kernel.id,
        dispatches,
        workspaceBytes: plan.workspaceBytes,
        flops: dispatches.reduce((sum, { flops }) => sum + flops, 0),
        tried: false,
      };
    }
    this.#prepared.set(key, prepared);
    // Its uniforms are not destroyed: calls that wait their turn, and encoders of callers, may still hold it.
    if (this.#prepared.size > PREPARED_PLANS) this.#prepared.delete(this.#prepared.keys().next().value!);
    return prepared;
  }

  /** Resolves when all shaders of a plan are compiled; undefined if they are. */
  compile({ dispatches, kernel }: Prepared): Promise<unknown> | undefined {
    const pending = new Set(dispatches.map(({ compiled }) => compiled.pending).filter((one) => one !== undefined));
    if (pending.size === 0) return undefined;
    return this.#device.settle(`compiling kernel ${kernel}`, Promise.all(pending));
  }

  /** Compiles in place what is not compiled yet: slower, but there when the call returns. */
  compileNow({ dispatches }: Prepared): void {
    for (const { compiled } of dispatches) {
      if (!compiled.ready) finish(compiled, this.#device.gpu.createComputePipeline(compiled.descriptor));
    }
  }

  /** Records the dispatches from `from` on, as many as one submission may have; where to go on from. */
  record(pass: GPUComputePassEncoder, { dispatches }: Prepared, buffers: BuffersByName, from: number): number {
    let flops = 0;
    let at = from;
    do {
      this.#dispatch(pass, dispatches[at], buffers);
      flops += dispatches[at++].flops;
    } while (at < dispatches.length && flops + dispatches[at].flops <= this.#flopsADispatch);
    return at;
  }

  recordAll(pass: GPUComputePassEncoder, { dispatches }: Prepared, buffers: BuffersByName): void {
    for (const dispatch of dispatches) this.#dispatch(pass, dispatch, buffers);
  }

  #dispatch(pass: GPUComputePassEncoder, dispatch: Dispatch, buffers: BuffersByName): void {
    pass.setPipeline(dispatch.compiled.ready!.pipeline);
    pass.setBindGroup(0, this.#bindGroup(dispatch, buffers));
    pass.dispatchWorkgroups(...dispatch.workgroups);
  }

  /** Whether so much work is too long for one submission. */
  isLong(flops: number): boolean {
    return flops > this.#flopsADispatch;
  }

  /** Learns the speed of the device from work that took so long, or less. */
  learn(flops: number, seconds: number): void {
    this.#flopsADispatch = Math.max(this.#flopsADispatch, (flops / seconds) * SECONDS_A_DISPATCH);
  }

  /** Of a run that failed, nobody knows whether it left the state as it should. */
  forgetState(): void {
    this.#state = undefined;
  }

  dispose(): void {
    this.#state?.destroy();
    this.#state = undefined;
    for (const { dispatches } of this.#prepared.values()) for (const { uniforms } of dispatches) uniforms.destroy();
    this.#prepared.clear();
    this.#compiled.clear();
  }

  #bindGroup(
    { compiled, groups, uniforms, buffers: windows, stateBytes }: Dispatch,
    buffers: BuffersByName,
  ): GPUBindGroup {
    const gpuOf = (name: string): GPUBuffer => (name === "state" ? this.#stateOf(stateBytes) : buffers[name].gpu);
    let key = "";
    for (const { name } of windows) key += `${numberOf(gpuOf(name))} `;
    const known = groups.get(key);
    if (known) return known;
    const entries: GPUBindGroupEntry[] = [{ binding: 0, resource: { buffer: uniforms } }];
    for (const [n, { name, offset = 0, bytes }] of windows.entries()) {
      const gpu = gpuOf(name);
      const size = bytes === undefined ? gpu.size - offset : Math.min(Math.ceil(bytes / 16) * 16, gpu.size - offset);
      entries.push({ binding: n + 1, resource: { buffer: gpu, offset, size } });
    }
    const made = this.#device.gpu.createBindGroup({ layout: compiled.ready!.layout, entries });
    groups.set(key, made);
    if (groups.size > BIND_GROUPS) groups.delete(groups.keys().next().value!);
    return made;
  }

  /** One that is too small is not destroyed: encoders of callers may still hold it. */
  #stateOf(bytes: number): GPUBuffer {
    if (this.#state && this.#state.size >= bytes) return this.#state;
    return (this.#state = this.#device.gpu.createBuffer({ size: sizeClass(bytes), usage: USAGE.STORAGE }));
  }

  #dispatchesOf({ shader, params, uniforms, buffers, stateBytes = 0, workgroups, grid, flops }: Pass): Dispatch[] {
    const compiled = this.#pipeline(shader, params);
    const most = Math.max(1, Math.floor(this.#flopsADispatch / (flops / workgroups)));
    const whole = grid && workgroups <= most && grid.every((size) => size <= MAX_WORKGROUPS) ? grid : undefined;
    const dispatches: Dispatch[] = [];
    for (let first = 0; first < workgroups; first += most) {
      const end = Math.min(first + most, workgroups);
      const x = Math.min(end - first, MAX_WORKGROUPS);
      const words = Uint32Array.of(first, end, whole ? 1 : 0, 0, ...uniforms);
      dispatches.push({
        compiled,
        groups: new Map(),
        uniforms: this.#uniforms(words),
        buffers,
        stateBytes,
        workgroups: whole ?? [x, Math.ceil((end - first) / x), 1],
        flops: (flops / workgroups) * (end - first),
      });
    }
    return dispatches;
  }

  #uniforms(words: Uint32Array): GPUBuffer {
    const size = Math.ceil(words.length / 4) * 16;
    const buffer = this.#device.gpu.createBuffer({ size, usage: USAGE.UNIFORM, mappedAtCreation: true });
    new Uint32Array(buffer.getMappedRange()).set(words);
    buffer.unmap();
    return buffer;
  }

  #pipeline(shader: string, params: ShaderParams): Compiled {
    const key = `${shader} ${JSON.stringify(params)}`;
    const known = this.#compiled.get(key);
    if (known) return known;
    const { gpu } = this.#device;
    const code = expand(shader, params, SHADERS);
    const { value: module, verdict } = this.#device.scoped(`compiling ${shader}`, () =>
      gpu.createShaderModule({ label: key, code }),
    );
    const descriptor = { label: key, layout: "auto", compute: { module, entryPoint: "main" } } as const;
    const compiled: Compiled = { descriptor, ready: undefined, pending: undefined };
    compiled.pending = gpu.createComputePipelineAsync(descriptor).then(
      (pipeline) => finish(compiled, pipeline),
      async (error: unknown) => {
        // The module's own complaint says more.
        throw (await verdict) ?? error;
      },
    );
    // Whoever needs it hears of it; it may be nobody.
    compiled.pending.catch(() => {});
    this.#compiled.set(key, compiled);
    return compiled;
  }
}

const numbers = new WeakMap<GPUBuffer, number>();
let buffersSeen = 0;

/** A number that no other buffer has or will have. */
function numberOf(buffer: GPUBuffer): number {
  let number = numbers.get(buffer);
  if (number === undefined) numbers.set(buffer, (number = ++buffersSeen));
  return number;
}

function finish(compiled: Compiled, pipeline: GPUComputePipeline): void {
  compiled.ready ??= { pipeline, layout: pipeline.getBindGroupLayout(0) };
  compiled.pending = undefined;
}

export type BuffersByName = Readonly<Record<string, WebgpuBuffer>>;
