import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import {
  createAttention,
  FaError,
  plan as choose,
  type Attention,
  type CastProblem,
  type DeviceBuffer,
  type Plan,
} from "@fa/core";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi, type MockInstance } from "vitest";
import { SOFTWARE, useDriver } from "../../../tools/software-gpu.ts";
import { describeDevice } from "../src/adapter.ts";
import { WebgpuBackend } from "../src/backend.ts";
import { Device } from "../src/device.ts";
import { SHADERS } from "../src/generated/shaders.ts";
import { findGpu } from "../src/gpu.ts";
import { webgpu } from "../src/index.ts";
import { Words, type Pass, type WebgpuRow } from "../src/kernels/row.ts";
import { KERNELS } from "../src/kernels/table.ts";

const driver = useDriver("swiftshader");
const GIBIBYTE = 2 ** 30;

/** A device of the caller's, with the adapter's own limits. An error that no scope caught fails the test. */
async function ownDevice(): Promise<GPUDevice> {
  const found = await findGpu(SOFTWARE.dawn);
  if (found.reason !== undefined) throw new Error(found.reason);
  const adapter = (await found.gpu.requestAdapter())!;
  const { maxBufferSize, maxStorageBufferBindingSize } = adapter.limits;
  const device = await adapter.requestDevice({ requiredLimits: { maxBufferSize, maxStorageBufferBindingSize } });
  device.addEventListener("uncapturederror", ({ error }) => uncaught.push(error.message));
  return device;
}
const uncaught: string[] = [];
afterEach(() => {
  if (uncaught.length > 0) throw new Error(`no scope caught: ${uncaught.splice(0).join()}`);
});

const turns = async (n: number): Promise<void> => {
  for (; n > 0; n--) await new Promise((resolve) => setImmediate(resolve));
};
/** Exact in every dtype of 16 bits and more. */
const ramp = Float32Array.from({ length: 5000 }, (_, n) => (n % 256) / 8);

describe.skipIf(!driver.here)("on a device of the caller's", () => {
  let device: GPUDevice;
  let fa: Attention;
  const open = (): Promise<Attention> => createAttention({ backends: [webgpu({ device })] });
  beforeAll(async () => {
    device = await ownDevice();
    fa = await open();
  });
  afterAll(async () => {
    await fa.dispose();
    device.destroy();
  });

  test("dispose leaves the device alone", async () => {
    const other = await open();
    await other.dispose();
    using x = fa.tensor(ramp, { shape: [5000] });
    expect(await x.data()).toEqual(ramp);
  });

  test("wrap shares a GPUBuffer without a copy, and leaves it alone when the tensor goes", async () => {
    const usage = 0x80 | 0x4 | 0x8;
    const buffer = device.createBuffer({ size: 20_000, usage });
    device.queue.writeBuffer(buffer, 0, ramp);
    const x = fa.wrap(buffer, { shape: [50, 100] });
    const y = await fa.cast(x, "float16");
    const before = fa.memory().currentBytes;
    expect(fa.native(x)).toBe(buffer);
    x.dispose();
    expect(fa.memory().currentBytes).toBe(before);
    const z = fa.wrap(buffer, { shape: [5000] });
    expect(await z.data()).toEqual(ramp);
    expect(Array.from((await y.data()) as Float16Array)).toEqual(Array.from(ramp));
    y.dispose();
    z.dispose();
    buffer.destroy();
  });

  test("native gives the GPUBuffer of a result, which other passes can read", async () => {
    using x = fa.tensor(ramp, { shape: [5000] });
    using y = await fa.cast(x, "float32");
    const native = fa.native(y) as GPUBuffer;
    const target = device.createBuffer({ size: 20_000, usage: 0x1 | 0x8 });
    const encoder = device.createCommandEncoder();
    encoder.copyBufferToBuffer(native, 0, target, 0, 20_000);
    device.queue.submit([encoder.finish()]);
    await target.mapAsync(1);
    expect(new Float32Array(target.getMappedRange().slice(0))).toEqual(ramp);
    target.destroy();
  });

  test.each([
    ["too small", () => device.createBuffer({ size: 64, usage: 0x80 }), "FA_SHAPE"],
    ["not for storage", () => device.createBuffer({ size: 20_000, usage: 0x8 }), "FA_TENSOR"],
    ["no GPUBuffer", () => ({}), "FA_TENSOR"],
    ["nothing", () => undefined, "FA_TENSOR"],
  ])("wrap refuses a buffer that is %s", (_, make, code) => {
    expect(() => fa.wrap(make(), { shape: [5000] })).toThrow(expect.objectContaining({ code }));
  });

  test("what only looks like a GPUBuffer fails the call it takes part in, and leaves no error scope open", async () => {
    using x = fa.tensor(ramp, { shape: [5000] });
    (await fa.cast(x, "float16")).dispose();
    using fake = fa.wrap({ size: 20_000, usage: 0x80 }, { shape: [5000] });
    await expect(fa.cast(fake, "float16")).rejects.toMatchObject({ code: "FA_BACKEND" });
    await expect(device.popErrorScope()).rejects.toBeInstanceOf(Error);
    using y = await fa.cast(x, "float16");
    expect(Array.from((await y.data()) as Float16Array)).toEqual(Array.from(ramp));
  });

  test("out of memory is typed, loses nothing, and the next call is right", async () => {
    using x = fa.tensor(ramp, { shape: [5000] });
    const before = fa.memory().currentBytes;
    const huge = fa.empty({ shape: [GIBIBYTE / 4] });
    const reason = { code: "FA_OUT_OF_MEMORY", message: expect.stringMatching(/1073741824 bytes/) };
    await expect(huge.data()).rejects.toMatchObject(reason);
    await expect(fa.cast(huge, "float16")).rejects.toMatchObject(reason);
    huge.dispose();
    expect(fa.memory().currentBytes).toBe(before);
    using y = await fa.cast(x, "float32");
    expect(await y.data()).toEqual(ramp);
  });

  test("a buffer larger than any is refused at once", () => {
    const reason = { code: "FA_OUT_OF_MEMORY" };
    expect(() => fa.empty({ shape: [2 * GIBIBYTE] })).toThrow(expect.objectContaining(reason));
  });

  test("10,000 calls leave the count of live bytes flat, and compile nothing", async () => {
    using x = fa.tensor(ramp, { shape: [5000] });
    (await fa.cast(x, "bfloat16")).dispose();
    const { currentBytes } = fa.memory();
    for (let n = 0; n < 10_000; n++) (await fa.cast(x, "bfloat16")).dispose();
    await fa.sync();
    expect(fa.memory()).toMatchObject({ currentBytes });
  });

  test("1,000 calls at once are all right, in order", async () => {
    using x = fa.tensor(ramp, { shape: [5000] });
    const calls = Array.from({ length: 1000 }, async (_, n) => {
      const half = n % 2 === 0;
      using y = await fa.cast(x, half ? "float16" : "float32");
      const got = await y.data();
      return got.length === 5000 && got.every((value, at) => value === ramp[at]);
    });
    expect((await Promise.all(calls)).every(Boolean)).toBe(true);
  });

  test("a problem of another size compiles nothing more", async () => {
    const adapter = describeDevice(device, device.adapterInfo, "portable", false);
    const backend = new WebgpuBackend(
      new Device(device, false),
      adapter,
      (await webgpu({ device }).open()).kernels as WebgpuRow[],
    );
    const run = async (elements: number): Promise<void> => {
      const problem: CastProblem = { op: "cast", dtype: "float32", resultDType: "float16", elements };
      const kernel = backend.kernels.find(({ op }) => op === "cast")!;
      const plan: Plan = {
        ok: true,
        problem,
        kernel,
        tile: kernel.tile,
        grid: [1, 1, 1],
        splits: 1,
        workspaceBytes: 0,
      };
      const [x, y] = [backend.allocate(elements * 4, "zero"), backend.allocate(elements * 2)];
      await backend.run(plan, { x, y });
      backend.free(x);
      backend.free(y);
    };
    await run(1000);
    const { shaders } = backend.statistics();
    expect(shaders).toBeGreaterThan(0);
    for (const elements of [1, 77, 4096, 100_001]) await run(elements);
    expect(backend.statistics().shaders).toBe(shaders);
    await backend.dispose();
  });

  describe("with kernels made for it", () => {
    const row = (id: string, workgroups: number, flops: number, grid?: Pass["grid"]): WebgpuRow => ({
      id,
      op: "cast",
      dtypes: ["float32"],
      needs: [],
      tile: { q: 1, kv: 1 },
      maxTile: { q: 1, kv: 1 },
      workspaceBytes: () => 0,
      passes: () => [
        { shader: id, params: {}, uniforms: new Words().build(), buffers: [{ name: "y" }], workgroups, grid, flops },
      ],
    });
    const runs = async (
      id: string,
      text: string,
      elements: number,
      flops = elements,
      grid?: Pass["grid"],
    ): Promise<Uint32Array> => {
      (SHADERS as Record<string, string>)[id] = text;
      const adapter = describeDevice(device, device.adapterInfo, "portable", false);
      const kernel = row(id, elements, flops, grid);
      const backend = new WebgpuBackend(new Device(device, false), adapter, [kernel]);
      const y = backend.allocate(elements * 4, "zero");
      const problem: CastProblem = { op: "cast", dtype: "float32", resultDType: "float32", elements };
      const tile = kernel.tile;
      try {
        await backend.run({ ok: true, problem, kernel, tile, grid: [1, 1, 1], splits: 1, workspaceBytes: 0 }, { y });
        return new Uint32Array((await backend.read(y)).buffer);
      } finally {
        await backend.dispose();
      }
    };

    const count = `${SHADERS["lib/launch.wgsl"]}
      struct Uniforms { launch: Launch }
      @group(0) @binding(0) var<uniform> uniforms: Uniforms;
      @group(0) @binding(1) var<storage, read_write> y: array<u32>;
      @compute @workgroup_size(1) fn main(@builtin(workgroup_id) id: vec3u, @builtin(num_workgroups) count: vec3u) {
        let at = workgroup_index(uniforms.launch, id, count);
        if (at < uniforms.launch.end) { y[at] += at + 1u; }
      }`;

    test("more workgroups than a dispatch has along one dimension are all run, each once", async () => {
      const got = await runs("count.wgsl", count, 140_001);
      expect(got.every((value, n) => value === n + 1)).toBe(true);
    });

    test("work that is too long for one dispatch is cut into several submissions, each workgroup run once", async () => {
      const submit = vi.spyOn(device.queue, "submit");
      const got = await runs("count.wgsl", count, 1003, 1e13);
      expect(got.every((value, n) => value === n + 1)).toBe(true);
      // 5e11 operations a dispatch.
      expect(submit.mock.calls.length).toBeGreaterThanOrEqual(20);
      submit.mockRestore();
    });

    test.each([
      ["is one dispatch where it fits", [3, 5, 7], 105, true],
      ["is counted where a side is longer than a dispatch's", [70_001, 2, 1], 1, false],
      ["is counted where it is too long for one dispatch", [17, 3, 2], 1e12, false],
    ] as const)("a grid of three dimensions %s, each workgroup run once", async (_, grid, flops, whole) => {
      const [x, y, z] = grid;
      const text = `${SHADERS["lib/launch.wgsl"]}
        struct Uniforms { launch: Launch }
        @group(0) @binding(0) var<uniform> uniforms: Uniforms;
        @group(0) @binding(1) var<storage, read_write> y: array<u32>;
        @compute @workgroup_size(1) fn main(@builtin(workgroup_id) id: vec3u, @builtin(num_workgroups) count: vec3u) {
          let place = workgroup_place(uniforms.launch, id, count, vec2u(${x}u, ${y}u));
          if (place.z != NOWHERE) { y[place.x + ${x}u * (place.y + ${y}u * place.z)] += 1u + uniforms.launch.whole; }
        }`;
      const got = await runs(`place-${grid.join("-")}.wgsl`, text, x * y * z, flops, grid);
      expect(got.every((value) => value === (whole ? 2 : 1))).toBe(true);
    });

    test("a shader that does not compile is an error that names it, and says what is wrong", async () => {
      const text = "@compute @workgroup_size(1) fn main() { nothing(); }";
      const reason = { code: "FA_BACKEND", message: expect.stringMatching(/broken\.wgsl.*nothing/s) };
      await expect(runs("broken.wgsl", text, 4)).rejects.toMatchObject(reason);
    });

    test("a shader that does not compile fails each of two calls at once, and nothing else", async () => {
      (SHADERS as Record<string, string>)["broken-twice.wgsl"] = "fn main() { nothing(); }";
      const adapter = describeDevice(device, device.adapterInfo, "portable", false);
      const kernel = row("broken-twice.wgsl", 4, 4);
      const backend = new WebgpuBackend(new Device(device, false), adapter, [kernel]);
      const y = backend.allocate(16, "zero");
      const { tile } = kernel;
      const run = async (elements: number): Promise<void> => {
        const problem: CastProblem = { op: "cast", dtype: "float32", resultDType: "float32", elements };
        await backend.run({ ok: true, problem, kernel, tile, grid: [1, 1, 1], splits: 1, workspaceBytes: 0 }, { y });
      };
      const outcomes = await Promise.allSettled([run(3), run(4)]);
      const rejected = { status: "rejected", reason: { code: "FA_BACKEND" } };
      expect(outcomes).toMatchObject([rejected, rejected]);
      await backend.dispose();
    });

    test("what the device refuses is an error that names the kernel", async () => {
      const text = `@group(0) @binding(0) var<uniform> size: vec4u; @group(0) @binding(3) var<storage, read_write> y: array<u32>;
        @compute @workgroup_size(1) fn main() { y[0] = size.x; }`;
      const reason = { code: "FA_BACKEND", message: expect.stringMatching(/running kernel unbound\.wgsl/) };
      await expect(runs("unbound.wgsl", text, 4)).rejects.toMatchObject(reason);
    });
  });
});

describe.skipIf(!driver.here)("calls on a device of the back end's own", () => {
  const elements = 5000;
  const problem: CastProblem = { op: "cast", dtype: "float32", resultDType: "float32", elements };
  const bytes = new Uint8Array(ramp.buffer);
  let device: GPUDevice;
  let backend: WebgpuBackend;
  let submit: MockInstance<GPUQueue["submit"]>;
  let cast: (x: DeviceBuffer, y: DeviceBuffer) => void | Promise<void>;
  beforeAll(async () => {
    device = await ownDevice();
    submit = vi.spyOn(device.queue, "submit");
    const adapter = describeDevice(device, device.adapterInfo, "portable", false);
    backend = new WebgpuBackend(new Device(device, true), adapter, KERNELS);
    const planned = choose(problem, backend.capabilities, backend.kernels);
    if (!planned.ok) throw new Error("no kernel casts");
    cast = (x, y) => backend.run(planned, { x, y });
    // Memory that is known to be there, and a kernel that was tried.
    const [x, y] = [backend.allocate(bytes.length, bytes), backend.allocate(bytes.length)];
    await cast(x, y);
    for (const buffer of [x, y]) backend.free(buffer);
  });
  afterAll(() => backend.dispose());

  const values = async (buffer: DeviceBuffer): Promise<Float32Array> =>
    new Float32Array((await backend.read(buffer)).buffer);

  test("gather while the device works, and are submitted together", async () => {
    await backend.sync();
    const buffers = Array.from({ length: 41 }, () => backend.allocate(bytes.length));
    const x = backend.allocate(bytes.length, bytes);
    await cast(x, buffers[0]);
    await Promise.all(buffers.map((buffer) => backend.read(buffer)));
    submit.mockClear();
    for (let n = 0; n < 40; n++) expect(cast(buffers[n], buffers[n + 1])).toBeUndefined();
    expect(submit.mock.calls.length).toBe(1 + 2);
    expect(await values(buffers[40])).toEqual(ramp);
    for (const buffer of [x, ...buffers]) backend.free(buffer);
  });

  test("that nobody waits for are submitted once the device is done", async () => {
    const [x, y, z] = [backend.allocate(bytes.length, bytes), ...[1, 2].map(() => backend.allocate(bytes.length))];
    for (const buffer of [x, y, z]) await backend.read(buffer);
    submit.mockClear();
    await cast(x, y);
    await cast(y, z);
    expect(submit.mock.calls.length).toBe(1);
    await vi.waitFor(() => expect(submit.mock.calls.length).toBe(2));
    for (const buffer of [x, y, z]) backend.free(buffer);
  });

  test("read what memory held when they were called, though it is given to others and written at once", async () => {
    const buffers = Array.from({ length: 6 }, () => backend.allocate(bytes.length));
    for (const buffer of buffers) await backend.read(buffer);
    let x = backend.allocate(bytes.length, bytes);
    await backend.read(x);
    for (const buffer of buffers) {
      await cast(x, buffer);
      backend.free(x);
      x = backend.allocate(bytes.length, "zero");
    }
    expect(await values(buffers[0])).toEqual(ramp);
    expect(await values(buffers[1])).toEqual(new Float32Array(elements));
    for (const buffer of [x, ...buffers]) backend.free(buffer);
  });

  test("name their kernel when the device refuses them, to the next who waits", async () => {
    const [x, y] = [backend.allocate(bytes.length, bytes), backend.allocate(bytes.length)];
    for (const buffer of [x, y]) await backend.read(buffer);
    const foreign = await ownDevice();
    const native = foreign.createBuffer({ size: 20_000, usage: 0x80 | 0x4 | 0x8 });
    const z = backend.wrap(native, bytes.length);
    await cast(x, y);
    await cast(x, z);
    const reason = { code: "FA_BACKEND", message: expect.stringMatching(/running kernel cast/) };
    await expect(backend.sync()).rejects.toMatchObject(reason);
    await cast(x, y);
    expect(await values(y)).toEqual(ramp);
    for (const buffer of [x, y, z]) backend.free(buffer);
    foreign.destroy();
  });
});

describe.skipIf(!driver.here)("a device that is lost", () => {
  /** Everything that waits for the device, one after the other. */
  async function session(fa: Attention): Promise<void> {
    using x = fa.tensor(ramp, { shape: [5000] });
    using y = await fa.cast(x, "float16");
    await y.data();
    await fa.sync();
    using z = await fa.cast(y, "float32");
    await z.data();
    await fa.roof();
  }

  test("at any point gives FA_DEVICE_LOST, at once or from the next call on, and a new Attention works", async () => {
    for (let after = 0; after < 12; after++) {
      const device = await ownDevice();
      const fa = await createAttention({ backends: [webgpu({ device })] });
      const outcome = Promise.allSettled([session(fa).then(() => session(fa))]);
      await turns(after);
      device.destroy();
      const [{ status, reason }] = (await outcome) as PromiseRejectedResult[];
      expect([status, reason], `destroyed after ${after} turns`).toMatchObject([
        "rejected",
        { code: "FA_DEVICE_LOST" },
      ]);
      expect(() => fa.tensor(ramp, { shape: [5000] })).toThrow(expect.objectContaining({ code: "FA_DEVICE_LOST" }));
      await fa.dispose();
    }
    const fa = await createAttention({ backends: [webgpu(SOFTWARE)] });
    await session(fa);
    await fa.dispose();
  });

  test("after dispose, and twice, nothing happens", async () => {
    const fa = await createAttention({ backends: [webgpu(SOFTWARE)] });
    const x = fa.tensor(ramp, { shape: [5000] });
    await fa.dispose();
    await fa.dispose();
    expect(x.disposed).toBe(true);
    await expect(x.data()).rejects.toBeInstanceOf(FaError);
  });
});

describe("where there is none, the report says why and the next back end is taken", () => {
  const script = (setUp: string): string => `
    ${setUp}
    const { createAttention, reference } = await import("@fa/core");
    const { webgpu } = await import("@fa/backend-webgpu");
    const fa = await createAttention({ backends: [webgpu(), reference()] });
    console.log(fa.backend.name + ": " + fa.report[0].reason);`;
  const run = (setUp: string, env: Record<string, string> = {}): string => {
    const { stdout, stderr } = spawnSync(
      process.execPath,
      ["--conditions=@fa/source", "--input-type=module", "--eval", script(setUp)],
      { cwd: fileURLToPath(new URL("../../..", import.meta.url)), env: { ...process.env, ...env }, encoding: "utf8" },
    );
    return stdout.trim() || stderr;
  };

  test("no driver", () => {
    expect(run("", { VK_DRIVER_FILES: "/nonexistent.json" })).toMatch(/^reference: WebGPU is there, but no adapter/);
  });
  test.skipIf(!driver.here)("a software adapter alone, unless it is asked for", () => {
    expect(run("", { VK_DRIVER_FILES: process.env["FA_VULKAN_ICD"]! })).toMatch(
      /^reference: there is only a software adapter, SwiftShader.*software: true/,
    );
  });
  test("Dawn is not installed", () => {
    const setUp = `
      const { registerHooks } = await import("node:module");
      registerHooks({ resolve(name, context, next) { return next(name === "webgpu" ? "not-installed" : name, context); } });`;
    expect(run(setUp)).toMatch(/^reference: Node has no WebGPU of its own: npm install webgpu/);
  });
  test("Dawn does not load", () => {
    const setUp = `
      const { registerHooks } = await import("node:module");
      const url = "data:text/javascript,throw new Error('truncated file')";
      registerHooks({ resolve(name, context, next) { return name === "webgpu" ? { url, shortCircuit: true } : next(name, context); } });`;
    expect(run(setUp)).toMatch(/^reference: the package webgpu failed to load: truncated file/);
  });
  test("a browser without navigator.gpu, and a page that is no secure context", () => {
    expect(run(`delete globalThis.process;`)).toMatch(/no navigator\.gpu/);
    expect(run(`globalThis.isSecureContext = false; delete globalThis.process;`)).toMatch(/https or from localhost/);
  });
});

describe("options that are refused", () => {
  test.each([
    [{ tier: "best" }, /tier must be/],
    [{ powerPreference: "medium" }, /powerPreference must be/],
    [{ float16Scores: true }, /goes with tier: "matrix"/],
    [{ device: {} }, /device must be a GPUDevice/],
    [{ dawn: "flag" }, /dawn must be a list of flags/],
    [{ softwares: true }, /Did you mean "software"/],
  ])("%j", (options, message) => {
    expect(() => webgpu(options as never)).toThrow(message);
  });
});
