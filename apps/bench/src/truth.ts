/** What a case of attention is computed on, and what must come out. Alike for our back ends and for other libraries. */
import { roundTo, type AttentionProblem } from "@fa/core";
import { naiveAttentionBackward, type AttentionData, type AttentionNumbers } from "@fa/core/reference";
import type { AttentionCase } from "./cases.ts";
import { elementsOf, generate, rounded, toElevenBits, type Stream } from "./numbers.ts";
import {
  attentionAtRows,
  FLOAT32,
  halfBounds,
  backwardHeads,
  halfGradientBounds,
  headsToCheck,
  rowsToCheck,
  sumBounds,
  takeRows,
  verdict,
  type Bounds,
  type Verification,
} from "./verify.ts";

/** A call's results, by the names of the contract. */
export type ResultNumbers = Readonly<Record<string, ArrayLike<number>>>;

export interface Truth {
  /** Compares results with the truth: out, and lse if it is given; or dq, dk and dv. */
  check(results: ResultNumbers): Verification;
}

/** The numbers of a case's inputs, as its dtype holds them. */
export interface CaseNumbers extends AttentionData {
  /** For a backward pass. */
  readonly dout: Float64Array;
}

const KEY = [0x62656e63, 0x68] as const;
/** q and k twice as wide, so that the softmax has something to choose. */
const STREAMS: Readonly<Record<"q" | "k" | "v" | "dout" | "bias" | "mask" | "sinks", Stream>> = {
  q: { key: KEY, stream: 0, factor: 2 },
  k: { key: KEY, stream: 1, factor: 2 },
  v: { key: KEY, stream: 2, factor: 1 },
  dout: { key: KEY, stream: 3, factor: 1 },
  bias: { key: KEY, stream: 4, factor: 1 },
  mask: { key: KEY, stream: 5, factor: 1 },
  sinks: { key: KEY, stream: 6, factor: 1 },
};

export function numbersOf({ inputs, options, problem, ramped }: AttentionCase): CaseNumbers {
  const { dtype, B, H, Sq, Skv, D, Dv } = problem;
  const of = (name: keyof typeof STREAMS, shape: readonly number[]): Float64Array => {
    const values = drawn(name, elementsOf(shape));
    return dtype === "float8e4m3" ? rounded(dtype, values) : values;
  };
  const { bias, alibiSlopes, mask, sinks } = options;
  const k = of("k", inputs.k.shape);
  return {
    q: of("q", inputs.q.shape),
    k: ramped ? ramp(k, Skv, D) : k,
    v: of("v", inputs.v.shape),
    dout: problem.op === "attentionBackward" ? of("dout", [B, H, Sq, Dv]) : new Float64Array(),
    bias: bias && of("bias", bias.shape),
    // Three keys in four.
    mask: mask && Uint8Array.from(generate(elementsOf(mask.shape), STREAMS.mask), (x) => Number(x < 0.5)),
    sinks: sinks && of("sinks", sinks.shape),
    // The slopes of the ALiBi paper: 2^-1 to 2^-8 over the heads.
    alibiSlopes: alibiSlopes && Float64Array.from({ length: H }, (_, h) => Math.fround(2 ** ((-8 * (h + 1)) / H))),
  };
}

/** Keys [heads, Skv, D], each 1 to 10 times as large, growing along the sequence. */
function ramp(k: Float64Array, Skv: number, D: number): Float64Array {
  return k.map((x, n) => toElevenBits(x * (1 + (9 * (Math.floor(n / D) % Skv)) / Skv)));
}

/** Numbers of an input of any case, from some place of its stream on. */
export function drawn(name: keyof typeof STREAMS, elements: number, from = 0): Float64Array {
  return generate(elements, STREAMS[name], from);
}

interface Part {
  readonly problem: AttentionProblem;
  readonly data: AttentionData;
}

/** Query heads of a case, each with its keys and values as a problem of its own. */
function* headsAlone({ problem, ramped }: AttentionCase, heads: readonly number[]): Generator<Part> {
  const { H, Hkv, Sq, Skv, D, Dv } = problem;
  let keys: { of: number; k: Float64Array; v: Float64Array } | undefined;
  for (const head of heads) {
    const of = Math.floor(head / (H / Hkv));
    if (keys?.of !== of) {
      const k = drawn("k", Skv * D, of * Skv * D);
      keys = { of, k: ramped ? ramp(k, Skv, D) : k, v: drawn("v", Skv * Dv, of * Skv * Dv) };
    }
    const { k, v } = keys;
    yield { problem: { ...problem, B: 1, H: 1, Hkv: 1 }, data: { q: drawn("q", Sq * D, head * Sq * D), k, v } };
  }
}

/** Computes the truth of a case in float64; takes about a second. */
export function truthOf(item: AttentionCase, data: CaseNumbers): Truth {
  return item.problem.op === "attention" ? truthFrom(forwardAnswer(item, data)) : backwardTruth(item.problem, data);
}

/** What must come out of a forward: data, so that it can be computed elsewhere. */
export interface ForwardAnswer {
  /** The heads that are known, counted over the batch. */
  readonly heads: readonly number[];
  /** The query rows of each of them that are known. */
  readonly rows: readonly number[];
  /** [heads, rows, Dv] */
  readonly out: Float64Array;
  /** [heads, rows] */
  readonly lse: Float64Array;
  readonly bounds: Readonly<Record<"out" | "lse", Bounds>>;
  /** Of the whole result. */
  readonly shape: Readonly<Record<"heads" | "Sq" | "Dv", number>>;
}

/** Half types are held to the error of a naive implementation; that of so many numbers stands for all of them. */
const NAIVE_NUMBERS = 4096;

/** @param data the numbers of the case; made here, no more of them than needed, unless given */
export function forwardAnswer(item: AttentionCase, data?: CaseNumbers): ForwardAnswer {
  const { problem } = item;
  const { dtype, resultDType, B, H, Sq, Dv } = problem;
  const [heads, rows] = [headsToCheck(problem), rowsToCheck(problem)];
  const [exact, naive]: AttentionNumbers[][] = [[], []];
  const whole = (): Part => ({ problem, data: data ?? numbersOf(item) });
  const alone = heads.length < B * H || (rows.length < Sq && data === undefined);
  for (const part of alone ? headsAlone(item, heads) : [whole()]) {
    exact.push(attentionAtRows(part.problem, part.data, rows));
    if (dtype === "float32" || joined(naive, "out").length >= NAIVE_NUMBERS) continue;
    naive.push(attentionAtRows(part.problem, part.data, rows, (x) => roundTo(dtype, x)));
  }
  const [out, lse] = [joined(exact, "out"), joined(exact, "lse")];
  const answer = { heads, rows, out, lse, shape: { heads: B * H, Sq, Dv } };
  if (dtype === "float32") return { ...answer, bounds: { out: FLOAT32, lse: FLOAT32 } };
  const [naiveOut, naiveLse] = [joined(naive, "out"), joined(naive, "lse")];
  const bounds = {
    out: halfBounds(dtype, resultDType, out.subarray(0, naiveOut.length), naiveOut),
    lse: halfBounds(dtype, "float32", lse.subarray(0, naiveLse.length), naiveLse),
  };
  return { ...answer, bounds };
}

function joined(parts: readonly AttentionNumbers[], name: "out" | "lse"): Float64Array {
  const values = new Float64Array(parts.reduce((sum, part) => sum + part[name].length, 0));
  let at = 0;
  for (const part of parts) {
    values.set(part[name], at);
    at += part[name].length;
  }
  return values;
}

/** Takes results with all heads and rows, or with the answer's alone. */
export function truthFrom({ heads, rows, out: wantOut, lse: wantLse, bounds, shape }: ForwardAnswer): Truth {
  const { Sq, Dv } = shape;
  const whichRows = rows.length === Sq ? "all rows" : `${rows.length} of ${Sq} rows a head`;
  const which = heads.length === shape.heads ? whichRows : `${whichRows}, ${heads.length} of ${shape.heads} heads`;
  const compare = (tensor: "out" | "lse", got: ArrayLike<number>, truth: Float64Array, width: number) => ({
    tensor,
    got: partOf(got, shape.heads * Sq * width, (whole) =>
      takeRows(takeRows(whole, shape.heads, Sq * width, heads), Sq, width, rows),
    ),
    truth,
    bounds: bounds[tensor],
  });
  return {
    check({ out = [], lse }) {
      return verdict(`float64 reference, ${which}`, [
        compare("out", out, wantOut, Dv),
        ...(lse === undefined ? [] : [compare("lse", lse, wantLse, 1)]),
      ]);
    },
  };
}

const INPUT_OF = { dq: "q", dk: "k", dv: "v" } as const;

function backwardTruth(problem: AttentionProblem, { dout, ...data }: CaseNumbers): Truth {
  const { dtype, resultDType } = problem;
  const { takes, take, which } = backwardHeads(problem);
  const gradients = naiveAttentionBackward(problem, data, dout, undefined, takes);
  const naive =
    dtype === "float32" ? undefined : naiveAttentionBackward(problem, data, dout, (x) => roundTo(dtype, x), takes);
  return {
    check(results) {
      const comparisons = (["dq", "dk", "dv"] as const).map((tensor) => {
        const truth = take(gradients[tensor]);
        return {
          tensor,
          got: partOf(results[tensor] ?? [], data[INPUT_OF[tensor]].length, take),
          truth,
          bounds:
            naive === undefined || dtype === "float32"
              ? sumBounds(truth)
              : halfGradientBounds(dtype, resultDType, truth, take(naive[tensor])),
        };
      });
      return verdict(`float64 reference, ${which}`, comparisons);
    },
  };
}

/** The part to check of a result of the right length; one of another length as it is, for the verdict to refuse. */
function partOf(got: ArrayLike<number>, length: number, take: (whole: Float64Array) => Float64Array) {
  return got.length === length ? take(Float64Array.from(got)) : got;
}
