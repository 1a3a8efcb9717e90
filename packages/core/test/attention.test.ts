/** `fa` on the reference back end: what dtypes, options and both algorithms come to through the public interface. */
import * as fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import {
  createAttention,
  decode,
  describePlan,
  encode,
  reference,
  resultDType,
  roundTo,
  typedArray,
  type Attention,
  type AttentionOptions,
  type DType,
  type FloatDType,
  type Tensor,
} from "../src/index.ts";
import { naiveAttention, naiveAttentionBackward, type AttentionData } from "../src/reference/index.ts";
import { build, cases, differences, noise, type Case } from "./attention-cases.ts";

let tiled: Attention;
let naive: Attention;
beforeAll(async () => {
  tiled = await createAttention({ backends: [reference()] });
  naive = await createAttention({ backends: [reference({ algorithm: "naive" })] });
});

const FLOATS = ["float32", "float16", "bfloat16", "float8e4m3"] as const;
const OPERANDS = ["alibiSlopes", "bias", "mask", "sinks"] as const;

const make = (fa: Attention, values: ArrayLike<number>, shape: readonly number[], dtype: DType): Tensor =>
  fa.tensor(typedArray(dtype, encode(dtype, values)), { shape, dtype });
async function read(tensor: Tensor): Promise<Float64Array> {
  const { buffer } = await tensor.data();
  return decode(tensor.dtype, new Uint8Array(buffer as ArrayBuffer));
}

/** A case on an instance, forward and backward, in a dtype. */
async function call(fa: Attention, c: Case, dtype: FloatDType) {
  const { data, dout, shapes } = build(c);
  const operands = Object.fromEntries(
    OPERANDS.filter((name) => data[name]).map((name) => [
      name,
      make(fa, data[name]!, shapes[name], name === "mask" ? "bool" : "float32"),
    ]),
  );
  const { scale, softcap, causal, window, dropout, layout } = c;
  const options: AttentionOptions = { scale, softcap, causal, window, dropout, layout, ...operands, blockSize: c.tile };
  const [q, k, v] = (["q", "k", "v"] as const).map((name) => make(fa, data[name], shapes[name], dtype));
  const { out, lse } = await fa.attention(q, k, v, { ...options, returnLse: true });
  const upstream = make(fa, dout, shapes.dout, resultDType(dtype));
  const gradients = await fa.attentionBackward({ q, k, v, out, lse, dout: upstream }, options);
  return { out, lse, gradients };
}

/** What the case comes to in float64 on inputs rounded to the dtype. */
function expected(c: Case, dtype: FloatDType) {
  const { problem, data, dout } = build(c);
  const rounded = (x: Float64Array, to: FloatDType): Float64Array => x.map((value) => roundTo(to, value));
  const inputs: AttentionData = {
    ...data,
    ...Object.fromEntries((["q", "k", "v"] as const).map((name) => [name, rounded(data[name], dtype)])),
    ...Object.fromEntries(
      (["bias", "alibiSlopes", "sinks"] as const).map((name) => [name, data[name] && rounded(data[name], "float32")]),
    ),
  };
  const upstream = rounded(dout, resultDType(dtype));
  return { ...naiveAttention(problem, inputs), ...naiveAttentionBackward(problem, inputs, upstream) };
}

/** Half a unit in the last place, and a little for the order of the sums. */
const HALF_UNIT = { float32: 2 ** -23, float16: 2 ** -11, bfloat16: 2 ** -8, float8e4m3: 2 ** -8 } as const;

describe.each(FLOATS)("%s", (dtype) => {
  test("results are those of float64 on the rounded inputs, rounded once, in the dtypes of the contract", async () => {
    await fc.assert(
      fc.asyncProperty(cases, async (c) => {
        const want = expected(c, dtype);
        for (const fa of [tiled, naive]) {
          const { out, lse, gradients } = await call(fa, c, dtype);
          expect([out.dtype, lse.dtype, gradients.dq.dtype]).toEqual([
            resultDType(dtype),
            "float32",
            resultDType(dtype),
          ]);
          expect(differences(await read(out), want.out, 1.01 * HALF_UNIT[dtype])).toEqual([]);
          expect(differences(await read(lse), want.lse, 2 ** -23)).toEqual([]);
          // The backward is given out and lse as they were rounded, so its results are off by as much.
          const { dq, dk, dv, dbias, dsinks } = gradients;
          for (const [name, tensor] of Object.entries({ dq, dk, dv, dbias, dsinks })) {
            const numbers = want[name as "dq"];
            expect(tensor === undefined).toBe(numbers === undefined);
            if (tensor) expect(differences(await read(tensor), numbers, 32 * HALF_UNIT[dtype])).toEqual([]);
          }
        }
      }),
      { numRuns: 40 },
    );
  });
});

describe("the call", () => {
  const q4 = (fa: Attention) => make(fa, noise(24, 1, "q"), [1, 2, 3, 4], "float32");

  test("lse comes only when asked for", async () => {
    const q = q4(tiled);
    expect(Object.keys(await tiled.attention(q, q, q))).toEqual(["out"]);
    expect(Object.keys(await tiled.attention(q, q, q, { returnLse: true }))).toEqual(["out", "lse"]);
  });

  test("one tensor may be q, k and v, and none is modified or consumed", async () => {
    const q = q4(tiled);
    const before = await q.data();
    await tiled.attention(q, q, q, { causal: true });
    expect(await q.data()).toEqual(before);
    expect(q.disposed).toBe(false);
  });

  test("the gradient of bias has the shape and dtype of bias", async () => {
    const q = make(tiled, noise(24, 1, "q"), [1, 2, 3, 4], "float16");
    const bias = make(tiled, noise(3, 1, "bias"), [1, 1, 1, 3], "float32");
    const sinks = make(tiled, noise(2, 1, "sinks"), [2], "float16");
    const { out, lse } = await tiled.attention(q, q, q, { bias, sinks, returnLse: true });
    const { dbias, dsinks } = await tiled.attentionBackward({ q, k: q, v: q, out, lse, dout: out }, { bias, sinks });
    expect([dbias, dsinks]).toMatchObject([
      { shape: [1, 1, 1, 3], dtype: "float32" },
      { shape: [2], dtype: "float16" },
    ]);
  });

  test("plan says what attention would run, and runs nothing", () => {
    const q = q4(tiled);
    const { currentBytes } = tiled.memory();
    expect(describePlan(tiled.plan(q, q, q, { causal: true, blockSize: 2 }))).toBe(
      [
        "attention B=1 H=2 Hkv=2 Sq=3 Skv=3 D=4 Dv=4 float32 bhsd",
        "scores     scale(0.5), visibility(j <= i)",
        "kernel     tiled-forward",
        "tile       2 x 2",
        "grid       2 x 2 x 1",
        "workspace  0 bytes",
      ].join("\n"),
    );
    expect(describePlan(naive.plan(q4(naive), q4(naive), q4(naive)))).toContain("kernel     naive-forward");
    expect(tiled.memory().currentBytes).toBe(currentBytes);
  });

  test("calls that differ only in an option, a shape or a dtype are not taken for one another", async () => {
    const fresh = async (options: AttentionOptions, shape: number[], dtype: FloatDType): Promise<Float64Array> => {
      const fa = await createAttention({ backends: [reference()] });
      const q = make(fa, noise(24, 1, "q"), shape, dtype);
      const values = await read((await fa.attention(q, q, q, options)).out);
      await fa.dispose();
      return values;
    };
    const variants: AttentionOptions[] = [
      {},
      { causal: true },
      { causal: "top-left", window: [1, 0] },
      { window: [0, 1] },
      { scale: 2 },
      { softcap: 2 },
      { layout: "bshd" },
      { dropout: { p: 0.5, seed: 1 } },
      { dropout: { p: 0.5, seed: 2 } },
      { blockSize: { q: 1 } },
    ];
    for (let round = 0; round < 2; round++) {
      for (const options of variants) {
        for (const [shape, dtype] of [
          [[1, 2, 3, 4], "float32"],
          [[1, 3, 2, 4], "float32"],
          [[1, 2, 3, 4], "float16"],
        ] as const) {
          const q = make(tiled, noise(24, 1, "q"), shape, dtype);
          const { out } = await tiled.attention(q, q, q, options);
          expect(await read(out)).toEqual(await fresh(options, [...shape], dtype));
        }
      }
    }
  });

  test("a call that was made before is refused when it is wrong now", async () => {
    const q = q4(tiled);
    await tiled.attention(q, q, q, { causal: true });
    await expect(tiled.attention(q, q, q, { causl: true } as AttentionOptions)).rejects.toMatchObject({
      code: "FA_OPTION",
    });
    await expect(tiled.attention(q, q, q, { causal: "true" } as never)).rejects.toMatchObject({ code: "FA_OPTION" });
    await expect(tiled.attention(q, q, q, new Map() as AttentionOptions)).rejects.toMatchObject({ code: "FA_OPTION" });
    // As text the two calls are alike.
    await tiled.attention(q, q, q, { causal: true, scale: 1 });
    await expect(tiled.attention(q, q, q, { "causal=true scale": 1 } as never)).rejects.toMatchObject({
      code: "FA_OPTION",
    });
    // Values that any name has in common with an option that is not there.
    const { constructor } = {};
    for (const options of [{ other: undefined }, { constructor }, JSON.parse('{"__proto__":null}')]) {
      for (let n = 0; n < 3; n++) await tiled.attention(q, q, q, { causal: true });
      await expect(tiled.attention(q, q, q, options)).rejects.toMatchObject({ code: "FA_OPTION" });
    }
    for (let n = 0; n < 3; n++) await tiled.attention(q, q, q);
    await expect(tiled.attention(q, q, q, [] as AttentionOptions)).rejects.toMatchObject({ code: "FA_OPTION" });
    q.dispose();
    await expect(tiled.attention(q, q, q)).rejects.toMatchObject({ code: "FA_DISPOSED" });
  });

  test("a call is like the one before only if each tensor is, and the options are as they were given then", async () => {
    const tensor = (shape: number[]): Tensor => make(tiled, noise(48, 1, "x"), shape, "float32");
    const [x, long, wide] = [tensor([1, 2, 3, 8]), tensor([1, 1, 6, 8]), tensor([1, 2, 6, 4])];
    const short = tensor([1, 2, 3, 8]);
    for (let n = 0; n < 3; n++) await tiled.attention(x, short, short);
    // q, k and v that differ by themselves: from what was called before, and from what fits.
    await expect(tiled.attention(x, wide, short)).rejects.toMatchObject({ code: "FA_SHAPE" });
    await expect(tiled.attention(x, short, long)).rejects.toMatchObject({ code: "FA_SHAPE" });
    await expect(tiled.attention(wide, short, short)).rejects.toMatchObject({ code: "FA_SHAPE" });
    const options = { causal: false };
    for (let n = 0; n < 3; n++) await tiled.attention(x, x, x, options);
    options.causal = true;
    const { out } = await tiled.attention(x, x, x, options);
    // The first row sees the first key alone.
    expect([...(await read(out))].slice(0, 8)).toEqual([...(await read(x))].slice(0, 8));
  });

  test("head dims of 256 work", async () => {
    const wide = make(tiled, noise(512, 1, "q"), [1, 2, 256], "float32");
    const { out } = await tiled.attention(wide, wide, wide);
    expect((await read(out)).every((x) => Math.abs(x) <= 1)).toBe(true);
  });
});

describe("linear", () => {
  const x = noise(6, 1, "x");
  const weight = noise(15, 1, "weight");
  const bias = noise(5, 1, "bias");
  /** y[m][n] = sum_k x[m][k] weight[n][k] + bias[n], M = 2, K = 3, N = 5 */
  const y = Float64Array.from({ length: 10 }, (_, at) => {
    const [m, n] = [Math.floor(at / 5), at % 5];
    return [0, 1, 2].reduce((sum, k) => sum + x[m * 3 + k] * weight[n * 3 + k], bias[n]);
  });
  const tensors = () => ({
    x: make(tiled, x, [1, 2, 3], "float32"),
    weight: make(tiled, weight, [5, 3], "float32"),
    bias: make(tiled, bias, [5], "float32"),
  });

  test("is x W^T + bias over the last dimension", async () => {
    const t = tensors();
    const result = await tiled.linear(t.x, t.weight, { bias: t.bias });
    expect(result.shape).toEqual([1, 2, 5]);
    expect(differences(await read(result), y, 1e-6)).toEqual([]);
    const without = await tiled.linear(t.x, t.weight);
    expect(
      differences(
        await read(without),
        y.map((value, n) => value - bias[n % 5]),
        1e-6,
      ),
    ).toEqual([]);
  });

  test("linearSplit gives the columns of linear in pieces", async () => {
    const t = tensors();
    const [left, right] = await tiled.linearSplit(t.x, t.weight, [2, 3], { bias: t.bias });
    expect([left.shape, right.shape]).toEqual([
      [1, 2, 2],
      [1, 2, 3],
    ]);
    const pieces = [...(await read(left)), ...(await read(right))];
    expect(
      differences(
        pieces,
        [0, 1, 5, 6, 2, 3, 4, 7, 8, 9].map((at) => y[at]),
        1e-6,
      ),
    ).toEqual([]);
  });

  test("linearBackward gives dy W, dy^T x and the column sums of dy, from one dy or the pieces of it", async () => {
    const t = tensors();
    const dy = noise(10, 1, "dy");
    const pick = (...at: number[]) => at.map((n) => dy[n]);
    const whole = make(tiled, dy, [1, 2, 5], "float32");
    const left = make(tiled, pick(0, 5), [1, 2, 1], "float32");
    const right = make(tiled, pick(1, 2, 3, 4, 6, 7, 8, 9), [1, 2, 4], "float32");
    const rows = [0, 1];
    const want = {
      dx: x.map((_, at) => {
        const [m, k] = [Math.floor(at / 3), at % 3];
        return [0, 1, 2, 3, 4].reduce((sum, n) => sum + dy[m * 5 + n] * weight[n * 3 + k], 0);
      }),
      dweight: weight.map((_, at) => {
        const [n, k] = [Math.floor(at / 3), at % 3];
        return rows.reduce((sum, m) => sum + dy[m * 5 + n] * x[m * 3 + k], 0);
      }),
      dbias: bias.map((_, n) => rows.reduce((sum, m) => sum + dy[m * 5 + n], 0)),
    };
    for (const given of [whole, [left, right]]) {
      const gradients = await tiled.linearBackward({ x: t.x, weight: t.weight, dy: given });
      expect(gradients).toMatchObject({ dx: { shape: [1, 2, 3] }, dweight: { shape: [5, 3] }, dbias: { shape: [5] } });
      for (const name of ["dx", "dweight", "dbias"] as const) {
        expect({ name, off: differences(await read(gradients[name]), want[name], 1e-6) }).toEqual({ name, off: [] });
      }
    }
  });

  test("of no rows is empty, and its gradients are 0", async () => {
    const t = tensors();
    const none = tiled.empty({ shape: [0, 3] });
    const result = await tiled.linear(none, t.weight);
    expect(result.shape).toEqual([0, 5]);
    const { dx, dweight } = await tiled.linearBackward({ x: none, weight: t.weight, dy: result });
    expect([await read(dx), await read(dweight)]).toEqual([new Float64Array(0), new Float64Array(15)]);
  });
});

describe("the reference back end", () => {
  test("works everywhere, and says what it is", async () => {
    const provider = reference();
    expect(await provider.probe()).toMatchObject({ ok: true, device: "pure TypeScript, float64" });
    expect(tiled.backend).toMatchObject({ name: "reference", device: "pure TypeScript, float64" });
    expect(tiled.backend.kernels.map(({ op }) => op)).toEqual([
      "attention",
      "attentionBackward",
      "linear",
      "linearBackward",
      "cast",
    ]);
  });

  test("measures a roof above nothing", async () => {
    const { gflops, what } = await tiled.roof();
    expect(gflops).toBeGreaterThan(0.01);
    expect(what).toContain("float64");
    await tiled.sync();
  });
});
