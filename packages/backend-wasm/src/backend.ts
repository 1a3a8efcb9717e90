import {
  DTYPES,
  FaError,
  MAX_HEAD_DIM,
  type Backend,
  type Bindings,
  type Capabilities,
  type DeviceBuffer,
  type KernelRow,
  type MemoryUse,
  type Plan,
  type Roof,
} from "@fa/core";
import { FEATURE, KERNELS } from "./kernels.ts";
import type { FaWasmModule, Variant } from "./module.ts";
import { runBackward, runCast, runDecode, runForward, runLinear, type Addresses } from "./run.ts";

interface WasmBuffer extends DeviceBuffer {
  readonly address: number;
}

/** Work is done before `run` returns, so there is never anything to wait for. */
export class WasmBackend implements Backend {
  readonly name = "wasm";
  readonly device: string;
  readonly capabilities: Capabilities;
  readonly kernels: readonly KernelRow[] = KERNELS;
  readonly #variant: Variant;
  readonly #live = new Set<DeviceBuffer>();
  #module: FaWasmModule | undefined;

  constructor(module: FaWasmModule, variant: Variant, device: string) {
    this.device = device;
    this.#module = module;
    this.#variant = variant;
    this.capabilities = {
      dtypes: DTYPES,
      maxHeadDim: MAX_HEAD_DIM,
      sharedBytes: Infinity,
      maxBufferBytes: 65535 * 65536,
      features: variant === "relaxed" ? [FEATURE.relaxed, FEATURE.plain] : [FEATURE.plain],
    };
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
    return Uint8Array.from(this.#open().HEAPU8.subarray(address, address + buffer.bytes));
  }

  free(buffer: DeviceBuffer): void {
    if (!this.#module || !this.#live.delete(buffer)) return;
    this.#module.arena.free((buffer as WasmBuffer).address);
  }

  run({ kernel, problem, tile }: Plan, bindings: Bindings): void {
    const module = this.#open();
    const tensors: Addresses = Object.fromEntries(
      Object.entries(bindings).map(([name, buffer]) => [name, this.#address(buffer)]),
    );
    switch (problem.op) {
      case "attention":
        return (kernel.maxRows === undefined ? runForward : runDecode)(module, problem, tile, tensors);
      case "attentionBackward":
        return runBackward(module, problem, tile, tensors);
      case "linear":
      case "linearBackward":
        return runLinear(module, problem, tile, tensors);
      case "cast":
        return runCast(module, problem, tensors);
    }
  }

  async sync(): Promise<void> {}

  memory(): MemoryUse {
    const { currentBytes = 0, peakBytes = 0 } = this.#module?.arena ?? {};
    return { currentBytes, peakBytes };
  }

  async roof(): Promise<Roof> {
    const what = this.#variant === "relaxed" ? "register-only relaxed multiply-add" : "register-only multiply and add";
    return { gflops: measureRoof(this.#open()), what: `${what}, float32, one thread` };
  }

  async dispose(): Promise<void> {
    this.#module = undefined;
    this.#live.clear();
  }

  #open(): FaWasmModule {
    if (this.#module) return this.#module;
    throw new FaError("FA_DISPOSED", "wasm: the back end must be open; got a disposed one. Open another.");
  }

  #address(buffer: DeviceBuffer): number {
    if (this.#live.has(buffer)) return (buffer as WasmBuffer).address;
    throw new FaError(
      "FA_TENSOR",
      "wasm: a buffer must be a live one of this back end; got a freed or a foreign one. Allocate it here.",
    );
  }
}

/** Operations of a round of `faRoofArithmetic`: 12 accumulators of 4 lanes, a multiplication and an addition each. */
const FLOPS_A_ROUND = 12 * 4 * 2;

/** The best of many short measurements, in about 100 ms: other work on the machine only ever slows one down. */
export function measureRoof(module: FaWasmModule, budgetMs = 100): number {
  const rounds = 1 << 16;
  let gflops = 0;
  const deadline = performance.now() + budgetMs;
  do {
    const start = performance.now();
    module._faRoofArithmetic(rounds);
    gflops = Math.max(gflops, (rounds * FLOPS_A_ROUND) / (performance.now() - start) / 1e6);
  } while (performance.now() < deadline);
  return gflops;
}
