/** The host side on the emulated addon: what native/emulate/cuda_runtime.h can be told to go wrong goes wrong here. */
import { Worker } from "node:worker_threads";
import { createAttention, FaError, type Attention, type Tensor } from "@fa/core";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { CudaBackend, CudaMemory } from "../src/backend.ts";
import { cuda, type CudaOptions } from "../src/index.ts";
import { emulatedAddon } from "../tools/build.ts";

const emulated = await emulatedAddon();
const addon = emulated.path;

/** The back end that was opened last. */
let backend: CudaBackend;
async function open(options: CudaOptions = {}): Promise<Attention> {
  const provider = cuda({ addon, ...options });
  const opened = async (): Promise<CudaBackend> => (backend = (await provider.open()) as CudaBackend);
  return createAttention({ backends: [{ ...provider, open: opened }] });
}

/** Values that every dtype holds. */
const ramp = (length: number, by = 0): Float32Array<ArrayBuffer> =>
  Float32Array.from({ length }, (_, n) => ((n * 7 + by) % 32) / 16 - 1);

const SETTINGS = ["FA_EMULATED_DRIVER", "FA_EMULATED_DEVICES", "FA_EMULATED_MEMORY", "FA_EMULATED_ERROR"] as const;
const emulate = (settings: Partial<Record<(typeof SETTINGS)[number], string>>): void => {
  Object.assign(process.env, settings);
};
afterEach(() => {
  for (const name of SETTINGS) delete process.env[name];
});

const codeOf = async (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => "nothing",
    (error: unknown) => (error instanceof FaError ? error.code : String(error)),
  );

describe.skipIf(!addon)("probe says why there is no GPU to use, and what to do", () => {
  test.each([
    [{ FA_EMULATED_DRIVER: "0" }, 0, /^no NVIDIA driver: install one, and in a container run with --gpus all/],
    [{ FA_EMULATED_DRIVER: "12040" }, 0, /driver is too old: it knows CUDA 12\.4, needed is 13\.0; install driver 580/],
    [{ FA_EMULATED_DEVICES: "0" }, 0, /shows no device: see nvidia-smi and CUDA_VISIBLE_DEVICES/],
    [{ FA_EMULATED_DEVICES: "2" }, 2, /there is no device 2: there are 2, counted from 0/],
    [{ FA_EMULATED_ERROR: "700" }, 0, /CUDA does not answer: cudaErrorIllegalAddress/],
  ])("%j", async (settings, device, reason) => {
    emulate(settings);
    const provider = cuda({ addon, device });
    const probed = await provider.probe();
    expect(probed.ok).toBe(false);
    expect(probed.reason).toMatch(reason);
    expect(await codeOf(provider.open())).toBe("FA_UNAVAILABLE");
  });

  test("options that are none are refused", () => {
    expect(() => cuda({ device: -1 })).toThrow(/device must be an integer from 0/);
    expect(() => cuda({ devise: 0 } as CudaOptions)).toThrow(/Did you mean "device"/);
    expect(() => cuda({ poolBytes: 0.5 })).toThrow(/poolBytes/);
  });
});

describe.skipIf(!addon)("an open back end", () => {
  let fa: Attention;
  beforeEach(async () => {
    fa = await open();
    return () => fa.dispose();
  });
  const attention = async (x: Tensor): Promise<ArrayLike<number>> => {
    const { out } = await fa.attention(x, x, x, { causal: true });
    const values = (await out.data()) as Float32Array;
    out.dispose();
    return values;
  };

  test("data that was given is read back, of any length, and contents are copied at once", async () => {
    for (const length of [1, 255, 256, 70_000, 9_000_000]) {
      const data = ramp(length);
      using x = fa.tensor(data, { shape: [length] });
      const expected = data.slice(-3);
      data.fill(7);
      expect(((await x.data()) as Float32Array).slice(-3)).toEqual(expected);
    }
  });

  test("memory that is out is FA_OUT_OF_MEMORY; what was idle is given back first, and the next call is right", async () => {
    using x = fa.tensor(ramp(64), { shape: [1, 8, 8] });
    const before = await attention(x);
    const mebibytes = (n: number): Tensor => fa.empty({ shape: [n, 2 ** 18] });
    mebibytes(40).dispose();
    expect(backend.statistics().idleBytes).toBeGreaterThan(40 * 2 ** 20 - 1);
    emulate({ FA_EMULATED_MEMORY: String(64 * 2 ** 20) });
    // 50 of 64 fit only without the 40 that are idle.
    using big = mebibytes(50);
    expect(big.size).toBe(50 * 2 ** 18);
    const { currentBytes } = fa.memory();
    expect(() => mebibytes(20)).toThrow(/FaError|must fit into the memory of the device/);
    expect(fa.memory().currentBytes).toBe(currentBytes);
    expect(await attention(x)).toEqual(before);
  });

  test("after an illegal access every call says that the process must restart, and nothing hangs", async () => {
    const other = await open();
    const x = other.tensor(ramp(64), { shape: [1, 8, 8] });
    emulate({ FA_EMULATED_ERROR: "700" });
    const messages: string[] = [];
    for (const call of [
      () => other.attention(x, x, x),
      () => x.data(),
      () => other.sync(),
      () => other.attention(x, x, x),
    ]) {
      const error = await (call() as Promise<unknown>).catch((thrown: unknown) => thrown);
      expect(error).toMatchObject({ code: "FA_BACKEND" });
      messages.push((error as Error).message);
    }
    for (const message of messages) expect(message).toMatch(/cudaErrorIllegalAddress.*Restart the process/);
    expect(() => other.tensor(ramp(8), { shape: [8] })).toThrow(/Restart the process/);
    x.dispose();
    await other.dispose();
  });

  test("memory of another library is wrapped and shown without a copy", async () => {
    using x = fa.tensor(ramp(64), { shape: [64] });
    const { pointer, stream } = fa.native(x) as CudaMemory;
    expect(pointer).toBeGreaterThan(0n);
    expect(stream).toBeGreaterThan(0n);
    using tail = fa.wrap({ pointer: pointer + 128n }, { shape: [32] });
    expect(await tail.data()).toEqual(ramp(64).slice(32));
    // Rows that begin nowhere in particular are read as well as aligned ones.
    using odd = fa.wrap({ pointer: pointer + 4n }, { shape: [1, 7, 8] });
    using same = fa.tensor(ramp(64).slice(1, 57), { shape: [1, 7, 8] });
    expect(await attention(odd)).toEqual(await attention(same));
    expect(() => fa.wrap({}, { shape: [1] })).toThrow(/must be \{ pointer \}/);
    expect(() => fa.wrap(null, { shape: [1] })).toThrow(/must be \{ pointer \}/);
  });

  test("1,000 calls in flight together each give their own answer", async () => {
    const inputs = Array.from({ length: 10 }, (_, n) => fa.tensor(ramp(24, n), { shape: [1, 3, 8] }));
    const expected = await Promise.all(inputs.map(attention));
    const all = await Promise.all(Array.from({ length: 1000 }, (_, n) => attention(inputs[n % 10])));
    for (const [n, values] of all.entries()) expect(values).toEqual(expected[n % 10]);
    for (const x of inputs) x.dispose();
  });

  test("results that nobody holds are collected, also while they are read", async () => {
    using x = fa.tensor(ramp(64), { shape: [1, 8, 8] });
    const expected = await attention(x);
    const { currentBytes } = fa.memory();
    const reads: Promise<unknown>[] = [];
    for (let n = 0; n < 300; n++) {
      const { out } = await fa.attention(x, x, x, { causal: true });
      reads.push(out.data());
      (globalThis as { gc?: () => void }).gc?.();
    }
    for (const values of await Promise.all(reads)) expect(values).toEqual(expected);
    expect(fa.memory().currentBytes).toBeGreaterThanOrEqual(currentBytes);
  });

  test("dispose with reads under way ends them; calls after it are refused", async () => {
    const other = await open();
    const x = other.tensor(ramp(64), { shape: [64] });
    const reading = x.data();
    await other.dispose();
    expect(await reading).toEqual(ramp(64));
    expect(await codeOf(x.data())).toBe("FA_DISPOSED");
    await other.dispose();
  });

  test("each worker thread has an instance of its own, also one that ends without disposing", async () => {
    const source = `
      const { parentPort, workerData } = require("node:worker_threads");
      const { Instance } = require(workerData);
      const slots = new Float64Array(64);
      const instance = new Instance(0, slots);
      const pointer = instance.allocate(1024);
      instance.upload(pointer, new Uint8Array(1024).fill(9));
      const target = new Uint8Array(1024);
      instance.read(pointer, target, (status) => parentPort.postMessage([status, target[1023]]));`;
    const one = (): Promise<unknown> =>
      new Promise((resolve, reject) => {
        const worker = new Worker(source, { eval: true, workerData: addon });
        let answer: unknown;
        worker.on("message", (message) => (answer = message));
        worker.on("error", reject);
        worker.on("exit", (code) => resolve([code, answer]));
      });
    expect(await Promise.all([one(), one(), one()])).toEqual(Array.from({ length: 3 }, () => [0, [0, 9]]));
  });

  test("the pool gives the same memory again, and a pool of 0 bytes keeps none", async () => {
    const first = fa.tensor(ramp(1000), { shape: [1000] });
    const { pointer } = fa.native(first) as CudaMemory;
    first.dispose();
    using second = fa.empty({ shape: [1000] });
    expect((fa.native(second) as CudaMemory).pointer).toBe(pointer);
    const lean = await open({ poolBytes: 0 });
    lean.empty({ shape: [1000] }).dispose();
    expect(backend.statistics().idleBytes).toBe(0);
    await lean.dispose();
  });

  test("the roof is measured", async () => {
    expect(await fa.roof()).toMatchObject({ what: "register-only mma.sync, bfloat16" });
  });
});
