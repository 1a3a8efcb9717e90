/** What the CUDA back end is required to reach, and the matches that tell. */
import type { FloatDType } from "@fa/core";
import { attentionCase, type AttentionCase } from "./cases.ts";
import type { Match, MatchResult } from "./contest.ts";
import { byTitle, Findings, judgedBy, Lack, median, type Rule } from "./findings.ts";
import type { TargetOutcome } from "./target.ts";
import { keyBytes, readRate, type CallCost } from "./webgpu-targets.ts";

/** Contestants by id. */
export const CUDA_OURS = "ours/cuda";
export const CUDA_PEER = "torch/cuda";

/** How large the cases are. */
export interface CudaScale {
  /** B S of the grid. */
  readonly tokens: number;
  /** H D of the grid. */
  readonly width: number;
  readonly dims: readonly number[];
  readonly sizes: readonly number[];
  /** From where on a sequence is long. */
  readonly long: number;
  /** One query over keys of fewer heads: [B, Skv] each. */
  readonly decode: {
    readonly H: number;
    readonly Hkv: number;
    readonly D: number;
    readonly shapes: readonly (readonly [B: number, Skv: number])[];
  };
  /** Where other dtypes, ragged shapes and grouped heads are compared with plain ones, on the middle head dim. */
  readonly beside: {
    readonly float32: number;
    readonly half: number;
    readonly ragged: readonly Ragged[];
    readonly grouped: number;
  };
  /** The case whose call is timed on the processor: [B, H, S, D]. */
  readonly call: readonly [B: number, H: number, S: number, D: number];
}

/** A shape and the next aligned one. */
interface Ragged {
  readonly Sq: number;
  readonly Skv: number;
  readonly aligned: number;
}

/** What is required is required of these. */
export const CUDA_SCALE: CudaScale = {
  tokens: 16384,
  width: 2048,
  dims: [64, 128, 256],
  sizes: [512, 1024, 2048, 4096, 8192, 16384],
  long: 4096,
  decode: {
    H: 32,
    Hkv: 8,
    D: 128,
    shapes: [
      [1, 8192],
      [8, 8192],
      [64, 8192],
      [1, 131072],
      [8, 32768],
    ],
  },
  beside: {
    float32: 4096,
    half: 8192,
    ragged: [
      { Sq: 4000, Skv: 4000, aligned: 4096 },
      { Sq: 8191, Skv: 8191, aligned: 8192 },
      { Sq: 4096, Skv: 8192, aligned: 8192 },
    ],
    grouped: 4096,
  },
  call: [2, 1, 256, 64],
};

/** Whether everything works, on whatever is there. */
export const CUDA_QUICK_SCALE: CudaScale = {
  tokens: 96,
  width: 128,
  dims: [32, 64],
  sizes: [48, 96],
  long: 96,
  decode: { H: 4, Hkv: 2, D: 64, shapes: [[2, 80]] },
  beside: { float32: 48, half: 48, ragged: [{ Sq: 40, Skv: 40, aligned: 48 }], grouped: 48 },
  call: [1, 1, 32, 64],
};

interface CaseSpec {
  readonly dtype?: FloatDType;
  readonly D: number;
  readonly causal?: boolean;
  readonly Sq: number;
  readonly Skv?: number;
  /** Tokens over the queries unless given. */
  readonly B?: number;
  /** Width over D unless given. */
  readonly H?: number;
  readonly Hkv?: number;
  /** Before the title. */
  readonly what?: string;
}

/** Everything there is to run at a scale, and what is read from it. */
export class CudaProgramme {
  readonly #scale: CudaScale;

  constructor(scale: CudaScale) {
    this.#scale = scale;
  }

  /** @param peer whether it takes part */
  matches(peer: boolean): Match[] {
    const contestants = [CUDA_OURS, ...(peer ? [CUDA_PEER] : [])];
    const contested = (item: AttentionCase): Match => ({
      id: item.facts.id,
      title: item.facts.title,
      entries: contestants.map((contestant) => ({ contestant, item })),
      gauges: [],
    });
    const beside = ({ item, plain }: Pair): Match => ({
      id: besideId(item),
      title: `${item.facts.title} beside ${plain.facts.title}`,
      entries: [item, plain].map((one) => ({ contestant: CUDA_OURS, item: one })),
      gauges: [],
    });
    return [
      ...[...this.grid, ...this.decode, ...this.float32, this.callCase].map(contested),
      ...[...this.ragged, ...this.halves].map(beside),
    ];
  }

  get grid(): AttentionCase[] {
    const { dims, sizes } = this.#scale;
    return dims.flatMap((D) => [false, true].flatMap((causal) => sizes.map((Sq) => this.#case({ D, Sq, causal }))));
  }

  get decode(): AttentionCase[] {
    const { H, Hkv, D, shapes } = this.#scale.decode;
    return shapes.map(([B, Skv]) => this.#case({ what: "decode", B, H, Hkv, Sq: 1, Skv, D }));
  }

  get float32(): AttentionCase[] {
    const { dims, beside } = this.#scale;
    return dims.slice(0, 2).map((D) => this.#case({ dtype: "float32", D, Sq: beside.float32 }));
  }

  /** The case whose call is timed on the processor. */
  get callCase(): AttentionCase {
    const [B, H, S, D] = this.#scale.call;
    return this.#case({ what: "short", B, H, Sq: S, D });
  }

  /** Each beside the next aligned shape. */
  get ragged(): Pair[] {
    const { beside, dims } = this.#scale;
    const D = dims[1];
    return [false, true].flatMap((causal) => [
      ...beside.ragged.map(({ Sq, Skv, aligned }) => {
        const B = this.#scale.tokens / (Sq === Skv ? aligned : Sq);
        return { item: this.#case({ D, B, Sq, Skv, causal }), plain: this.#case({ D, Sq: aligned, causal }) };
      }),
      this.#grouped(causal),
    ]);
  }

  /** 4 query heads a key head, beside as many of either. */
  #grouped(causal: boolean): Pair {
    const { beside, dims, tokens, width } = this.#scale;
    const D = dims[1];
    const H = (2 * width) / D;
    const common = { D, H, B: Math.ceil(tokens / beside.grouped / 2), Sq: beside.grouped, causal };
    return { item: this.#case({ ...common, Hkv: H / 4 }), plain: this.#case(common) };
  }

  /** float16 beside bfloat16. */
  get halves(): Pair[] {
    const { dims, beside } = this.#scale;
    return dims.flatMap((D) =>
      [false, true].map((causal) => {
        const of = (dtype: FloatDType) => this.#case({ dtype, D, Sq: beside.half, causal });
        return { item: of("float16"), plain: of("bfloat16") };
      }),
    );
  }

  targets(results: readonly MatchResult[], callCost: CallCost): TargetOutcome[] {
    return judgedBy(this.#rules(callCost), new Findings(results));
  }

  #case(spec: CaseSpec): AttentionCase {
    const { dtype = "bfloat16", D, Sq, Skv = Sq, causal = false, what } = spec;
    const { B = this.#scale.tokens / Sq, H = this.#scale.width / D } = spec;
    const { Hkv = H } = spec;
    const kind = Sq === 1 ? [] : [causal ? "causal" : "full"];
    const sizes = Sq === Skv ? [`S ${Sq}`] : Sq === 1 ? [`Skv ${Skv}`] : [`Sq ${Sq}`, `Skv ${Skv}`];
    const heads = Hkv === H ? [] : [`H ${H}`, `Hkv ${Hkv}`];
    return attentionCase({
      group: "contest",
      name: [dtype, `${B}x${H}x${Hkv}`, Sq === Skv ? Sq : `${Sq}x${Skv}`, D, ...kind].join("/"),
      title: [
        ...(what ? [what] : []),
        ...(Sq === 1 || what ? [`B ${B}`] : []),
        ...sizes,
        ...heads,
        `D ${D}`,
        ...kind,
        dtype,
      ].join(", "),
      q: [B, H, Sq, D],
      kv: [B, Hkv, Skv, D],
      dtype,
      options: { causal },
    });
  }

  #rules(callCost: CallCost): Rule<Findings>[] {
    const { long, beside, sizes, dims } = this.#scale;
    const float32 = this.float32.filter(({ facts }) => facts.D === dims[1]);
    const bandwidth = (cases: readonly AttentionCase[]) =>
      byTitle(cases, (found: Findings, item) => readRate(found, CUDA_OURS, item) / readRate(found, CUDA_PEER, item));
    const besidePlain = (pairs: readonly Pair[]): Rule<Findings>["readings"] =>
      Object.fromEntries(pairs.map((pair) => [pair.item.facts.title, (found: Findings) => rateBeside(found, pair)]));
    const longOnes = this.grid.filter(({ facts }) => facts.Sq >= long);
    const count = this.grid.length;
    return [
      {
        id: "mean",
        title: `bfloat16, ${count} cases, S ${sizes[0]} to ${sizes.at(-1)}: of cuDNN's speed, geometric mean`,
        required: 1.02,
        unit: "times",
        how: `${TIMES}; where cuDNN fails there is no ratio`,
        readings: { [`${count} cases`]: (found) => geometricMean(found, this.grid) },
      },
      {
        id: "mean-long",
        title: `the same from S ${long} on`,
        required: 1.05,
        unit: "times",
        how: TIMES,
        readings: { [`${longOnes.length} cases`]: (found) => geometricMean(found, longOnes) },
      },
      {
        id: "each",
        title: "the same, each case",
        required: 0.92,
        unit: "times",
        how: TIMES,
        readings: byTitle(this.grid, besidePeer),
      },
      {
        id: "ragged",
        title: "ragged shapes, Sq other than Skv, grouped heads: of the speed of the next aligned shape",
        required: 0.92,
        how: "TFLOP/s of visible pairs beside those of the aligned shape, taking turns",
        readings: besidePlain(this.ragged),
      },
      {
        id: "decode",
        title: "decode: of cuDNN's bandwidth",
        required: 0.95,
        unit: "times",
        how: DECODE,
        readings: bandwidth(this.decode),
      },
      {
        id: "decode-one",
        title: `decode of one sequence: of cuDNN's bandwidth`,
        required: 1.2,
        unit: "times",
        how: DECODE,
        readings: bandwidth(this.decode.slice(0, 1)),
      },
      {
        id: "float32",
        title: "float32",
        required: 60,
        unit: "TFLOP/s",
        how: "operations of visible pairs over the time of a call",
        readings: byTitle(float32, (found, item) => found.gflops(CUDA_OURS, item) / 1000),
      },
      {
        id: "float32-error",
        title: "float32: largest error",
        required: 1e-5,
        bound: "at most",
        unit: "error",
        how: "of out and lse, against float64",
        readings: byTitle(this.float32, (found, item) => found.measured(CUDA_OURS, item, item).verification.maxError),
      },
      {
        id: "float16",
        title: `float16 of bfloat16's speed, S ${beside.half}`,
        required: 0.97,
        how: "bfloat16's time over float16's, taking turns",
        readings: besidePlain(this.halves),
      },
      {
        id: "call",
        title: "a call's own cost on the processor",
        required: 10,
        bound: "at most",
        unit: "µs",
        how: "validated, planned and launched on resident tensors, not waited for; 200 calls a sample, median of 15",
        readings: {
          [this.callCase.facts.title]: () => {
            if (typeof callCost === "string") throw new Lack("failed", callCost);
            return 1000 * median(callCost);
          },
        },
      },
    ];
  }
}

/** A case of ours and what it is compared with, also of ours. */
export interface Pair {
  readonly item: AttentionCase;
  readonly plain: AttentionCase;
}

/** The match of a pair; its first entry may meet the peer in a match of its own. */
function besideId({ facts }: AttentionCase): string {
  return `${facts.id}/beside`;
}

function rateBeside(found: Findings, { item, plain }: Pair): number {
  const match = { facts: { id: besideId(item) } };
  const rate = (one: AttentionCase): number => one.facts.flops / found.ms(CUDA_OURS, one, match);
  return rate(item) / rate(plain);
}

const TIMES =
  "its time over ours, taking turns: how the time of a chain of calls, enqueued one by one and then waited for, grows with its length; median; ours writes lse too";
const DECODE =
  "bytes of keys and values over the time of a call, over cuDNN's in the same turns; as many sets of keys and values in turn as no cache holds";

function besidePeer(found: Findings, item: AttentionCase): number {
  const own = found.ms(CUDA_OURS, item);
  return found.ms(CUDA_PEER, item) / own;
}

/**
 * Of those that both have done.
 * @throws Lack when ours lacks one, or the peer all
 */
function geometricMean(found: Findings, cases: readonly AttentionCase[]): number {
  let lack: Lack | undefined;
  const logs = cases.flatMap((item) => {
    try {
      return [Math.log(besidePeer(found, item))];
    } catch (error) {
      if (!(error instanceof Lack) || error.because !== "peer") throw error;
      lack = error;
      return [];
    }
  });
  if (logs.length === 0) throw lack!;
  return Math.exp(logs.reduce((sum, x) => sum + x, 0) / logs.length);
}

/** Keys and values that are read in turn take so many bytes together, so that no cache holds them. */
const BYTES_IN_TURN = 512 * 2 ** 20;
const MOST_SETS = 16;

/** How many sets of keys and values are read in turn: one, unless they are all that a call reads. */
export function keySets({ facts }: AttentionCase): number {
  return facts.Sq === 1 ? Math.min(Math.ceil(BYTES_IN_TURN / keyBytes(facts)), MOST_SETS) : 1;
}
