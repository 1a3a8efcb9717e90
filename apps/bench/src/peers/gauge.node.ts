import { createAttention, type Attention } from "@fa/core";
import { createModule, wasm, type FaWasmModule } from "@fa/backend-wasm";
import type { AttentionCase } from "../cases.ts";

/**
 * What this machine does at best, now: register-only arithmetic of one thread in GFLOP/s, or bytes a second of a sum
 * over as many bytes as the keys and values of the case take.
 */
export async function gauge(name: "relaxed" | "plain" | "read", item: AttentionCase): Promise<number> {
  if (name === "read") return readRate(item);
  const fa = (instances[name] ??= await createAttention({ backends: [wasm({ threads: 1, simd: name })] }));
  return (await fa.roof()).gflops;
}

const instances: Partial<Record<"relaxed" | "plain", Attention>> = {};
let memory: Promise<Readable> | undefined;

interface Readable {
  readonly module: FaWasmModule;
  readonly address: number;
  readonly bytes: number;
}

/** Reads repeatedly for this long, as a sample of an entry does. */
const READ_MS = 20;

async function readRate({ facts: { B, Hkv, Skv, D } }: AttentionCase): Promise<number> {
  const bytes = 2 * B * Hkv * Skv * D * 4;
  if ((await memory)?.bytes !== bytes) memory = readable(bytes);
  const { module, address } = await memory!;
  let reads = 0;
  const start = performance.now();
  let ms = 0;
  do {
    const sum = module._faRoofRead(address, bytes);
    if (sum !== bytes / 4) throw new Error(`the sum of ${bytes / 4} ones is ${sum}`);
    reads++;
    ms = performance.now() - start;
  } while (ms < READ_MS);
  return (bytes * reads * 1000) / ms;
}

async function readable(bytes: number): Promise<Readable> {
  const module = await createModule();
  const address = module._malloc(bytes);
  module.HEAP32.fill(1, address / 4, (address + bytes) / 4);
  return { module, address, bytes };
}
