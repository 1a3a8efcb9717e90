import {
  countFlops,
  DTYPES,
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
  type Problem,
  type Roof,
} from "@fa/core";
import { calibrationOf, nameOf, trialOn, type BlockRows, type Calibration } from "./calibration.ts";
import { FEATURE, KERNELS } from "./kernels.ts";
import type { FaWasmModule, Variant } from "./module.ts";
import { pool } from "./pool.ts";
import { roof, teamRoof } from "./roof.ts";
import { prepare, workspaceBytes, type Addresses } from "./run.ts";
import { runAlone, type Team } from "./team.ts";

interface WasmBuffer extends DeviceBuffer {
  readonly address: number;
}

/**
 * From so many operations on workers are asked to help; below, a call is over before they would have come, and is done when
 * `run` returns.
 */
export const THREADS_FROM_FLOPS = 2e7;

export interface BackendOptions {
  /** Left out, there is one thread. */
  readonly team?: Team | undefined;
  /** Instead of `THREADS_FROM_FLOPS`. */
  readonly fromFlops?: number | undefined;
  /** Instead of what calibration tells. */
  readonly blockRows?: BlockRows | undefined;
}

/**
 * With one thread work is done before `run` returns, so there is never anything to wait for. With more, what is large
 * enough runs in turns, one job at a time, and whatever comes after it waits for its own turn.
 */
export class WasmBackend implements Backend {
  readonly name = "wasm";
  readonly capabilities: Capabilities;
  readonly kernels: readonly KernelRow[];
  readonly #device: string;
  readonly #variant: Variant;
  readonly #team: Team | undefined;
  /** Rows of a register block as asked for, or what finds them. */
  readonly #blocks: BlockRows | Calibration;
  readonly #fromFlops: number;
  readonly #queue = new Queue();
  readonly #live = new Set<DeviceBuffer>();
  #module: FaWasmModule | undefined;

  constructor(module: FaWasmModule, variant: Variant, device: string, options: BackendOptions = {}) {
    this.#device = device;
    this.#module = module;
    this.#variant = variant;
    this.#team = options.team;
    this.#fromFlops = options.fromFlops ?? THREADS_FROM_FLOPS;
    this.#blocks = options.blockRows ?? calibrationOf(variant);
    const most = this.#team?.size ?? 1;
    this.kernels = KERNELS.map((row) => ({
      ...row,
      workspaceBytes: (problem, tile) => workspaceBytes(row, problem, tile, this.#threadsFor(problem, most)),
    }));
    this.capabilities = {
      dtypes: DTYPES,
      maxHeadDim: MAX_HEAD_DIM,
      sharedBytes: Infinity,
      maxBufferBytes: 65535 * 65536,
      features: variant === "relaxed" ? [FEATURE.relaxed, FEATURE.plain] : [FEATURE.plain],
    };
  }

  get device(): string {
    const trouble = this.#team && pool.trouble;
    const threads = trouble === undefined ? this.#device : `${this.#device}, but only one works: ${trouble}`;
    const blocks = typeof this.#blocks === "number" ? nameOf(this.#blocks) : this.#blocks.outcome;
    return blocks === undefined ? threads : `${threads}, ${blocks}`;
  }

  allocate(bytes: number, contents?: Uint8Array | "zero"): DeviceBuffer {
    const module = this.#open();
    // A view on our own memory is detached if the memory grows: what it showed is then copied by its offset.
    const own = contents instanceof Uint8Array && contents.buffer === module.wasmMemory.buffer;
    const from = own ? contents.byteOffset : 0;
    const length = own ? contents.byteLength : 0;
    const buffer: WasmBuffer = { bytes, address: module.arena.allocate(bytes) };
    const { address } = buffer;
    if (own) module.HEAPU8.copyWithin(address, from, from + length);
    else if (contents instanceof Uint8Array) module.HEAPU8.set(contents, address);
    else if (contents === "zero") module.HEAPU8.fill(0, address, address + bytes);
    this.#live.add(buffer);
    return buffer;
  }

  async read(buffer: DeviceBuffer): Promise<Uint8Array<ArrayBuffer>> {
    const address = this.#address(buffer);
    const module = this.#open();
    // Not `slice`: of shared memory it could give shared memory.
    const copy = (): Uint8Array<ArrayBuffer> => {
      const bytes = new Uint8Array(buffer.bytes);
      bytes.set(module.HEAPU8.subarray(address, address + buffer.bytes));
      return bytes;
    };
    return this.#queue.idle ? copy() : this.#queue.add(copy);
  }

  free(buffer: DeviceBuffer): void {
    const module = this.#module;
    if (!module || !this.#live.delete(buffer)) return;
    const { address } = buffer as WasmBuffer;
    if (this.#queue.idle) module.arena.free(address);
    else void this.#queue.add(() => module.arena.free(address));
  }

  run(plan: Plan, bindings: Bindings): void | Promise<void> {
    const module = this.#open();
    const tensors: Addresses = Object.fromEntries(
      Object.entries(bindings).map(([name, buffer]) => [name, this.#address(buffer)]),
    );
    const threads = this.#threadsFor(plan.problem, this.#team?.size ?? 1);
    const alone = (): void => {
      const start = performance.now();
      const workload = prepare(module, plan, tensors, { threads: 1, blockRows: this.#blockRows });
      try {
        runAlone(module, workload);
        workload.finish();
      } finally {
        workload.release();
      }
      this.#calibrate(module, start);
    };
    if (threads === 1) return this.#queue.idle ? alone() : this.#queue.add(alone);
    return this.#queue.add(async () => {
      const start = performance.now();
      const workload = prepare(module, plan, tensors, { threads, blockRows: this.#blockRows });
      try {
        await this.#team!.run(workload);
        workload.finish();
      } finally {
        workload.release();
      }
      this.#calibrate(module, start);
    });
  }

  async sync(): Promise<void> {
    if (!this.#queue.idle) await this.#queue.add(() => {});
  }

  memory(): MemoryUse {
    const { currentBytes = 0, peakBytes = 0 } = this.#module?.arena ?? {};
    return { currentBytes, peakBytes };
  }

  async roof(): Promise<Roof> {
    const module = this.#open();
    const kind = this.#variant === "relaxed" ? "register-only relaxed multiply-add" : "register-only multiply and add";
    const team = this.#team;
    const what = `${kind}, float32, ${countOfThreads(team?.size ?? 1)}`;
    return { gflops: await this.#queue.add(() => (team ? teamRoof(module, team) : roof(module))), what };
  }

  /** Work that was given before is done before. */
  async dispose(): Promise<void> {
    const module = this.#module;
    if (!module) return this.#queue.add(() => {});
    this.#module = undefined;
    this.#live.clear();
    if (!this.#queue.idle) await this.#queue.add(() => {});
    this.#team?.close();
  }

  get #blockRows(): BlockRows {
    return typeof this.#blocks === "number" ? this.#blocks : this.#blocks.rows;
  }

  /** @param start of the call that is over */
  #calibrate(module: FaWasmModule, start: number): void {
    if (typeof this.#blocks === "number" || this.#blocks.settled) return;
    this.#blocks.after(performance.now() - start, trialOn(module));
  }

  /** Where workers help, no fewer than would each have a worthwhile share. */
  #threadsFor(problem: Problem, most: number): number {
    const worth = operationsOf(problem) / this.#fromFlops;
    return worth < 1 ? 1 : Math.min(most, Math.ceil(worth) + 1);
  }

  #open(): FaWasmModule {
    if (this.#module) return this.#module;
    refuseDisposed("wasm");
  }

  #address(buffer: DeviceBuffer): number {
    if (this.#live.has(buffer)) return (buffer as WasmBuffer).address;
    refuseBuffer("wasm");
  }
}

export function countOfThreads(threads: number): string {
  return threads === 1 ? "one thread" : `${threads} threads`;
}

/** What a conversion costs, in the time of so many floating-point operations. */
const OPERATIONS_A_CAST = 30;

function operationsOf(problem: Problem): number {
  return problem.op === "cast" ? problem.elements * OPERATIONS_A_CAST : countFlops(problem);
}
