import { FLOAT_DTYPES, isFloat, resultDType, type DType, type FloatDType } from "./dtype.ts";
import { checkNames, refuse, show } from "./errors.ts";
import { bandOf, broadcast, visiblePairs, EVERYTHING, type Causal } from "./mask.ts";
import { step, type ScoreProgram, type ScoreStep } from "./score-program.ts";

/** Sizes along q, k and v: batch; query and key/value heads; sequence lengths; head dims of q and k, and of v. */
export interface AttentionSizes {
  readonly B: number;
  readonly H: number;
  readonly Hkv: number;
  readonly Sq: number;
  readonly Skv: number;
  readonly D: number;
  readonly Dv: number;
}

export type Layout = "bhsd" | "bshd";

/** Tile rows Br and columns Bc that the caller asks for; a side left out is the planner's choice. */
export interface BlockSize {
  readonly q?: number | undefined;
  readonly kv?: number | undefined;
}

/** One attention problem, validated: all that a planner or kernel needs to know except where the data lies. */
export interface AttentionProblem extends AttentionSizes {
  readonly op: "attention" | "attentionBackward";
  /** Of q, k and v. */
  readonly dtype: FloatDType;
  /** Of out, dout, dq, dk and dv. */
  readonly resultDType: FloatDType;
  /** 3 when the tensors are [B, S, D], with one head. */
  readonly rank: 3 | 4;
  readonly layout: Layout;
  readonly program: ScoreProgram;
  readonly blockSize: BlockSize;
}

/** y = x W^T + bias, with the N columns of y split over one or more results. Shapes x [M, K], W [N, K], bias [N]. */
export interface LinearProblem {
  readonly op: "linear" | "linearBackward";
  readonly dtype: FloatDType;
  readonly M: number;
  readonly N: number;
  readonly K: number;
  /** Widths of the results; they add up to N. */
  readonly split: readonly number[];
  readonly bias: boolean;
}

/** Rounds `elements` numbers of one float dtype to another. */
export interface CastProblem {
  readonly op: "cast";
  readonly dtype: FloatDType;
  readonly resultDType: FloatDType;
  readonly elements: number;
}

export type Problem = AttentionProblem | LinearProblem | CastProblem;
export type Op = Problem["op"];

/** What validation needs of a tensor. */
export interface TensorSpec {
  readonly shape: readonly number[];
  readonly dtype: DType;
}

/** Options of `attention`, with tensors of any kind `T` (section 3 of the contract). */
export interface AttentionOptionsOf<T> {
  /** Multiplies q.k. Default 1 / sqrt(D). */
  readonly scale?: number | undefined;
  /** `true` and `"bottom-right"`: row i sees j <= i + Skv - Sq. `"top-left"`: j <= i. Default false. */
  readonly causal?: boolean | "bottom-right" | "top-left" | undefined;
  /** `[left, right]`: with i' = i + Skv - Sq, row i sees i' - left <= j <= i' + right; -1 = unbounded. Default [-1, -1]. */
  readonly window?: readonly [number, number] | undefined;
  /** s = softcap * tanh(s / softcap), after scale and before bias. 0 or left out: off. */
  readonly softcap?: number | undefined;
  /** [H] or [B, H], float32 or the dtype of q: adds -slope * abs(i' - j). */
  readonly alibiSlopes?: T | undefined;
  /** [B or 1, H or 1, Sq or 1, Skv or 1], float32 or the dtype of q: added to the scores. */
  readonly bias?: T | undefined;
  /** The same shapes, bool: true = may attend. */
  readonly mask?: T | undefined;
  /** [H], float32 or the dtype of q: a logit per head in the denominator, and in lse, with no value row. */
  readonly sinks?: T | undefined;
  /** Drops probabilities; the same seed drops the same elements on every back end. */
  readonly dropout?: DropoutOptions | undefined;
  /** Of q, k, v and out when they have rank 4. Default "bhsd". */
  readonly layout?: Layout | undefined;
  /** Also return lse [B, H, Sq], float32, natural log. Default false. */
  readonly returnLse?: boolean | undefined;
  /** Tile sizes to force where the back end can: Br and Bc alike, or each. Results agree to rounding. */
  readonly blockSize?: number | BlockSize | undefined;
}

export interface DropoutOptions {
  /** Probability of dropping, 0 to 1. */
  readonly p: number;
  /** A safe integer >= 0, or a bigint below 2^64. */
  readonly seed: number | bigint;
  /** Unsigned 32-bit: give each call of a training step its own. Default 0. */
  readonly offset?: number | undefined;
}

/** Tensors that options carry, by name. */
export const OPTION_TENSORS = ["alibiSlopes", "bias", "mask", "sinks"] as const;

/** Names of the options of `attention`. */
export const ATTENTION_OPTIONS: readonly string[] = [
  "scale",
  "causal",
  "window",
  "softcap",
  ...OPTION_TENSORS,
  "dropout",
  "layout",
  "returnLse",
  "blockSize",
];

/** Head dims that every back end takes. */
export const MAX_HEAD_DIM = 256;

/**
 * Validates an `attention` call and lowers its options to a score program.
 * @throws FaError FA_SHAPE, FA_DTYPE, FA_OPTION or FA_UNSUPPORTED, naming the argument and the rule it breaks
 */
export function attentionProblem(
  inputs: { readonly q: TensorSpec; readonly k: TensorSpec; readonly v: TensorSpec },
  options: AttentionOptionsOf<TensorSpec> = {},
  op: AttentionProblem["op"] = "attention",
): AttentionProblem {
  const { q, k, v } = inputs;
  checkOptions(op, options, ATTENTION_OPTIONS);
  const dtype = checkFloats(op, { q, k, v });
  const layout = checkLayout(op, options.layout);
  const rank = checkRank(op, inputs);
  const sizes = checkSizes(op, inputs, rank, layout);
  return {
    op,
    ...sizes,
    dtype,
    resultDType: resultDType(dtype),
    rank,
    layout,
    program: lower(op, sizes, dtype, options),
    blockSize: checkBlockSize(op, options.blockSize),
  };
}

/** Validates what an `attentionBackward` call gives beyond the forward's inputs: out, lse and dout. */
export function attentionBackwardProblem(
  inputs: Readonly<Record<"q" | "k" | "v" | "out" | "lse" | "dout", TensorSpec>>,
  options: AttentionOptionsOf<TensorSpec> = {},
): AttentionProblem {
  const where = "attentionBackward";
  const problem = attentionProblem(inputs, options, where);
  const fix = "Pass the tensors that attention returned for the same q, k, v and options.";
  const expected = {
    out: { shape: outShape(problem), dtype: problem.resultDType },
    dout: { shape: outShape(problem), dtype: problem.resultDType },
    lse: { shape: lseShape(problem), dtype: "float32" },
  } as const;
  for (const name of ["out", "dout", "lse"] as const) {
    const { shape, dtype } = inputs[name];
    if (!sameShape(shape, expected[name].shape)) {
      refuse("FA_SHAPE", {
        where: `${where}(${name})`,
        rule: `shape must be ${show(expected[name].shape)} for this q, k, v and layout`,
        got: show(shape),
        fix,
      });
    }
    if (dtype !== expected[name].dtype) {
      refuse("FA_DTYPE", {
        where: `${where}(${name})`,
        rule: `dtype must be ${expected[name].dtype}`,
        got: dtype,
        fix,
      });
    }
  }
  return problem;
}

/** Shape of out for a problem: [B, H, Sq, Dv], [B, Sq, H, Dv] or [B, Sq, Dv]. */
export function outShape({ B, H, Sq, Dv, rank, layout }: AttentionProblem): number[] {
  if (rank === 3) return [B, Sq, Dv];
  return layout === "bhsd" ? [B, H, Sq, Dv] : [B, Sq, H, Dv];
}

/** Shape of lse, whatever the layout or rank: [B, H, Sq]. */
export function lseShape({ B, H, Sq }: AttentionProblem): number[] {
  return [B, H, Sq];
}

/** Strides in elements of one of q, k, v, out and their gradients; elements of a row are contiguous. */
export interface RowStrides {
  readonly batch: number;
  readonly head: number;
  readonly row: number;
}

export function rowStrides(layout: Layout, heads: number, rows: number, dim: number): RowStrides {
  const batch = heads * rows * dim;
  return layout === "bhsd" ? { batch, head: rows * dim, row: dim } : { batch, head: dim, row: heads * dim };
}

/** Multiplications and additions of a problem: 2 (D + Dv) a visible pair forward, 2.5 times that backward. */
export function countFlops(problem: Problem): number {
  switch (problem.op) {
    case "linear":
      return 2 * problem.M * problem.N * problem.K;
    case "linearBackward":
      return 4 * problem.M * problem.N * problem.K;
    case "cast":
      return 0;
    default: {
      const { B, H, Sq, Skv, D, Dv, program, op } = problem;
      const band = step(program, "visibility")?.band ?? EVERYTHING;
      return B * H * visiblePairs(band, Sq, Skv) * 2 * (D + Dv) * (op === "attention" ? 1 : 2.5);
    }
  }
}

/** Validates y = x W^T + bias. `split` lists the widths of the results; left out, there is one. */
export function linearProblem(
  where: string,
  { x, weight, bias }: { readonly x: TensorSpec; readonly weight: TensorSpec; readonly bias?: TensorSpec | undefined },
  split?: readonly number[] | null,
  op: LinearProblem["op"] = "linear",
): LinearProblem {
  const dtype = checkFloats(where, { x, weight, ...(bias && { bias }) });
  if (x.shape.length < 1 || weight.shape.length !== 2) {
    refuse("FA_SHAPE", {
      where: `${where}(${x.shape.length < 1 ? "x" : "weight"})`,
      rule: "x must be [..., K] and weight [N, K]",
      got: `x ${show(x.shape)}, weight ${show(weight.shape)}`,
      fix: "Give both at least one dimension of features.",
    });
  }
  const K = x.shape.at(-1)!;
  const [N, weightK] = weight.shape as [number, number];
  if (weightK !== K) {
    refuse("FA_SHAPE", {
      where: `${where}(weight)`,
      rule: "weight must be [N, K] with K the last dimension of x",
      got: `weight ${show(weight.shape)}, x ${show(x.shape)}`,
      fix: "Transpose the weight, or check which layer it belongs to.",
    });
  }
  if (N < 1) {
    refuse("FA_SHAPE", {
      where: `${where}(weight)`,
      rule: "weight must be [N, K] with N at least 1",
      got: show(weight.shape),
      fix: "Give the layer at least one output feature.",
    });
  }
  if (bias && !sameShape(bias.shape, [N])) {
    refuse("FA_SHAPE", {
      where: `${where}(bias)`,
      rule: `bias must be [N] = [${N}]`,
      got: show(bias.shape),
      fix: "Pass one bias per row of weight, or none.",
    });
  }
  const widths = split === undefined ? [N] : split;
  const holds = Array.isArray(widths) && isEach(widths, (width) => Number.isSafeInteger(width) && width > 0);
  if (!holds || widths.reduce((sum, width) => sum + width, 0) !== N) {
    refuse("FA_OPTION", {
      where: `${where}(split)`,
      rule: `split must be positive widths that add up to N = ${N}`,
      got: show(split),
      fix: "Pass one width per result.",
    });
  }
  const M = x.shape.slice(0, -1).reduce((product, size) => product * size, 1);
  return { op, dtype, M, N, K, split: [...widths], bias: bias !== undefined };
}

// ---- validation of tensors

/** All of one float dtype. */
function checkFloats(where: string, tensors: Readonly<Record<string, TensorSpec>>): FloatDType {
  const [first, ...others] = Object.entries(tensors) as [[string, TensorSpec], ...[string, TensorSpec][]];
  const dtype = first[1].dtype;
  if (!isFloat(dtype)) {
    refuse("FA_DTYPE", {
      where: `${where}(${first[0]})`,
      rule: `dtype must be one of ${FLOAT_DTYPES.join(", ")}`,
      got: dtype,
      fix: "Convert the data before making the tensor.",
    });
  }
  for (const [name, tensor] of others) {
    if (tensor.dtype !== dtype) {
      refuse("FA_DTYPE", {
        where: `${where}(${name})`,
        rule: `dtype must be that of ${first[0]}`,
        got: `${name} ${tensor.dtype}, ${first[0]} ${dtype}`,
        fix: `Use fa.cast(${name}, ${show(dtype)}).`,
      });
    }
  }
  return dtype;
}

type QKV = Readonly<Record<"q" | "k" | "v", TensorSpec>>;

function checkRank(where: string, { q, k, v }: QKV): 3 | 4 {
  const rank = q.shape.length;
  if (rank !== 3 && rank !== 4) {
    refuse("FA_SHAPE", {
      where: `${where}(q)`,
      rule: "q must be [B, H, Sq, D], or [B, Sq, D] with one head",
      got: show(q.shape),
      fix: "Reshape q to rank 3 or 4.",
    });
  }
  for (const [name, tensor] of [
    ["k", k],
    ["v", v],
  ] as const) {
    if (tensor.shape.length !== rank) {
      refuse("FA_SHAPE", {
        where: `${where}(${name})`,
        rule: `${name} must have the rank of q`,
        got: `${name} ${show(tensor.shape)}, q ${show(q.shape)}`,
        fix: `Reshape ${name} to rank ${rank}.`,
      });
    }
  }
  return rank;
}

function checkSizes(where: string, { q, k, v }: QKV, rank: 3 | 4, layout: Layout): AttentionSizes {
  const [B, H, Sq, D] = axes(q.shape, rank, layout);
  const [Bk, Hkv, Skv, Dk] = axes(k.shape, rank, layout);
  const [Bv, Hv, Sv, Dv] = axes(v.shape, rank, layout);
  const mustAgree = (name: string, what: string, got: number, other: string, expected: number, fix: string): void => {
    if (got !== expected) {
      refuse("FA_SHAPE", {
        where: `${where}(${name})`,
        rule: `${what} of ${name} must be that of ${other}`,
        got: `${got}, ${other} has ${expected}`,
        fix,
      });
    }
  };
  const layoutHint = rank === 4 ? ` Shapes are read in layout ${show(layout)}.` : "";
  mustAgree("k", "batch size B", Bk, "q", B, `Give q, k and v the same B.${layoutHint}`);
  mustAgree("v", "batch size B", Bv, "q", B, `Give q, k and v the same B.${layoutHint}`);
  mustAgree("k", "head dim D", Dk, "q", D, `q.k needs equal head dims.${layoutHint}`);
  mustAgree("v", "sequence length Skv", Sv, "k", Skv, `Each key needs one value.${layoutHint}`);
  mustAgree("v", "head count Hkv", Hv, "k", Hkv, `Each key head needs one value head.${layoutHint}`);
  for (const [name, what, dim] of [
    ["q", "D", D],
    ["v", "Dv", Dv],
  ] as const) {
    if (dim < 1) {
      refuse("FA_SHAPE", {
        where: `${where}(${name})`,
        rule: `head dim ${what} must be at least 1`,
        got: `${what}=${dim}`,
        fix: "Give each head at least one feature.",
      });
    }
    if (dim > MAX_HEAD_DIM) {
      refuse("FA_UNSUPPORTED", {
        where: `${where}(${name})`,
        rule: `head dim ${what} must be at most ${MAX_HEAD_DIM}`,
        got: `${what}=${dim}`,
        fix: `Split the features over more heads. Head dims from 1 to ${MAX_HEAD_DIM} work on every back end.`,
      });
    }
  }
  if (H < 1 || Hkv < 1) {
    refuse("FA_SHAPE", {
      where: `${where}(${H < 1 ? "q" : "k"})`,
      rule: "there must be at least one head",
      got: `H=${H}, Hkv=${Hkv}`,
      fix: `Check the shape.${layoutHint}`,
    });
  }
  if (H % Hkv !== 0) {
    refuse("FA_SHAPE", {
      where: `${where}(k)`,
      rule: "Hkv must divide H",
      got: `Hkv=${Hkv}, H=${H}`,
      fix: "Repeat K/V heads or pass q with H a multiple of Hkv.",
    });
  }
  return { B, H, Hkv, Sq, Skv, D, Dv };
}

/** [B, heads, rows, dim] of a shape in its layout. */
function axes(shape: readonly number[], rank: 3 | 4, layout: Layout): [number, number, number, number] {
  if (rank === 3) return [shape[0], 1, shape[1], shape[2]];
  const [B, second, third, dim] = shape as [number, number, number, number];
  return layout === "bhsd" ? [B, second, third, dim] : [B, third, second, dim];
}

/** `every` that looks into the holes of a sparse array too. */
function isEach(items: readonly number[], holds: (item: number) => boolean): boolean {
  return Array.from(items).every(holds);
}

export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, axis) => size === b[axis]);
}

// ---- validation of options, and lowering

/**
 * @param argument what the options are called in the message: `attention(dropout)`
 * @throws FaError FA_OPTION unless options are an object that holds known names only
 */
export function checkOptions(
  where: string,
  options: unknown,
  known: readonly string[],
  argument: string = "options",
): asserts options is object {
  // Arrays, maps and typed arrays hold no named options: taken for {}, they would be ignored.
  if (
    typeof options !== "object" ||
    options === null ||
    Object.prototype.toString.call(options) !== "[object Object]"
  ) {
    refuse("FA_OPTION", {
      where: `${where}(${argument})`,
      rule: `${argument} must be an object`,
      got: show(options),
      fix: `Pass { ${known[0]}: ... }; it may hold ${known.join(", ")}.`,
    });
  }
  checkNames(`${where}(${argument})`, options, known, argument === "inputs" ? "tensor" : "option");
}

/** One option's rule: throws FA_OPTION unless it holds. */
export function mustHold(
  holds: boolean,
  where: string,
  name: string,
  rule: string,
  value: unknown,
  fix: string,
): asserts holds {
  if (!holds)
    refuse("FA_OPTION", { where: `${where}(${name})`, rule: `${name} must be ${rule}`, got: show(value), fix });
}

function checkLayout(where: string, layout: unknown): Layout {
  if (layout === undefined) return "bhsd";
  mustHold(layout === "bhsd" || layout === "bshd", where, "layout", `"bhsd" or "bshd"`, layout, "Use one of the two.");
  return layout;
}

function lower(
  where: string,
  sizes: AttentionSizes,
  dtype: FloatDType,
  options: AttentionOptionsOf<TensorSpec>,
): ScoreProgram {
  const { B, H, Sq, Skv, D } = sizes;
  const program: ScoreStep[] = [];

  const { scale = 1 / Math.sqrt(D) } = options;
  mustHold(Number.isFinite(scale), where, "scale", "a finite number", scale, "Leave it out for 1 / sqrt(D).");
  program.push({ kind: "scale", scale });

  const { softcap = 0 } = options;
  mustHold(
    Number.isFinite(softcap) && softcap >= 0,
    where,
    "softcap",
    "a finite number above 0, or 0 for off",
    softcap,
    "Typical values are 20 to 50.",
  );
  if (softcap > 0) program.push({ kind: "softcap", cap: softcap });

  if (options.bias !== undefined) {
    const operandDType = checkOperandDType(where, "bias", options.bias, dtype);
    program.push({ kind: "bias", dtype: operandDType, operand: checkBroadcast(where, "bias", options.bias, sizes) });
  }

  if (options.alibiSlopes !== undefined) {
    const { shape } = options.alibiSlopes;
    if (!sameShape(shape, [H]) && !sameShape(shape, [B, H])) {
      refuse("FA_SHAPE", {
        where: `${where}(alibiSlopes)`,
        rule: `alibiSlopes must be [H] = [${H}] or [B, H] = [${B}, ${H}]`,
        got: show(shape),
        fix: "Pass one slope per query head.",
      });
    }
    const operandDType = checkOperandDType(where, "alibiSlopes", options.alibiSlopes, dtype);
    program.push({ kind: "alibi", dtype: operandDType, perBatch: shape.length === 2 });
  }

  const causal = checkCausal(where, options.causal);
  const band = bandOf(Sq, Skv, causal, checkWindow(where, options.window));
  const mask = options.mask && checkMask(where, options.mask, sizes);
  if (mask || band.lo !== -Infinity || band.hi !== Infinity) program.push({ kind: "visibility", band, mask });

  if (options.sinks !== undefined) {
    if (!sameShape(options.sinks.shape, [H])) {
      refuse("FA_SHAPE", {
        where: `${where}(sinks)`,
        rule: `sinks must be [H] = [${H}]`,
        got: show(options.sinks.shape),
        fix: "Pass one logit per query head.",
      });
    }
    program.push({ kind: "sinks", dtype: checkOperandDType(where, "sinks", options.sinks, dtype) });
  }

  const dropout = checkDropout(where, options.dropout);
  if (dropout && dropout.p > 0) program.push({ kind: "dropout", ...dropout });

  const { returnLse } = options;
  mustHold(
    returnLse === undefined || typeof returnLse === "boolean",
    where,
    "returnLse",
    "true or false",
    returnLse,
    "Leave it out for false.",
  );
  return program;
}

function checkCausal(where: string, causal: unknown): Causal {
  if (causal === undefined || causal === false) return false;
  if (causal === true) return "bottom-right";
  mustHold(
    causal === "bottom-right" || causal === "top-left",
    where,
    "causal",
    `true, false, "bottom-right" or "top-left"`,
    causal,
    `true means "bottom-right": the last query sees all keys.`,
  );
  return causal;
}

function checkWindow(where: string, window: unknown): readonly [number, number] {
  if (window === undefined) return [-1, -1];
  const holds =
    Array.isArray(window) && window.length === 2 && isEach(window, (side) => Number.isSafeInteger(side) && side >= -1);
  mustHold(
    holds,
    where,
    "window",
    "[left, right], integers from 0, or -1 for unbounded",
    window,
    "For the last 256 keys of causal attention pass [255, 0].",
  );
  return [window[0], window[1]];
}

function checkMask(where: string, mask: TensorSpec, sizes: AttentionSizes) {
  if (mask.dtype !== "bool") {
    refuse("FA_DTYPE", {
      where: `${where}(mask)`,
      rule: "mask must be bool, true = may attend",
      got: mask.dtype,
      fix: "Make it from a Uint8Array of 0 and 1; numbers to add to the scores go into bias.",
    });
  }
  return checkBroadcast(where, "mask", mask, sizes);
}

function checkBroadcast(where: string, name: string, { shape }: TensorSpec, { B, H, Sq, Skv }: AttentionSizes) {
  const full = [B, H, Sq, Skv];
  if (shape.length !== 4 || !shape.every((size, axis) => size === full[axis] || size === 1)) {
    refuse("FA_SHAPE", {
      where: `${where}(${name})`,
      rule: `${name} must be [B or 1, H or 1, Sq or 1, Skv or 1] with [B, H, Sq, Skv] = ${show(full)}`,
      got: show(shape),
      fix: "Reshape it to rank 4, with 1 along each dimension that repeats.",
    });
  }
  return broadcast(shape as unknown as readonly [number, number, number, number]);
}

function checkOperandDType(where: string, name: string, { dtype }: TensorSpec, ofQ: FloatDType): FloatDType {
  if (dtype !== "float32" && dtype !== ofQ) {
    refuse("FA_DTYPE", {
      where: `${where}(${name})`,
      rule: `${name} must be float32 or the dtype of q, ${ofQ}`,
      got: dtype,
      fix: `Use fa.cast(${name}, "float32").`,
    });
  }
  return dtype;
}

function checkDropout(where: string, dropout: unknown) {
  if (dropout === undefined) return undefined;
  checkOptions(where, dropout, ["p", "seed", "offset"], "dropout");
  const { p, seed, offset = 0 } = dropout as DropoutOptions;
  mustHold(
    typeof p === "number" && p >= 0 && p <= 1,
    where,
    "dropout.p",
    "a number from 0 to 1",
    p,
    "0.1 drops a tenth of the probabilities.",
  );
  const seedHolds = typeof seed === "bigint" ? seed >= 0n && seed < 1n << 64n : Number.isSafeInteger(seed) && seed >= 0;
  mustHold(
    seedHolds,
    where,
    "dropout.seed",
    "an integer from 0 to 2^53 - 1, or a bigint below 2^64",
    seed,
    "The same seed drops the same elements everywhere.",
  );
  mustHold(
    Number.isInteger(offset) && offset >= 0 && offset < 2 ** 32,
    where,
    "dropout.offset",
    "an integer from 0 to 2^32 - 1",
    offset,
    "Leave it out for 0.",
  );
  const bits = BigInt(seed);
  return { p, seedLow: Number(bits & 0xffffffffn), seedHigh: Number(bits >> 32n), offset };
}

function checkBlockSize(where: string, blockSize: unknown): BlockSize {
  const isSize = (size: unknown): boolean => Number.isSafeInteger(size) && (size as number) >= 1;
  if (blockSize === undefined) return {};
  const fix = "Leave it out for the planner's choice.";
  if (typeof blockSize !== "object" || blockSize === null) {
    mustHold(isSize(blockSize), where, "blockSize", "an integer from 1, or { q, kv }", blockSize, fix);
    return { q: blockSize as number, kv: blockSize as number };
  }
  checkOptions(where, blockSize, ["q", "kv"], "blockSize");
  const { q, kv } = blockSize as BlockSize;
  mustHold(q === undefined || isSize(q), where, "blockSize.q", "an integer from 1", q, fix);
  mustHold(kv === undefined || isSize(kv), where, "blockSize.kv", "an integer from 1", kv, fix);
  return { q, kv };
}
