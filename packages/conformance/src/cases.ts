import { resultDType, roundTo, type AttentionSizes, type FloatDType, type Layout } from "@fa/core";
import { naiveAttention, naiveAttentionBackward } from "@fa/core/reference";
import { agree, type Check } from "./check.ts";
import { Random } from "./random.ts";
import {
  dataOf,
  problemOf,
  type Backward,
  type Forward,
  type Inputs,
  type Numbers,
  type Options,
  type Subject,
} from "./subject.ts";

/** One problem as data: what to compute, not how. Inputs follow from the name. */
export interface Case {
  readonly name: string;
  readonly capability: string;
  readonly sizes: AttentionSizes;
  readonly options: Omit<Options, "bias" | "mask" | "alibiSlopes" | "sinks">;
  readonly dtype: FloatDType;
  /** 3: tensors [B, S, D]. */
  readonly rank?: 3 | 4 | undefined;
  /** Dimensions of bias and mask that are 1, by letters of "bhij"; left out: no such tensor. */
  readonly bias?: string | undefined;
  readonly mask?: { readonly shared: string; readonly density: number } | undefined;
  readonly alibi?: "H" | "BH" | undefined;
  readonly sinks?: boolean | undefined;
  readonly backward: boolean;
}

type CaseOf = Partial<Omit<Case, "sizes">> & { readonly sizes?: Partial<AttentionSizes> };

const SIZES: AttentionSizes = { B: 2, H: 2, Hkv: 2, Sq: 33, Skv: 70, D: 24, Dv: 24 };

function sized({ sizes, ...rest }: CaseOf, capability: string): Case {
  const { D = SIZES.D, H = SIZES.H } = sizes ?? {};
  const full = { ...SIZES, Hkv: H, Dv: D, ...sizes };
  const { B, Sq, Skv, Dv, Hkv } = full;
  const options = rest.options ?? {};
  const described = [
    `B=${B} H=${full.H}${Hkv === full.H ? "" : `/${Hkv}`} S=${Sq}x${Skv} D=${full.D}${Dv === full.D ? "" : `/${Dv}`}`,
    ...Object.entries(options).map(([key, value]) => `${key}=${show(value)}`),
    ...(["bias", "mask", "alibi", "sinks"] as const).flatMap((key) => (rest[key] ? [`${key}=${show(rest[key])}`] : [])),
    ...(rest.rank === 3 ? ["rank 3"] : []),
  ].join(" ");
  const dtype = rest.dtype ?? "float32";
  return {
    capability,
    backward: true,
    ...rest,
    name: rest.name ?? `${dtype} ${described}`,
    options,
    dtype,
    sizes: full,
  };
}

/** JSON without quotes, bigints as they are written. */
function show(value: unknown): string {
  return JSON.stringify(value, (_, part: unknown) => (typeof part === "bigint" ? `${part}n` : part)).replaceAll(
    '"',
    "",
  );
}

/** Head dims that break kernels: primes, one above and below vector widths, the largest. */
const HEAD_DIMS = [1, 3, 8, 24, 40, 59, 64, 72, 80, 96, 111, 128, 160, 192, 256];
/** Lengths that break kernels: one off a tile, empty, long and thin. */
const LENGTHS: readonly (readonly [number, number])[] = [
  [0, 5],
  [5, 0],
  [1, 1],
  [1, 1023],
  [3, 799],
  [17, 19],
  [63, 64],
  [64, 65],
  [113, 203],
  [128, 217],
  [239, 1],
  [799, 3],
];
const DROPOUT = { p: 0.3, seed: 20240611 };
const HALVES: readonly FloatDType[] = ["float16", "bfloat16"];

/** Every generated case. Truth is the definition in float64 on the inputs as stored. */
export const CASES: readonly Case[] = [
  ...HEAD_DIMS.map((D) => sized({ sizes: { B: 1, Sq: 17, Skv: 35, D } }, "head-dim")),
  ...[
    { D: 64, Dv: 1 },
    { D: 1, Dv: 64 },
    { D: 59, Dv: 256 },
    { D: 192, Dv: 128 },
  ].map((sizes) => sized({ sizes: { B: 1, Sq: 9, Skv: 21, ...sizes }, options: { causal: true } }, "head-dim")),
  ...LENGTHS.flatMap(([Sq, Skv]) =>
    ([false, "bottom-right", "top-left"] as const).map((causal) =>
      sized({ sizes: { B: 1, Sq, Skv, D: 8 }, options: { causal } }, causal ? "causal" : "lengths"),
    ),
  ),
  sized({ sizes: { B: 1, H: 1, Sq: 1023, Skv: 1024, D: 16 }, options: { causal: true }, backward: false }, "causal"),
  sized({ sizes: { B: 1, H: 1, Sq: 1024, Skv: 1023, D: 16 }, backward: false }, "lengths"),
  sized({ sizes: { B: 0 } }, "lengths"),
  sized({ sizes: { B: 3, H: 5, Sq: 7, Skv: 9, D: 5 } }, "lengths"),
  ...[
    [0, 0],
    [16, 0],
    [7, 9],
    [-1, 5],
    [20, -1],
    [300, 300],
  ].map((window) => sized({ options: { window: window as [number, number] } }, "window")),
  sized({ sizes: { Sq: 130, Skv: 130, B: 1, D: 8 }, options: { window: [9, -1], causal: true } }, "window"),
  sized({ sizes: { Sq: 70, Skv: 33, B: 1 }, options: { window: [12, 3], causal: "top-left" } }, "window"),
  ...[1, 5, 50].map((softcap) => sized({ options: { softcap, causal: softcap === 50 } }, "softcap")),
  sized({ alibi: "H", options: { causal: true } }, "alibi"),
  sized({ alibi: "BH", sizes: { Sq: 50, Skv: 20 } }, "alibi"),
  ...["", "b", "h", "bh", "bhi", "bhj", "i", "j", "bhij"].map((bias) =>
    sized({ bias: bias || "none", sizes: { B: 2, Sq: 19, Skv: 37, D: 8 } }, "bias"),
  ),
  sized({ bias: "b", options: { causal: true, softcap: 4 } }, "bias"),
  ...["none", "b", "bh", "bhi", "i"].map((shared) =>
    sized({ mask: { shared, density: 0.6 }, sizes: { D: 8 } }, "mask"),
  ),
  sized({ mask: { shared: "bh", density: 0.02 } }, "mask"),
  sized({ mask: { shared: "bh", density: 0.5 }, options: { causal: true, window: [30, -1] } }, "mask"),
  sized({ sinks: true }, "sinks"),
  sized({ sinks: true, mask: { shared: "bhj", density: 0.5 }, options: { causal: true } }, "sinks"),
  sized({ options: { dropout: DROPOUT } }, "dropout"),
  sized(
    {
      options: { dropout: { p: 0.5, seed: 2n ** 63n + 5n, offset: 3 }, causal: true },
      sizes: { H: 4, Hkv: 2 },
    },
    "dropout",
  ),
  sized({ options: { dropout: { p: 0.9, seed: 1 } }, sizes: { Sq: 5, Skv: 300 } }, "dropout"),
  sized({ sizes: { H: 6, Hkv: 2 } }, "gqa"),
  sized({ sizes: { H: 4, Hkv: 1, Sq: 1, Skv: 333 }, options: { causal: true } }, "gqa"),
  sized({ sizes: { H: 8, Hkv: 4, B: 1 }, options: { layout: "bshd", causal: true } }, "gqa"),
  sized({ options: { layout: "bshd" } }, "layout"),
  sized({ options: { layout: "bshd", causal: true }, bias: "b", sizes: { D: 8, Dv: 24 } }, "layout"),
  sized({ rank: 3, sizes: { H: 1 }, options: { causal: true } }, "rank-3"),
  sized(
    { rank: 3, sizes: { H: 1, Dv: 7 }, options: { layout: "bshd" as Layout }, mask: { shared: "b", density: 0.5 } },
    "rank-3",
  ),
  ...[0, -0.7, 3].map((scale) => sized({ options: { scale } }, "scale")),
  ...[1, 2, 3, 5, 16, 48, 256].map((blockSize) =>
    sized({ options: { blockSize, causal: true }, sizes: { B: 1, Sq: 21, Skv: 37 } }, "block-size"),
  ),
  sized(
    { options: { blockSize: { q: 7, kv: 33 }, dropout: DROPOUT }, bias: "h", mask: { shared: "b", density: 0.7 } },
    "block-size",
  ),
  ...HALVES.flatMap((dtype) => [
    sized({ dtype }, dtype),
    sized({ dtype, options: { causal: true }, sizes: { Sq: 113, Skv: 203, B: 1, D: 64 } }, dtype),
    sized({ dtype, sizes: { D: 59, Dv: 111, H: 4, Hkv: 2 } }, dtype),
    sized({ dtype, options: { layout: "bshd", window: [20, 4] }, alibi: "H" }, dtype),
    sized({ dtype, options: { softcap: 10 }, bias: "b", sinks: true }, dtype),
    sized({ dtype, options: { dropout: DROPOUT }, mask: { shared: "h", density: 0.7 } }, dtype),
    sized({ dtype, sizes: { Sq: 1, Skv: 1023, B: 1 } }, dtype),
  ]),
  sized({ dtype: "float8e4m3" }, "float8e4m3"),
  sized({ dtype: "float8e4m3", options: { causal: true }, sizes: { D: 64, H: 4, Hkv: 2 } }, "float8e4m3"),
];

/** Inputs of a case: values that every dtype but float8 holds exactly, so that all dtypes start from the same numbers. */
export function inputsOf(c: Case): { inputs: Inputs; options: Options; dout: Numbers } {
  const random = new Random(c.name);
  const { B, H, Hkv, Sq, Skv, D, Dv } = c.sizes;
  const shape = (heads: number, rows: number, dim: number): number[] => {
    if (c.rank === 3) return [B, rows, dim];
    return c.options.layout === "bshd" ? [B, rows, heads, dim] : [B, heads, rows, dim];
  };
  const inputs = {
    q: random.numbers(shape(H, Sq, D)),
    k: random.numbers(shape(Hkv, Skv, D)),
    v: random.numbers(shape(Hkv, Skv, Dv)),
  };
  const dout = random.numbers(shape(H, Sq, Dv));
  const broadcast = (shared: string): number[] =>
    [B, H, Sq, Skv].map((size, axis) => (shared.includes("bhij"[axis]) && shared !== "none" ? 1 : size));
  const options: Options = {
    ...c.options,
    ...(c.bias && { bias: random.numbers(broadcast(c.bias)) }),
    ...(c.mask && { mask: random.mask(broadcast(c.mask.shared), c.mask.density) }),
    ...(c.alibi && { alibiSlopes: random.numbers(c.alibi === "H" ? [H] : [B, H], () => random.integer(16) / 32) }),
    ...(c.sinks && { sinks: random.numbers([H]) }),
  };
  return { inputs, options, dout };
}

/** A case as a check: forward, and where it says so backward, against the definition. */
export function caseCheck(c: Case): Check {
  return { name: c.name, capability: c.capability, run: (subject) => runCase(subject, c) };
}

async function runCase(subject: Subject, c: Case): Promise<void> {
  const { inputs, options, dout } = inputsOf(c);
  const { dtype } = c;
  const got: Forward & Partial<Backward> = c.backward
    ? await subject.backward(inputs, dout, options, dtype)
    : await subject.attention(inputs, options, dtype);

  const problem = problemOf(inputs, options, dtype);
  const data = dataOf(inputs, options, dtype);
  const result = resultDType(dtype);
  const round = (x: number): number => roundTo(result, x);
  const isHalf = result !== "float32";

  const truth = naiveAttention(problem, data);
  const naive = isHalf ? naiveAttention(problem, data, round) : undefined;
  agree("out", got.out, truth.out, { dtype: result, naive: naive?.out });
  // lse is float32 whatever the dtype, but scores of half inputs are summed in another order than naive's.
  agree("lse", got.lse, truth.lse, { scores: got.scores });
  if (!c.backward) return;

  const gradient = Float64Array.from(dout.values, round);
  const exact = naiveAttentionBackward(problem, data, gradient);
  const rounded = isHalf ? naiveAttentionBackward(problem, data, gradient, round) : undefined;
  for (const name of ["dq", "dk", "dv", "dbias", "dsinks"] as const) {
    const expected = exact[name];
    if (!expected) continue;
    const { B, H, Sq } = c.sizes;
    const rows = options.bias?.shape.slice(0, 3).reduce((product, size) => product * size, 1);
    const parts = name === "dbias" ? (B * H * Sq) / rows! : 1;
    agree(name, got[name], expected, { kind: "gradient", dtype: result, naive: rounded?.[name], parts });
  }
}
