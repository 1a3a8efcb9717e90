/** What a case of attention is computed on, and what must come out. Alike for our back ends and for other libraries. */
import { roundTo, type AttentionProblem } from "@fa/core";
import { naiveAttentionBackward, type AttentionData } from "@fa/core/reference";
import type { AttentionCase } from "./cases.ts";
import { elementsOf, generate, rounded, toElevenBits, type Stream } from "./numbers.ts";
import {
  attentionAtRows,
  FLOAT32,
  halfBounds,
  headsAlone,
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
const STREAMS: Readonly<Record<"q" | "k" | "v" | "dout" | "bias", Stream>> = {
  q: { key: KEY, stream: 0, factor: 2 },
  k: { key: KEY, stream: 1, factor: 2 },
  v: { key: KEY, stream: 2, factor: 1 },
  dout: { key: KEY, stream: 3, factor: 1 },
  bias: { key: KEY, stream: 4, factor: 1 },
};

export function numbersOf({ inputs, options, problem, ramped }: AttentionCase): CaseNumbers {
  const { dtype, B, H, Sq, Skv, D, Dv } = problem;
  const of = (name: keyof typeof STREAMS, shape: readonly number[]): Float64Array => {
    const values = generate(elementsOf(shape), STREAMS[name]);
    return dtype === "float8e4m3" ? rounded(dtype, values) : values;
  };
  const { bias, alibiSlopes } = options;
  const k = of("k", inputs.k.shape);
  if (ramped) k.forEach((x, n) => (k[n] = toElevenBits(x * (1 + (9 * (Math.floor(n / D) % Skv)) / Skv))));
  return {
    q: of("q", inputs.q.shape),
    k,
    v: of("v", inputs.v.shape),
    dout: problem.op === "attentionBackward" ? of("dout", [B, H, Sq, Dv]) : new Float64Array(),
    bias: bias && of("bias", bias.shape),
    // The slopes of the ALiBi paper: 2^-1 to 2^-8 over the heads.
    alibiSlopes: alibiSlopes && Float64Array.from({ length: H }, (_, h) => Math.fround(2 ** ((-8 * (h + 1)) / H))),
  };
}

/** Computes the truth of a case in float64; takes about a second. */
export function truthOf(item: AttentionCase, data: CaseNumbers): Truth {
  return item.problem.op === "attention" ? truthFrom(forwardAnswer(item, data)) : backwardTruth(item.problem, data);
}

/** What must come out of a forward: data, so that it can be computed elsewhere. */
export interface ForwardAnswer {
  /** The query rows of each head that are known. */
  readonly rows: readonly number[];
  /** [heads, rows, Dv] */
  readonly out: Float64Array;
  /** [heads, rows] */
  readonly lse: Float64Array;
  readonly bounds: Readonly<Record<"out" | "lse", Bounds>>;
  readonly heads: number;
  readonly Sq: number;
  readonly Dv: number;
}

export function forwardAnswer({ problem }: AttentionCase, data: CaseNumbers): ForwardAnswer {
  const { dtype, resultDType, B, H, Sq, Dv } = problem;
  const rows = rowsToCheck(problem);
  const { out, lse } = attentionAtRows(problem, data, rows);
  const answer = { rows, out, lse: Float64Array.from(lse), heads: B * H, Sq, Dv };
  if (dtype === "float32") return { ...answer, bounds: { out: FLOAT32, lse: FLOAT32 } };
  const naive = attentionAtRows(problem, data, rows, (x) => roundTo(dtype, x));
  const bounds = {
    out: halfBounds(dtype, resultDType, out, naive.out),
    lse: halfBounds(dtype, "float32", answer.lse, Float64Array.from(naive.lse)),
  };
  return { ...answer, bounds };
}

/** Takes results with all rows, or with the answer's alone. */
export function truthFrom({ rows, out: wantOut, lse: wantLse, bounds, heads, Sq, Dv }: ForwardAnswer): Truth {
  const which = rows.length === Sq ? "all rows" : `${rows.length} of ${Sq} rows a head`;
  const compare = (tensor: "out" | "lse", got: ArrayLike<number>, truth: Float64Array, width: number) => ({
    tensor,
    got: partOf(got, heads * Sq * width, (whole) => takeRows(whole, Sq, width, rows)),
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

function backwardTruth(problem: AttentionProblem, data: CaseNumbers): Truth {
  const { alone, take, which } = headsAlone(problem);
  const { q, k, v, dout, ...operands } = data;
  const some = { q: take(q), k: take(k), v: take(v), ...operands };
  const gradients = naiveAttentionBackward(alone, some, take(dout));
  return {
    check(results) {
      const comparisons = (["dq", "dk", "dv"] as const).map((tensor) => ({
        tensor,
        got: partOf(results[tensor] ?? [], data[INPUT_OF[tensor]].length, take),
        truth: gradients[tensor],
        bounds: sumBounds(gradients[tensor]),
      }));
      return verdict(`float64 reference, ${which}`, comparisons);
    },
  };
}

/** The part to check of a result of the right length; one of another length as it is, for the verdict to refuse. */
function partOf(got: ArrayLike<number>, length: number, take: (whole: Float64Array) => Float64Array) {
  return got.length === length ? take(Float64Array.from(got)) : got;
}
