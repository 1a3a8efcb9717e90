import { readFileSync } from "node:fs";
import type { Backend } from "@fa/core";
import { WasmBackend } from "../src/backend.ts";
import type { BlockRows } from "../src/calibration.ts";
import {
  compiled,
  createModule,
  loadBinary,
  newMemory,
  supportedVariant,
  type FaWasmModule,
  type Variant,
} from "../src/module.ts";
import { prepareWorkers } from "../src/pool.ts";
import { Team } from "../src/team.ts";

/** What this engine can run: the plain build everywhere, the relaxed one where it validates. */
export const variants: readonly Variant[] = supportedVariant() === "relaxed" ? ["plain", "relaxed"] : ["plain"];

export async function openVariant(variant: Variant, blockRows?: BlockRows): Promise<Backend> {
  const module = await createModule({ wasmBinary: await loadBinary(variant) });
  return new WasmBackend(module, variant, variant, { blockRows });
}

/** On so many threads; unless told otherwise every call, however small, goes to all of them. */
export async function openThreads(
  threads: number,
  variant: Variant = supportedVariant(),
  { fromFlops = Number.MIN_VALUE, memory = newMemory(true) }: { fromFlops?: number; memory?: WebAssembly.Memory } = {},
): Promise<{ readonly backend: WasmBackend; readonly module: FaWasmModule }> {
  const wasmModule = await compiled(variant, true);
  await prepareWorkers();
  const instantiateWasm = (imports: WebAssembly.Imports, receive: (instance: WebAssembly.Instance) => void) =>
    WebAssembly.instantiate(wasmModule, imports).then(receive);
  const module = await createModule({ wasmMemory: memory, instantiateWasm });
  const team = new Team(module, wasmModule, threads);
  return { backend: new WasmBackend(module, variant, `${threads} threads`, { team, fromFlops }), module };
}

/** The functions of test/c/probe.c. */
export interface Probe {
  _exp2Array(to: number, from: number, n: number): void;
  _tanhArray(to: number, derivatives: number, from: number, n: number): void;
  _logOf(x: number): number;
  _expOf(x: number): number;
  _product(
    ...args: [
      blockRows: BlockRows,
      order: number,
      update: number,
      c: number,
      ldc: number,
      rows: number,
      columns: number,
      a: number,
      stride: number,
      b: number,
      n: number,
      scale: number,
    ]
  ): void;
}

export async function openProbe(variant: Variant) {
  const wasmBinary = readFileSync(new URL(`wasm/${variant}.wasm`, import.meta.url));
  const module = await createModule({ wasmBinary });
  /** Address of a copy of the numbers. */
  const put = (values: ArrayLike<number>): number => {
    const address = module.arena.allocate(values.length * 4);
    module.HEAPF32.set(values, address / 4);
    return address;
  };
  const get = (address: number, length: number): Float32Array =>
    module.HEAPF32.slice(address / 4, address / 4 + length);
  return { probe: module as unknown as Probe, put, get };
}

/** Numbers in [-1, 1), the same every time. */
export function random(seed: number): () => number {
  let state = seed * 2654435761 + 1;
  return () => {
    state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9) >>> 0;
    return ((Math.imul(state ^ (state >>> 13), 0x85ebca6b) >>> 0) / 2 ** 32) * 2 - 1;
  };
}
