import { describe, expect, test } from "vitest";
import {
  attentionProblem,
  attentionBackwardProblem,
  countFlops,
  linearProblem,
  lseShape,
  outShape,
  rowStrides,
  type AttentionOptionsOf,
  type TensorSpec,
} from "../src/problem.ts";
import { describeProgram } from "../src/score-program.ts";

const spec = (shape: readonly number[], dtype: TensorSpec["dtype"] = "float32"): TensorSpec => ({ shape, dtype });
const inputs = { q: spec([2, 4, 3, 8]), k: spec([2, 2, 5, 8]), v: spec([2, 2, 5, 6]) };
const lowered = (options: AttentionOptionsOf<TensorSpec>) => attentionProblem(inputs, options).program;

describe("attentionProblem reads the sizes", () => {
  test("[B, H, S, D]", () => {
    expect(attentionProblem(inputs)).toMatchObject({
      op: "attention",
      B: 2,
      H: 4,
      Hkv: 2,
      Sq: 3,
      Skv: 5,
      D: 8,
      Dv: 6,
      dtype: "float32",
      resultDType: "float32",
      rank: 4,
      layout: "bhsd",
      blockSize: {},
    });
  });

  test("[B, S, H, D] with layout bshd", () => {
    const bshd = { q: spec([2, 3, 4, 8]), k: spec([2, 5, 2, 8]), v: spec([2, 5, 2, 6]) };
    const problem = attentionProblem(bshd, { layout: "bshd" });
    expect(problem).toMatchObject({ B: 2, H: 4, Hkv: 2, Sq: 3, Skv: 5, D: 8, Dv: 6 });
    expect(outShape(problem)).toEqual([2, 3, 4, 6]);
    expect(lseShape(problem)).toEqual([2, 4, 3]);
  });

  test("[B, S, D] has one head, and so has its lse", () => {
    const problem = attentionProblem({ q: spec([2, 3, 8]), k: spec([2, 5, 8]), v: spec([2, 5, 6]) });
    expect(problem).toMatchObject({ rank: 3, B: 2, H: 1, Hkv: 1, Sq: 3, Skv: 5 });
    expect(outShape(problem)).toEqual([2, 3, 6]);
    expect(lseShape(problem)).toEqual([2, 1, 3]);
  });

  test.each([
    ["B = 0", [0, 2, 3, 4], [0, 2, 5, 4]],
    ["Sq = 0", [1, 2, 0, 4], [1, 2, 5, 4]],
    ["Skv = 0", [1, 2, 3, 4], [1, 2, 0, 4]],
    ["D = 256", [1, 1, 1, 256], [1, 1, 1, 256]],
    ["multi-query", [1, 8, 1, 4], [1, 1, 1, 4]],
  ])("%s is a problem like any other", (_, q, kv) => {
    expect(attentionProblem({ q: spec(q), k: spec(kv), v: spec(kv) })).toMatchObject({ B: q[0], Sq: q[2], Skv: kv[2] });
  });

  test("float8 inputs give bfloat16 results", () => {
    const float8 = spec([1, 1, 1, 4], "float8e4m3");
    expect(attentionProblem({ q: float8, k: float8, v: float8 })).toMatchObject({
      dtype: "float8e4m3",
      resultDType: "bfloat16",
    });
  });

  test("the backward's out, dout and lse are those of the forward", () => {
    const all = { ...inputs, out: spec([2, 4, 3, 6]), dout: spec([2, 4, 3, 6]), lse: spec([2, 4, 3]) };
    expect(attentionBackwardProblem(all)).toEqual({ ...attentionProblem(inputs), op: "attentionBackward" });
  });
});

describe("options lower to one ordered score program", () => {
  const everything = {
    dropout: { p: 0.25, seed: 1 },
    sinks: spec([4]),
    mask: spec([2, 1, 1, 5], "bool"),
    causal: true,
    alibiSlopes: spec([2, 4]),
    bias: spec([1, 4, 3, 5]),
    softcap: 30,
    scale: 0.5,
  } as const;

  test("in the contract's order, whatever order they are given in", () => {
    const names = ["scale", "softcap", "bias", "alibi", "visibility", "sinks", "dropout"];
    expect(lowered(everything).map(({ kind }) => kind)).toEqual(names);
    expect(lowered(Object.fromEntries(Object.entries(everything).toReversed()))).toEqual(lowered(everything));
  });

  test("as people read it", () => {
    expect(describeProgram(lowered(everything))).toBe(
      "scale(0.5), softcap(30), bias[1, 4, 3, 5], alibi[B, H], visibility(j <= i + 2, mask[2, 1, 1, 5]), sinks[H], dropout(0.25)",
    );
  });

  test.each<[string, AttentionOptionsOf<TensorSpec>, string]>([
    ["nothing: scale is 1 / sqrt(D)", {}, "scale(0.353553)"],
    [
      "options that are off",
      { softcap: 0, causal: false, window: [-1, -1], dropout: { p: 0, seed: 1 } },
      "scale(0.353553)",
    ],
    ["options that are undefined", { scale: undefined, bias: undefined, dropout: undefined }, "scale(0.353553)"],
    ["causal", { causal: true }, "scale(0.353553), visibility(j <= i + 2)"],
    ["causal, bottom-right", { causal: "bottom-right" }, "scale(0.353553), visibility(j <= i + 2)"],
    ["causal, top-left", { causal: "top-left" }, "scale(0.353553), visibility(j <= i)"],
    ["a window", { window: [1, 0] }, "scale(0.353553), visibility(i + 1 <= j <= i + 2)"],
    ["a window open to the right", { window: [4, -1] }, "scale(0.353553), visibility(j >= i - 2)"],
    ["a mask alone", { mask: spec([1, 1, 3, 5], "bool") }, "scale(0.353553), visibility(mask[1, 1, 3, 5])"],
    ["slopes without a batch", { alibiSlopes: spec([4]) }, "scale(0.353553), alibi[H]"],
    ["scale 0 and a negative scale", { scale: -0.25 }, "scale(-0.25)"],
  ])("%s", (_, options, program) => {
    expect(describeProgram(lowered(options))).toBe(program);
  });

  test("a bigint seed and a number seed of the same value are the same key, of two 32-bit words", () => {
    const key = (seed: number | bigint) => lowered({ dropout: { p: 0.5, seed } }).at(-1);
    expect(key(2 ** 40 + 5)).toEqual({ kind: "dropout", p: 0.5, seedLow: 5, seedHigh: 256, offset: 0 });
    expect(key(2n ** 40n + 5n)).toEqual(key(2 ** 40 + 5));
    expect(key(2n ** 64n - 1n)).toMatchObject({ seedLow: 2 ** 32 - 1, seedHigh: 2 ** 32 - 1 });
  });

  test("operands may be float32 beside half-precision q", () => {
    const half = (shape: readonly number[]) => spec(shape, "float16");
    const tensors = { q: half([1, 2, 3, 4]), k: half([1, 2, 3, 4]), v: half([1, 2, 3, 4]) };
    const { program } = attentionProblem(tensors, { bias: spec([1, 1, 3, 3]), sinks: half([2]) });
    expect(program).toMatchObject([{}, { kind: "bias", dtype: "float32" }, { kind: "sinks", dtype: "float16" }]);
  });

  test("blockSize: one number for both sides, or each, or one of them", () => {
    expect(attentionProblem(inputs, { blockSize: 16 }).blockSize).toEqual({ q: 16, kv: 16 });
    expect(attentionProblem(inputs, { blockSize: { q: 16, kv: 32 } }).blockSize).toEqual({ q: 16, kv: 32 });
    expect(attentionProblem(inputs, { blockSize: { kv: 32 } }).blockSize).toEqual({ q: undefined, kv: 32 });
  });
});

describe("linearProblem", () => {
  test("the leading dimensions of x are its rows", () => {
    expect(linearProblem("linear", { x: spec([2, 5, 3]), weight: spec([7, 3]), bias: spec([7]) })).toEqual({
      op: "linear",
      dtype: "float32",
      M: 10,
      N: 7,
      K: 3,
      split: [7],
      bias: true,
    });
    expect(linearProblem("linear", { x: spec([3]), weight: spec([7, 3]) })).toMatchObject({ M: 1, bias: false });
    expect(linearProblem("linear", { x: spec([0, 3]), weight: spec([7, 3]) }, [3, 4])).toMatchObject({
      M: 0,
      split: [3, 4],
    });
  });
});

describe("rowStrides", () => {
  test("bhsd and bshd put rows of the same tensor at their places", () => {
    expect(rowStrides("bhsd", 4, 3, 8)).toEqual({ batch: 96, head: 24, row: 8 });
    expect(rowStrides("bshd", 4, 3, 8)).toEqual({ batch: 96, head: 8, row: 32 });
  });
});

describe("countFlops", () => {
  test("forward counts a multiplication and an addition for each feature of a visible pair, backward 2.5 times that", () => {
    const full = attentionProblem(inputs);
    expect(countFlops(full)).toBe(2 * 4 * (3 * 5) * 2 * (8 + 6));
    expect(countFlops({ ...full, op: "attentionBackward" })).toBe(2.5 * countFlops(full));
    expect(countFlops(attentionProblem(inputs, { causal: true }))).toBe(2 * 4 * (3 + 4 + 5) * 2 * (8 + 6));
  });

  test("linear counts 2 M N K, its backward twice that, a cast none", () => {
    const linear = linearProblem("linear", { x: spec([10, 3]), weight: spec([7, 3]) });
    expect(countFlops(linear)).toBe(2 * 10 * 7 * 3);
    expect(countFlops({ ...linear, op: "linearBackward" })).toBe(4 * 10 * 7 * 3);
    expect(countFlops({ op: "cast", dtype: "float32", resultDType: "float16", elements: 9 })).toBe(0);
  });
});
