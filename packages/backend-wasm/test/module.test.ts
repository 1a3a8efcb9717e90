import { attentionProblem, createAttention } from "@fa/core";
import { expect, test } from "vitest";
import { createModule, loadBinary, supportedVariant, wasm } from "../src/index.ts";
import { newMemory } from "../src/module.ts";
import { compute } from "./problems.ts";
import { openVariant, random, variants } from "./variants.ts";

test("the factory gives an instance with its own memory each time", async () => {
  const [a, b] = await Promise.all([createModule(), createModule()]);
  expect(a.wasmMemory).not.toBe(b.wasmMemory);
  const [p, q] = [a._malloc(4), b._malloc(4)];
  a.HEAPU32[p / 4] = 1;
  b.HEAPU32[q / 4] = 2;
  expect(a.HEAPU32[p / 4]).toBe(1);
});

test.each(variants)("%s: wasmBinary is taken", async (variant) => {
  const module = await createModule({ wasmBinary: await loadBinary(variant) });
  expect(module._faRoofArithmetic(10)).toBeGreaterThan(0);
});

test("wasmMemory is taken, and the heap begins after the module's own data and stack", async () => {
  const wasmMemory = new WebAssembly.Memory({ initial: 8, maximum: 8 });
  const module = await createModule({ wasmMemory });
  expect(module.wasmMemory).toBe(wasmMemory);
  expect(module.HEAPU8.buffer).toBe(wasmMemory.buffer);
  expect(module._malloc(1)).toBeGreaterThanOrEqual(65536);
});

test("wasmMemory may be shared, and the same numbers come out", async () => {
  const shared = await createModule({ wasmMemory: newMemory(true) });
  expect(shared.HEAPU8.buffer).toBeInstanceOf(SharedArrayBuffer);
  const own = await createModule();
  expect(own.HEAPU8.buffer).toBeInstanceOf(ArrayBuffer);
  expect(shared._faRoofArithmetic(10)).toBe(own._faRoofArithmetic(10));
});

test("instantiateWasm makes the instance, and its failure is the factory's", async () => {
  const compiled = await WebAssembly.compile(await loadBinary(supportedVariant()));
  const seen: string[] = [];
  const module = await createModule({
    instantiateWasm(imports, receive) {
      seen.push(...Object.keys(imports.env));
      receive(new WebAssembly.Instance(compiled, imports));
    },
  });
  expect(seen).toEqual(["memory"]);
  expect(module._malloc(8)).toBeGreaterThan(0);
  await expect(createModule({ instantiateWasm: () => Promise.reject(new Error("no")) })).rejects.toThrow("no");
});

test("HEAP views are those of the memory as it is: growth replaces them all", async () => {
  const module = await createModule();
  const names = ["HEAP8", "HEAP16", "HEAP32", "HEAPU8", "HEAPU16", "HEAPU32", "HEAPF32", "HEAPF64"] as const;
  const address = module._malloc(64);
  module.HEAPF64[address / 8] = 1.5;
  const old = module.HEAPU8;
  expect(module.HEAPU8).toBe(old);
  module._malloc(16 * 2 ** 20);
  expect(old.length).toBe(0);
  for (const name of names) expect(module[name].buffer).toBe(module.wasmMemory.buffer);
  expect(module.HEAPF64[address / 8]).toBe(1.5);
});

test("_malloc gives 0 when there is no more, _free(0) does nothing", async () => {
  const module = await createModule({ wasmMemory: new WebAssembly.Memory({ initial: 4, maximum: 4 }) });
  expect(module._malloc(2 ** 20)).toBe(0);
  expect(module._malloc(1000)).toBeGreaterThan(0);
  module._free(0);
});

test("a binary that is none is refused, and the next call works", async () => {
  await expect(createModule({ wasmBinary: new Uint8Array([1, 2, 3]) })).rejects.toThrow(WebAssembly.CompileError);
  expect((await createModule())._malloc(1)).toBeGreaterThan(0);
});

test("the provider's probe says which SIMD it found", async () => {
  const { ok, device, reason } = await wasm().probe();
  expect(ok).toBe(true);
  expect(device).toContain("WebAssembly");
  expect(reason).toContain(supportedVariant());
});

test.each(variants)("simd: %s is the build that runs", async (simd) => {
  const fa = await createAttention({ backends: [wasm({ simd, threads: 1 })] });
  expect(fa.report[0].reason).toContain(`${simd} SIMD`);
  const shape = [1, 1, 64, 64];
  const x = fa.tensor(Float32Array.from({ length: 64 * 64 }, random(1)), { shape });
  expect(fa.plan(x, x, x).kernel.id).toMatch(new RegExp(`-${simd}$`));
  const { out } = await fa.attention(x, x, x);
  const bits = String(await out.data());
  // The plan is what is said; the bits are what was run: a multiply-add in one rounding gives others than two roundings.
  const backend = await openVariant(simd);
  const problem = attentionProblem({ q: x, k: x, v: x });
  const values = { dtype: "float32", values: (await x.data()) as Float32Array } as const;
  const same = await compute(
    backend,
    problem,
    { q: values, k: values, v: values },
    { out: { dtype: "float32", length: 64 * 64 } },
  );
  expect(bits).toBe(String(Float32Array.from(same.out)));
  await fa.dispose();
});

test.each(["fast", "simd128", 1, null])("simd: %s is refused", (simd) => {
  expect(() => wasm({ simd: simd as never })).toThrow(expect.objectContaining({ code: "FA_OPTION" }));
});

test.each([0, -1, 1.5, NaN, "2"])("threads: %s is refused", (threads) => {
  expect(() => wasm({ threads: threads as number })).toThrow(expect.objectContaining({ code: "FA_OPTION" }));
});

test("an unknown option is refused with the nearest name", () => {
  expect(() => wasm({ thread: 1 } as object)).toThrow(/Did you mean "threads"/);
});
