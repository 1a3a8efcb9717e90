import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { fileURLToPath } from "node:url";
import { beforeEach, describe, expect, test } from "vitest";
import { createAttention, FaError, reference, roundTo, Tensor, type Attention } from "../src/index.ts";
import { newRecording, recording, type Recording } from "./recording.ts";

let record: Recording;
let fa: Attention;
beforeEach(async () => {
  record = newRecording();
  fa = await createAttention({ backends: [recording(reference(), record)] });
});

const six = Float32Array.of(1, 2, 3, 4, 5, 6);

describe("a tensor", () => {
  test.each([
    [Float32Array.of(1, -2), undefined, "float32", Float32Array],
    [Float16Array.of(1, -2), undefined, "float16", Float16Array],
    [Uint16Array.of(0x3c00, 0xc000), "float16", "float16", Float16Array],
    [Uint16Array.of(0x3f80, 0xc000), "bfloat16", "bfloat16", Uint16Array],
    [Uint8Array.of(1, 0), undefined, "bool", Uint8Array],
    [Uint8Array.of(0x38, 0xc0), "float8e4m3", "float8e4m3", Uint8Array],
    [Int32Array.of(1, -2), undefined, "int32", Int32Array],
  ] as const)("made of %o (%s) is %s, and reads back as the array of that dtype", async (data, named, dtype, array) => {
    using tensor = fa.tensor(data, { shape: [2], dtype: named });
    expect(tensor.dtype).toBe(dtype);
    const back = await tensor.data();
    expect(back).toBeInstanceOf(array);
    expect(new Uint8Array(back.buffer)).toEqual(new Uint8Array(data.buffer));
  });

  test("knows its shape, size and bytes; rank 0 holds one element, a zero none", () => {
    expect(fa.tensor(six, { shape: [2, 3] })).toMatchObject({ shape: [2, 3], size: 6, bytes: 24 });
    expect(fa.empty({ shape: [], dtype: "bfloat16" })).toMatchObject({ shape: [], size: 1, bytes: 2 });
    expect(fa.empty({ shape: [5, 0, 2] })).toMatchObject({ size: 0, bytes: 0 });
  });

  test("empty is zeros, float32 unless told otherwise", async () => {
    expect(await fa.empty({ shape: [3] }).data()).toEqual(new Float32Array(3));
    expect(await fa.empty({ shape: [3], dtype: "int32" }).data()).toEqual(new Int32Array(3));
  });
});

describe("cast", () => {
  test("rounds once to the dtype and back, and leaves its input alone", async () => {
    const values = Float32Array.of(1 / 3, -1000.3, 65520, 1e-8);
    using x = fa.tensor(values, { shape: [2, 2] });
    for (const dtype of ["float16", "bfloat16", "float8e4m3", "float32"] as const) {
      const y = await fa.cast(x, dtype);
      expect(y).toMatchObject({ shape: [2, 2], dtype });
      const back = await fa.cast(y, "float32");
      expect(await back.data()).toEqual(values.map((value) => roundTo(dtype, value)));
    }
    expect(await x.data()).toEqual(values);
  });
});

describe("reshape", () => {
  test("shows the same contents by another shape without a copy", async () => {
    const tensor = fa.tensor(six, { shape: [2, 3] });
    const { allocations } = record;
    const other = tensor.reshape([3, 2, 1]);
    expect(other).toMatchObject({ shape: [3, 2, 1], dtype: "float32" });
    expect(await other.data()).toEqual(six);
    expect(record.allocations).toBe(allocations);
  });

  test.each(["the original", "the reshaped one"])(
    "%s may be disposed first; the memory goes with the last",
    async (first) => {
      const tensor = fa.tensor(six, { shape: [6] });
      const other = tensor.reshape([2, 3]);
      const [early, late] = first === "the original" ? [tensor, other] : [other, tensor];
      early.dispose();
      expect(await late.data()).toEqual(six);
      expect(record.frees).toBe(0);
      late.dispose();
      expect(record.frees).toBe(1);
      expect(fa.memory().currentBytes).toBe(0);
    },
  );
});

describe("dispose", () => {
  test("frees once, however often it is called", () => {
    const tensor = fa.tensor(six, { shape: [6] });
    const other = tensor.reshape([2, 3]);
    tensor.dispose();
    tensor.dispose();
    tensor[Symbol.dispose]();
    expect(record.frees).toBe(0);
    other.dispose();
    expect(record.frees).toBe(1);
    expect(tensor.disposed).toBe(true);
  });

  test("`using` frees at the end of the block", () => {
    {
      using tensor = fa.tensor(six, { shape: [6] });
      expect([tensor.disposed, fa.memory().currentBytes]).toEqual([false, 24]);
    }
    expect(fa.memory().currentBytes).toBe(0);
    expect(fa.memory().peakBytes).toBe(24);
  });

  test("of the instance disposes its tensors, closes the back end once, and frees nothing twice", async () => {
    const tensor = fa.tensor(six, { shape: [6] });
    await fa.dispose();
    await fa[Symbol.asyncDispose]();
    tensor.dispose();
    expect([fa.disposed, tensor.disposed]).toEqual([true, true]);
    expect(record).toMatchObject({ disposals: 1, frees: 0 });
    await expect(tensor.data()).rejects.toMatchObject({ code: "FA_DISPOSED" });
  });

  test("an input may be disposed as soon as the call has returned its promise", async () => {
    const x = fa.tensor(six, { shape: [6] });
    const promise = fa.cast(x, "float32");
    x.dispose();
    expect(await (await promise).data()).toEqual(six);
  });
});

describe("a call that fails in the back end", () => {
  const failing = async (thrown: unknown) => {
    const broken = recording(reference(), record, () => ({ run: () => Promise.reject(thrown) }));
    return createAttention({ backends: [broken] });
  };

  test("frees its results, and an error of the back end's own becomes FA_BACKEND with the plan", async () => {
    const broken = await failing(new RangeError("kernel fell over"));
    const x = broken.tensor(six, { shape: [1, 2, 3] });
    const live = record.live.size;
    const call = broken.attention(x, x, x, { returnLse: true });
    await expect(call).rejects.toMatchObject({
      code: "FA_BACKEND",
      message: expect.stringMatching(
        /^attention: back end reference must run the plan; got RangeError: kernel fell over\. Please report it with this plan:\nattention B=1/,
      ),
      cause: expect.any(RangeError),
    });
    expect(record.live.size).toBe(live);
    expect(await x.data()).toEqual(six);
  });

  test("passes an FaError on as it is", async () => {
    const lost = new FaError("FA_DEVICE_LOST", "gone");
    const broken = await failing(lost);
    const x = broken.tensor(six, { shape: [6] });
    await expect(broken.cast(x, "float16")).rejects.toBe(lost);
  });

  test("for want of memory for its second result, frees the first", async () => {
    let allocations = 0;
    const full = recording(reference(), record, (backend) => ({
      allocate(...args) {
        if (++allocations === 3) throw new FaError("FA_OUT_OF_MEMORY", "full");
        return backend.allocate(...args);
      },
    }));
    const tight = await createAttention({ backends: [full] });
    const x = tight.tensor(six, { shape: [1, 2, 3] });
    await expect(tight.attention(x, x, x, { returnLse: true })).rejects.toMatchObject({ code: "FA_OUT_OF_MEMORY" });
    expect(record.live.size).toBe(1);
    expect((await tight.attention(x, x, x)).out.shape).toEqual([1, 2, 3]);
  });
});

test("a tensor that nobody holds any more is freed when it is collected", async () => {
  const script = `
    import { createAttention, reference } from ${JSON.stringify(new URL("../src/index.ts", import.meta.url).href)};
    const fa = await createAttention({ backends: [reference()] });
    const kept = fa.tensor(new Float32Array(4), { shape: [4] });
    let shared = fa.tensor(new Float32Array(8), { shape: [8] });
    const view = shared.reshape([2, 4]);
    shared = undefined;
    for (let n = 0; n < 1000; n++) fa.empty({ shape: [1024] });
    const before = fa.memory().currentBytes;
    for (let n = 0; n < 50 && fa.memory().currentBytes > 48; n++) {
      globalThis.gc();
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    console.log(before, fa.memory().currentBytes, (await view.data()).length, kept.size);
  `;
  const run = promisify(execFile);
  const cwd = fileURLToPath(new URL("..", import.meta.url));
  const { stdout } = await run(process.execPath, ["--expose-gc", "--input-type=module", "--eval", script], { cwd });
  // 16 bytes kept, 32 still seen through the reshaped tensor, and none of the 4 MB.
  expect(stdout.trim()).toBe("4096048 48 8 4");
});

test("Tensor is exported for instanceof", () => {
  expect(fa.empty({ shape: [1] })).toBeInstanceOf(Tensor);
});
