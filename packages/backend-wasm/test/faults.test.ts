import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import {
  attentionProblem,
  createAttention,
  encode,
  reference,
  type Backend,
  type DeviceBuffer,
  type Plan,
} from "@fa/core";
import { afterEach, describe, expect, test, vi } from "vitest";
import { LINEAR_BLOCK, LINEAR_PARAMS } from "../src/abi.ts";
import { wasm } from "../src/index.ts";
import { compiled, newMemory, supportedVariant } from "../src/module.ts";
import { pool } from "../src/pool.ts";
import { Team } from "../src/team.ts";
import { WorkloadBuilder } from "../src/workload.ts";
import { planFor } from "./problems.ts";
import { openThreads, openVariant, random } from "./variants.ts";

const D = 64;
const spec = (H: number, S: number) => ({ shape: [1, H, S, D], dtype: "float32" as const });
const numbers = (length: number, seed = 1): Uint8Array =>
  encode("float32", Float32Array.from({ length }, random(seed)));

interface Call {
  readonly made: Plan;
  readonly bindings: Readonly<Record<string, DeviceBuffer>>;
  readonly q: Uint8Array;
}

/** A call of H heads of S rows, its tensors allocated; k and v are q. */
function prepareCall(backend: Backend, H: number, S: number, seed?: number): Call {
  const q = numbers(H * S * D, seed);
  const shape = spec(H, S);
  const made = planFor(backend, attentionProblem({ q: shape, k: shape, v: shape }));
  const tensor = backend.allocate(q.length, q);
  return { made, bindings: { q: tensor, k: tensor, v: tensor, out: backend.allocate(q.length) }, q };
}

const single = await openVariant(supportedVariant());

/** What one thread gives for a call. */
async function answer(H: number, S: number, seed?: number): Promise<Uint8Array> {
  const { made, bindings } = prepareCall(single, H, S, seed);
  await single.run(made, bindings);
  const out = await single.read(bindings.out);
  single.free(bindings.q);
  single.free(bindings.out);
  return out;
}

const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;
const later = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

const opened: Backend[] = [];
async function open(threads: number, options?: Parameters<typeof openThreads>[2]) {
  const made = await openThreads(threads, undefined, options);
  opened.push(made.backend);
  return made;
}
afterEach(async () => {
  vi.restoreAllMocks();
  await Promise.all(opened.splice(0).map((backend) => backend.dispose()));
});

test("workers do part of the work", async () => {
  const wasmModule = await compiled(supportedVariant(), true);
  const { module } = await open(3);
  const team = new Team(module, wasmModule, 3);
  const size = 512;
  const layout = {
    shared: {},
    scratch: { params: 256, aBlock: 2 ** 20, bBlock: 2 ** 21, cBlock: 2 ** 20, line: 4096 },
  };
  const [x, dx] = [module.arena.allocate(size * size * 4), module.arena.allocate(size * size * 4)];
  const part = module.arena.allocate(8);
  module.HEAPU32.set([x, size], part / 4);
  const builder = new WorkloadBuilder(module, LINEAR_PARAMS, LINEAR_BLOCK, layout, 3);
  const sizes = { M: size, N: size, K: size, Mc: 96, Nc: 192, Kc: 256, x, weight: x, y: part, parts: 1, dx };
  const struct = builder.struct(sizes, builder.scratch);
  for (let n = 0; n < 60; n++) builder.chain([{ kernel: "faLinearGradX", struct, words: [0, size, 0, size] }]);
  const workload = builder.build();
  for (const { params } of workload.threads) module.HEAPU8.fill(0, params, params + 256);
  await team.run(workload);
  // Who makes a call has written its parameters to its own memory.
  for (const { params } of workload.threads) expect(module.HEAPU32[params / 4]).toBe(size);
  workload.release();
  team.close();
});

test("a worker killed in mid-call rejects that call within a second; its memory is free and the next call is right", async () => {
  const { backend } = await open(3);
  const [H, S] = [16, 2304];
  const want = await answer(H, S);
  const call = prepareCall(backend, H, S);
  await backend.run(call.made, call.bindings);
  expect(same(await backend.read(call.bindings.out), want)).toBe(true);
  const { currentBytes } = backend.memory();
  for (let n = 0; n < 3; n++) {
    const running = Promise.allSettled([backend.run(call.made, call.bindings)]);
    await later(15);
    const start = performance.now();
    pool.all()[n % 2].port.end();
    const [outcome] = await running;
    expect(performance.now() - start).toBeLessThan(1000);
    const reason = { code: "FA_BACKEND", message: expect.stringMatching(/ended in the middle/) };
    expect(outcome).toMatchObject({ status: "rejected", reason });
    expect(backend.memory().currentBytes).toBe(currentBytes);
    await backend.run(call.made, call.bindings);
    expect(pool.all()).toHaveLength(2);
    expect(same(await backend.read(call.bindings.out), want)).toBe(true);
  }
});

test("calls queued behind one whose worker was killed are right", async () => {
  const { backend } = await open(3);
  const [H, S] = [16, 2304];
  const want = await answer(H, S);
  const call = prepareCall(backend, H, S);
  await backend.run(call.made, call.bindings);
  const runs = [0, 1, 2].map(() => backend.run(call.made, call.bindings) as Promise<void>);
  const outcomes = Promise.allSettled(runs);
  await later(15);
  for (const { port } of pool.all()) port.end();
  expect((await outcomes).map(({ status }) => status)).toEqual(["rejected", "fulfilled", "fulfilled"]);
  expect(same(await backend.read(call.bindings.out), want)).toBe(true);
});

test("a kernel that traps rejects the call, whichever thread it was on, and the next call is right", async () => {
  const { backend, module } = await open(3);
  const call = prepareCall(backend, 4, 256);
  await backend.run(call.made, call.bindings);
  const team = new Team(module, await compiled(supportedVariant(), true), 3);
  for (let n = 0; n < 20; n++) {
    const builder = new WorkloadBuilder(module, {}, {}, { shared: {}, scratch: { params: 0 } }, 3);
    const calls = (address: number) => [
      { kernel: "faRoofArithmetic", words: [1 << 13] } as const,
      { kernel: "faRoofRead", words: [address, 64] } as const,
    ];
    for (let chain = 0; chain < 40; chain++) builder.chain(calls(chain === 10 + n ? -64 : 0));
    const workload = builder.build();
    await expect(team.run(workload)).rejects.toThrow(/out of bounds/);
    workload.release();
  }
  team.close();
  await backend.run(call.made, call.bindings);
  expect(same(await backend.read(call.bindings.out), await answer(4, 256))).toBe(true);
});

test("memory that grows between calls and during one is seen by workers that hold old views", async () => {
  const { backend } = await open(3);
  const first = prepareCall(backend, 4, 256);
  await backend.run(first.made, first.bindings);
  for (const [round, megabytes] of [48, 96, 192].entries()) {
    const running = backend.run(first.made, first.bindings);
    const large = backend.allocate(megabytes * 2 ** 20);
    const call = prepareCall(backend, 4, 256, round + 2);
    await running;
    await backend.run(call.made, call.bindings);
    expect(same(await backend.read(call.bindings.out), await answer(4, 256, round + 2))).toBe(true);
    backend.free(large);
  }
  expect(same(await backend.read(first.bindings.out), await answer(4, 256))).toBe(true);
});

test("a call that does not fit is FA_OUT_OF_MEMORY, leaks nothing, and the next one works", async () => {
  const { backend } = await open(2, { memory: new WebAssembly.Memory({ initial: 30, maximum: 36, shared: true }) });
  const small = prepareCall(backend, 1, 100);
  const large = prepareCall(backend, 1, 2000);
  const { currentBytes } = backend.memory();
  await backend.run(small.made, small.bindings);
  for (let n = 0; n < 3; n++) {
    await expect(backend.run(large.made, large.bindings)).rejects.toMatchObject({ code: "FA_OUT_OF_MEMORY" });
    expect(backend.memory().currentBytes).toBe(currentBytes);
    await backend.run(small.made, small.bindings);
  }
  expect(same(await backend.read(small.bindings.out), await answer(1, 100))).toBe(true);
});

test("10,000 calls leave resident memory flat", async () => {
  const { backend } = await open(2);
  const run = async (calls: number): Promise<number> => {
    for (let n = 0; n < calls; n++) {
      const call = prepareCall(backend, 1, 16);
      await backend.run(call.made, call.bindings);
      backend.free(call.bindings.q);
      backend.free(call.bindings.out);
    }
    return process.memoryUsage().rss;
  };
  const before = await run(3000);
  const after = await run(7000);
  expect(backend.memory().currentBytes).toBe(0);
  expect((after - before) / 2 ** 20).toBeLessThan(48);
});

test("1,000 calls at once are all right", async () => {
  const { backend } = await open(3);
  const seeds = Array.from({ length: 1000 }, (_, n) => n % 25);
  const wants = await Promise.all(Array.from({ length: 25 }, (_, seed) => answer(1, 60, seed)));
  const calls = seeds.map((seed) => prepareCall(backend, 1, 60, seed));
  const outs = await Promise.all(
    calls.map(async ({ made, bindings }) => {
      void backend.run(made, bindings);
      const out = backend.read(bindings.out);
      for (const buffer of [bindings.q, bindings.out]) backend.free(buffer);
      return out;
    }),
  );
  expect(outs.filter((out, n) => !same(out, wants[seeds[n]]))).toHaveLength(0);
  await backend.sync();
  expect(backend.memory().currentBytes).toBe(0);
});

test("250 repeats of a forward and a backward pass give the same bits", async () => {
  const { backend } = await open(8);
  const [H, S] = [3, 130];
  const specs = { q: spec(H, S), k: spec(H, S), v: spec(H, S) };
  const bias = { shape: [1, 1, S, S], dtype: "float32" } as const;
  const options = { bias, causal: true, blockSize: { q: 16, kv: 32 } };
  const bytes = H * S * D * 4;
  const bindings: Record<string, DeviceBuffer> = {};
  for (const [n, name] of ["q", "k", "v", "dout"].entries())
    bindings[name] = backend.allocate(bytes, numbers(H * S * D, n + 1));
  bindings.bias = backend.allocate(S * S * 4, numbers(S * S, 9));
  const results = { out: bytes, lse: H * S * 4, dq: bytes, dk: bytes, dv: bytes, dbias: S * S * 4 };
  for (const [name, length] of Object.entries(results)) bindings[name] = backend.allocate(length);
  const forward = planFor(backend, attentionProblem(specs, options));
  const backward = planFor(backend, attentionProblem(specs, options, "attentionBackward"));
  const run = async (): Promise<Uint8Array[]> => {
    void backend.run(forward, bindings);
    void backend.run(backward, bindings);
    return Promise.all(Object.keys(results).map((name) => backend.read(bindings[name])));
  };
  const first = await run();
  for (let n = 1; n < 250; n++)
    for (const [r, bits] of (await run()).entries()) expect(same(bits, first[r])).toBe(true);
});

test("a buffer freed while its call is queued keeps its contents and its place until then", async () => {
  const { backend } = await open(2);
  const [H, S] = [4, 512];
  const calls = [1, 2, 3].map((seed) => prepareCall(backend, H, S, seed));
  const { currentBytes } = backend.memory();
  const outs = calls.map(({ made, bindings }) => {
    void backend.run(made, bindings);
    const out = backend.read(bindings.out);
    backend.free(bindings.q);
    return out;
  });
  expect(backend.memory().currentBytes).toBeGreaterThanOrEqual(currentBytes);
  // What is allocated now must not lie where a queued call still reads.
  for (let n = 0; n < 20; n++) backend.allocate(H * S * D * 4, new Uint8Array(H * S * D * 4).fill(0xff));
  for (const [n, out] of outs.entries()) expect(same(await out, await answer(H, S, n + 1))).toBe(true);
  await expect(async () => backend.run(calls[0].made, calls[0].bindings)).rejects.toMatchObject({ code: "FA_TENSOR" });
});

test("dispose with calls in flight: they end first, in order; what comes after is refused", async () => {
  const { backend } = await open(3);
  const calls = [1, 2, 3].map((seed) => prepareCall(backend, 4, 512, seed));
  const outs = calls.map(({ made, bindings }) => {
    void backend.run(made, bindings);
    return backend.read(bindings.out);
  });
  const [first, second] = [backend.dispose(), backend.dispose()];
  expect(() => backend.run(calls[0].made, calls[0].bindings)).toThrow(expect.objectContaining({ code: "FA_DISPOSED" }));
  await Promise.all([first, second]);
  for (const [n, out] of outs.entries()) expect(same(await out, await answer(4, 512, n + 1))).toBe(true);
  expect(pool.all()).toHaveLength(0);
});

test("the calling thread gives way to other events during a long call", async () => {
  const { backend } = await open(2);
  const call = prepareCall(backend, 8, 1024);
  let ticks = 0;
  const timer = setInterval(() => ticks++, 1);
  await backend.run(call.made, call.bindings);
  clearInterval(timer);
  // None if it did not; usually a hundred, but a busy machine lets few through.
  expect(ticks).toBeGreaterThanOrEqual(2);
});

describe("where workers cannot be", () => {
  /** Node's modules with another `Worker`. */
  function startingWith(Worker: unknown): void {
    const original = process.getBuiltinModule.bind(process);
    const modules = (name: string): unknown => (name === "node:worker_threads" ? { Worker } : original(name));
    vi.spyOn(process, "getBuiltinModule").mockImplementation(modules as typeof process.getBuiltinModule);
  }

  test("a worker that cannot be started: calls are right on one thread, and device and the next report say why", async () => {
    startingWith(function Broken() {
      throw new Error("out of threads");
    });
    const { backend } = await open(2);
    const call = prepareCall(backend, 2, 300);
    await backend.run(call.made, call.bindings);
    expect(same(await backend.read(call.bindings.out), await answer(2, 300))).toBe(true);
    expect(backend.device).toContain("2 threads, but only one works: a worker could not be started: out of threads");
    const { device, reason } = await wasm({ threads: 2 }).probe();
    expect(device).toMatch(/one thread/);
    expect(reason).toMatch(/out of threads/);
  });

  test("a worker that ends before it is up is not started again and again", async () => {
    const { Worker } = process.getBuiltinModule("node:worker_threads");
    let started = 0;
    startingWith(
      class Failing extends Worker {
        constructor() {
          super(new URL("data:text/javascript,process.exit(7)"));
          started++;
        }
      },
    );
    const { backend } = await open(2);
    const call = prepareCall(backend, 2, 300);
    for (let n = 0; n < 100 && pool.trouble === undefined; n++) {
      await backend.run(call.made, call.bindings);
      await later(5);
    }
    await backend.run(call.made, call.bindings);
    expect(same(await backend.read(call.bindings.out), await answer(2, 300))).toBe(true);
    expect(backend.device).toMatch(/it ended with code 7/);
    expect(started).toBe(1);
  });

  test.each([
    ["crossOriginIsolated", false, /not cross-origin isolated.*COOP and COEP/],
    ["SharedArrayBuffer", undefined, /no SharedArrayBuffer/],
  ])("without %s there is one thread, and the report says why", async (name, value, why) => {
    vi.stubGlobal(name, value);
    try {
      const fa = await createAttention({ backends: [wasm({ threads: 4 }), reference()] });
      expect(fa.report[0].reason).toMatch(why);
      expect(fa.backend.device).toMatch(/one thread/);
      const q = fa.tensor(new Float32Array(4 * 300 * 64), { shape: [1, 4, 300, 64] });
      await fa.attention(q, q, q);
      await fa.dispose();
    } finally {
      vi.unstubAllGlobals();
    }
  });

  test("without addresses for shared memory there is one thread, and device says why", async () => {
    const { Memory } = WebAssembly;
    vi.spyOn(WebAssembly, "Memory").mockImplementation(function (descriptor) {
      if (descriptor.shared && descriptor.maximum! > 1) throw new RangeError("no");
      return new Memory(descriptor);
    });
    expect(() => newMemory(true)).toThrow(RangeError);
    const backend = await wasm({ threads: 2 }).open();
    expect(backend.device).toMatch(/one thread \(the machine has no addresses/);
    await backend.dispose();
  });
});

test("an instance dropped without dispose is collected, and with the last one the workers go", async () => {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const use = async (): Promise<void> => {
    const { backend } = await openThreads(2);
    const call = prepareCall(backend, 2, 300);
    await backend.run(call.made, call.bindings);
  };
  for (let n = 0; n < 3; n++) await use();
  expect(pool.all()).toHaveLength(1);
  for (let n = 0; n < 200 && pool.all().length > 0; n++) {
    await later(10);
    collect();
  }
  expect(pool.all()).toHaveLength(0);
});

describe("in a process of its own", () => {
  const source = (path: string): string => JSON.stringify(new URL(path, import.meta.url).href);
  const program = `
    const { createAttention } = await import("@fa/core");
    const { wasm } = await import(${source("../src/index.ts")});
    const fa = await createAttention({ backends: [wasm({ threads: 2 })] });
    const q = fa.tensor(new Float32Array(4 * 600 * 64).fill(1), { shape: [1, 4, 600, 64] });
    const { out } = await fa.attention(q, q, q);
    console.log(JSON.stringify({ first: (await out.data())[0], device: fa.backend.device, reason: fa.report[0].reason }));`;
  const run = (...flags: string[]) => {
    const args = ["--conditions=@fa/source", ...flags, "--input-type=module", "--eval", program];
    const cwd = fileURLToPath(new URL("..", import.meta.url));
    const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd, encoding: "utf8", timeout: 20_000 });
    return {
      status,
      stderr,
      said: stdout && (JSON.parse(stdout) as { first: number; device: string; reason: string }),
    };
  };

  test("it exits by itself with an instance that was not disposed", () => {
    const { status, stderr, said } = run();
    expect(stderr).toBe("");
    expect(status).toBe(0);
    expect(said).toMatchObject({ first: 1, device: expect.stringContaining("2 threads") });
  });

  test("--permission without workers: one thread, with its reason", () => {
    const { status, said } = run("--permission", "--allow-fs-read=*");
    expect(status).toBe(0);
    expect(said).toMatchObject({ first: 1, reason: expect.stringContaining("--permission forbids workers") });
    expect((said as { device: string }).device).toContain("one thread");
  });

  test("--permission with workers: threads", () => {
    const { status, said } = run("--permission", "--allow-fs-read=*", "--allow-worker");
    expect(status).toBe(0);
    expect(said).toMatchObject({ first: 1, device: expect.stringContaining("2 threads") });
  });
});
