import { decode, encode, FLOAT_DTYPES, type FloatDType } from "@fa/core";
import { beforeAll, describe, expect, test } from "vitest";
import { DTYPE_CODES, dtypeCode } from "../src/kernels/dtypes.ts";
import type { Pass } from "../src/kernels/row.ts";
import { runPasses, softwareDevice } from "./passes.ts";

let device: GPUDevice;
beforeAll(async () => {
  device = await softwareDevice();
});

/** Applies an expression on a word `x` and its index `n` to each word. */
async function onEach(expression: string, words: Uint32Array<ArrayBuffer>): Promise<Uint32Array<ArrayBuffer>> {
  const shader = `//#include "lib/dtype.wgsl"
@group(0) @binding(0) var<uniform> launch: vec4u;
@group(0) @binding(1) var<storage, read> xs: array<u32>;
@group(0) @binding(2) var<storage, read_write> ys: array<u32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let n = id.x;
  if (n >= min(arrayLength(&xs), launch.y * 64u)) { return; }
  let x = xs[n];
  ys[n] = ${expression};
}`;
  const pass: Pass = {
    shader,
    params: DTYPE_CODES,
    uniforms: Uint32Array.of(0, 0),
    buffers: [{ name: "x" }, { name: "y" }],
    workgroups: Math.ceil(words.length / 64),
    flops: 0,
  };
  const { y } = await runPasses(
    device,
    [pass],
    { x: new Uint8Array(words.buffer), y: new Uint8Array(words.byteLength) },
    ["y"],
  );
  return new Uint32Array(y.buffer);
}

/** Every bit pattern of a narrow dtype, side by side in words, and the float32 bits that each stands for. */
function patterns(dtype: FloatDType): { words: Uint32Array<ArrayBuffer>; bits: Uint32Array<ArrayBuffer> } {
  const bytes =
    dtype === "float8e4m3"
      ? Uint8Array.from({ length: 256 }, (_, n) => n)
      : new Uint8Array(Uint16Array.from({ length: 65536 }, (_, n) => n).buffer);
  const bits = new Uint32Array(encode("float32", decode(dtype, bytes)).buffer);
  return { words: new Uint32Array(bytes.buffer), bits };
}

const NARROW = ["float16", "bfloat16", "float8e4m3"] as const;
const isFinite32 = (bits: number): boolean => (bits & 0x7f800000) !== 0x7f800000;

describe.each(NARROW)("%s", (dtype) => {
  const code = dtypeCode(dtype);
  const perWord = dtype === "float8e4m3" ? 4 : 2;
  const { words, bits } = patterns(dtype);

  test("each element of a word widens to the float32 that it is", async () => {
    for (let at = 0; at < perWord; at++) {
      const got = await onEach(`widen(${code}u, x, ${at}u)`, words);
      expect(got).toEqual(bits.filter((_, n) => n % perWord === at));
    }
  });

  test("a word unpacks to floats where it is finite, and is known where it is not", async () => {
    const known = await onEach(`nonfinite(${code}u, x)`, words);
    const known4 = await onEach(`nonfinite4(${code}u, vec4u(0u, 0u, x, 0u)).z`, words);
    const name = { float16: "unpack_f16", bfloat16: "unpack_bf16", float8e4m3: "unpack_f8" }[dtype];
    const finite = Array.from(words, (_, n) => bits.subarray(n * perWord, (n + 1) * perWord).every(isFinite32));
    expect(Array.from(known, (x) => x === 0)).toEqual(finite);
    expect(known4).toEqual(known);
    for (let at = 0; at < perWord; at++) {
      const got = await onEach(`bitcast<u32>(${name}(x).${"xyzw"[at]})`, words);
      // Denormals of float32 may be flushed where floats are handled.
      const value = (x: number): number => ((x & 0x7f800000) === 0 ? 0 : x);
      for (let n = 0; n < words.length; n++) {
        if (finite[n] && value(got[n]) !== value(bits[n * perWord + at])) {
          expect.unreachable(`element ${at} of word ${words[n].toString(16)} unpacks to ${got[n].toString(16)}`);
        }
      }
    }
  });

  test("float32 rounds to nearest even: each number, each tie, and their neighbours", async () => {
    const numbers = [...new Float64Array(decode("float32", new Uint8Array(bits.buffer)))].filter(Number.isFinite);
    const sorted = numbers.toSorted((a, b) => a - b);
    const near: number[] = [];
    for (let n = 0; n + 1 < sorted.length; n++) {
      for (const x of [sorted[n], Math.fround((sorted[n] + sorted[n + 1]) / 2)]) {
        const [exact] = new Uint32Array(Float32Array.of(x).buffer);
        near.push(exact - 1, exact, exact + 1);
      }
    }
    near.push(0, 0x80000000, 0x7f800000, 0xff800000, 0x7fc00000, 0xffc00001, 0x7f7fffff, 0xff7fffff, 1, 0x80000001);
    near.push(0x477fefff, 0x477ff000, 0x477ff001, 0x43e00001, 0x43e80000, 0x33000000, 0x33000001, 0x32ffffff);
    const inputs = Uint32Array.from(near);
    const got = await onEach(`narrow(${code}u, x)`, inputs);
    const expected = encode(dtype, decode("float32", new Uint8Array(inputs.buffer)));
    expect(got).toEqual(Uint32Array.from(dtype === "float8e4m3" ? expected : new Uint16Array(expected.buffer)));
  });
});

test("float32 stays as it is, NaN without payload", async () => {
  const inputs = Uint32Array.of(
    0,
    1,
    0x80000000,
    0x3f800000,
    0x7f7fffff,
    0x7f800000,
    0xff800000,
    0x7f800001,
    0xffffffff,
  );
  const expected = Uint32Array.from(inputs, (x) => ((x & 0x7fffffff) > 0x7f800000 ? 0x7fc00000 : x));
  expect(await onEach("widen(0u, x, 0u)", inputs)).toEqual(expected);
  expect(await onEach("narrow(0u, x)", inputs)).toEqual(expected);
  expect([...(await onEach("nonfinite(0u, x)", inputs))].map((x) => x !== 0)).toEqual(
    [...inputs].map((x) => !isFinite32(x)),
  );
  expect(FLOAT_DTYPES.map(dtypeCode)).toEqual([0, 1, 2, 3]);
});

test("elements of a word, and two results as one", async () => {
  expect([...(await onEach("elements_per_word(x)", Uint32Array.of(0, 1, 2, 3)))]).toEqual([1, 2, 2, 4]);
  expect(await onEach("pack2(1u, vec2u(0x3f800000u, x))", Uint32Array.of(0xc0000000))).toEqual(
    Uint32Array.of(0xc0003c00),
  );
});
