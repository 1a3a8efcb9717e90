/** What the WebGPU back end is required to reach, and the matches that tell. */
import { attentionCase, type AttentionCase, type GpuTimed } from "./cases.ts";
import type { Match, MatchResult } from "./contest.ts";
import { byTitle, Findings, judgedBy, Lack, median, type Rule } from "./findings.ts";
import { matchOf } from "./matches.ts";
import type { TargetOutcome } from "./target.ts";

/** Contestants by id. Ours are told apart by what they may use of the device. */
export const GPU_OURS = {
  matrix: "ours/matrix",
  float16Scores: "ours/float16-scores",
  subgroups: "ours/subgroups",
  portable: "ours/portable",
} as const;
export const GPU_PEER = "onnxruntime-node/webgpu";

/** How large the cases are. */
export interface Scale {
  readonly heads: number;
  readonly dims: readonly number[];
  /** Sequence lengths that fill a GPU. */
  readonly large: readonly number[];
  /** Sequence lengths that do not. */
  readonly small: readonly number[];
  /** One query over so many keys, 32 heads over 8. */
  readonly decode: { readonly H: number; readonly Hkv: number; readonly Skv: number; readonly D: number };
}

/** What is required is required of these. */
export const FULL_SCALE: Scale = {
  heads: 16,
  dims: [64, 128],
  large: [4096, 8192],
  small: [128, 512],
  decode: { H: 32, Hkv: 8, Skv: 8192, D: 128 },
};

/** Whether everything works, on whatever is there. */
export const QUICK_SCALE: Scale = {
  heads: 2,
  dims: [64],
  large: [96],
  small: [48],
  decode: { H: 4, Hkv: 2, Skv: 80, D: 64 },
};

type Half = "float16" | "float32";

/** Milliseconds that a call keeps the processor busy, one for each sample; or why that is not known. */
export type CallCost = readonly number[] | string;

interface CaseSpec {
  readonly dtype: Half;
  readonly S: number;
  readonly D: number;
  readonly causal?: boolean;
  readonly ramped?: boolean;
  readonly timed?: GpuTimed;
}

/** Everything there is to run at a scale, and what is read from it. */
export class WebgpuProgramme {
  readonly #scale: Scale;

  constructor(scale: Scale) {
    this.#scale = scale;
  }

  /** @param peer whether it takes part */
  matches(peer: boolean): Match[] {
    const { large } = this.#scale;
    const peers = peer ? [GPU_PEER] : [];
    const of = (item: AttentionCase, ...contestants: readonly string[]): Match =>
      matchOf(
        [...contestants, ...peers].map((contestant) => ({ contestant, item })),
        [],
      );
    const { matrix, float16Scores, subgroups, portable } = GPU_OURS;
    const ramped = this.#cases("float16", large, [false]).map((item) => {
      const steep = this.ramped(item);
      return {
        id: steep.facts.id,
        title: `${steep.facts.title} beside plain`,
        entries: [steep, item].map((one) => ({ contestant: matrix, item: one })),
        gauges: [],
      };
    });
    return [
      ...this.#cases("float16", large).map((item) => of(item, matrix, float16Scores, subgroups)),
      ...ramped,
      ...this.#cases("float32", large).map((item, n): Match => ({
        ...of(item, subgroups, portable),
        gauges: n === 0 ? ["fma"] : [],
      })),
      ...this.#small("float16").map((item) => of(item, matrix, subgroups)),
      ...this.#small("float32").map((item) => of(item, subgroups, portable)),
      { ...of(this.decode, matrix, subgroups), gauges: ["copy"] },
    ];
  }

  /** The case whose call is timed on the processor. */
  get callCase(): AttentionCase {
    return this.#case({ dtype: "float32", S: this.#scale.small[0], D: this.#scale.dims[0] });
  }

  get decode(): AttentionCase {
    const { H, Hkv, Skv, D } = this.#scale.decode;
    return attentionCase({
      group: "contest",
      name: `float16/decode/${Skv}/${D}`,
      title: `decode, Skv ${Skv}, H ${H}, Hkv ${Hkv}, D ${D}, float16`,
      q: [1, H, 1, D],
      kv: [1, Hkv, Skv, D],
      dtype: "float16",
      timed: "device",
    });
  }

  /** The same with keys that grow along the sequence. */
  ramped({ facts: { Sq, D } }: AttentionCase): AttentionCase {
    return this.#case({ dtype: "float16", S: Sq, D, ramped: true });
  }

  targets(results: readonly MatchResult[], callCost: CallCost): TargetOutcome[] {
    return judgedBy(this.#rules(callCost), new Findings(results));
  }

  #cases(dtype: Half, sizes: readonly number[], kinds: readonly boolean[] = [false, true], dims = this.#scale.dims) {
    return dims.flatMap((D) =>
      sizes.flatMap((S) => kinds.map((causal) => this.#case({ dtype, S, D, causal, timed: this.#timed(S) }))),
    );
  }

  /** Causal with the first head dim alone: there are enough of them. */
  #small(dtype: Half): AttentionCase[] {
    const { small, dims } = this.#scale;
    const causal = this.#cases(dtype, small, [true], dims.slice(0, 1));
    return [...this.#cases(dtype, small, [false]), ...causal];
  }

  /** Short calls are compared as parts of a network: recorded with others, as the peer's chain of nodes is. */
  #timed(S: number): GpuTimed {
    return this.#scale.small.includes(S) ? "recorded" : "calls";
  }

  #case({ dtype, S, D, causal = false, ramped = false, timed = "calls" }: CaseSpec): AttentionCase {
    const kind = ramped ? "ramped" : causal ? "causal" : "full";
    return attentionCase({
      group: "contest",
      name: `${dtype}/${S}/${D}/${kind}`,
      title: `S ${S}, D ${D}, ${kind}, ${dtype}`,
      q: [1, this.#scale.heads, S, D],
      dtype,
      options: { causal },
      ramped,
      timed,
    });
  }

  #rules(callCost: CallCost): Rule<Findings>[] {
    const { large, small, dims } = this.#scale;
    const { matrix, float16Scores, subgroups, portable } = GPU_OURS;
    const sizes = `S ${large.join(" and ")}`;
    const speed = (
      id: string,
      title: string,
      required: number,
      contestant: string,
      dtype: Half,
      over: { causal?: boolean; D?: number } = {},
    ): Rule<Findings> => ({
      id,
      title: `${title}, ${sizes}${over.D === undefined ? "" : `, D ${over.D}`}, ${over.causal ? "causal" : "full"}`,
      required,
      unit: "TFLOP/s",
      how: RATE,
      readings: byTitle(
        this.#cases(dtype, large, [over.causal ?? false], over.D === undefined ? dims : [over.D]),
        (found, item) => found.gflops(contestant, item) / 1000,
      ),
    });
    const faster = (id: string, title: string, contestant: string, dtype: Half): Rule<Findings> => ({
      id,
      title: `${title}: as fast as onnxruntime, S >= ${small[0]}`,
      required: 1,
      unit: "times",
      how: PEER,
      readings: byTitle(
        [...this.#small(dtype), ...this.#cases(dtype, large)],
        (found, item) => found.ms(GPU_PEER, item) / found.ms(contestant, item),
      ),
    });
    const besidePlain = (value: (found: Findings, item: AttentionCase, match: AttentionCase) => number) =>
      byTitle(this.#cases("float16", large, [false]), (found: Findings, item) => {
        const steep = this.ramped(item);
        return value(found, steep, steep) / value(found, item, steep);
      });
    const tier = "float16, tier matrix";
    return [
      ...dims.flatMap((D) => {
        const { full, scores } = REQUIRED[D];
        return [
          speed(`matrix-${D}`, tier, full, matrix, "float16", { D }),
          speed(`matrix-causal-${D}`, tier, CAUSAL * full, matrix, "float16", { D, causal: true }),
          speed(`float16-scores-${D}`, "float16 scores too", scores, float16Scores, "float16", { D }),
        ];
      }),
      {
        id: "ramped-time",
        title: "keys ramped 1 to 10 times, tier matrix: of the time of plain",
        required: 2,
        bound: "at most",
        unit: "times",
        how: "median times, taking turns",
        readings: besidePlain((found, item, match) => found.ms(matrix, item, match)),
      },
      {
        id: "ramped-error",
        title: "keys ramped 1 to 10 times, tier matrix: of the error of plain",
        required: 2,
        bound: "at most",
        unit: "times",
        how: "root mean square error over the root mean square of the result, against float64",
        readings: besidePlain((found, item, match) =>
          Math.sqrt(found.measured(matrix, item, match).verification.meanSquareError),
        ),
      },
      speed("subgroups-float16", "float16, tier subgroups", 32, subgroups, "float16"),
      speed("subgroups-float32", "float32, tier subgroups", 32, subgroups, "float32"),
      speed("portable", "float32, tier portable", 20, portable, "float32"),
      faster("onnx-matrix", tier, matrix, "float16"),
      faster("onnx-float16", "float16, tier subgroups", subgroups, "float16"),
      faster("onnx-float32", "float32, tier subgroups", subgroups, "float32"),
      faster("onnx-portable", "float32, tier portable", portable, "float32"),
      {
        id: "decode",
        title: "decode, float16, tier subgroups: of the rate of copying",
        required: 0.6,
        how: "bytes of keys and values over the time on the device, over the rate of copying a buffer in the same turns; as many sets of keys and values in turn as no cache holds",
        readings: byTitle([this.decode], (found, item) => readRate(found, subgroups, item) / found.rate("copy", item)),
      },
      {
        id: "call",
        title: "a call's own cost on the processor",
        required: 100,
        bound: "at most",
        unit: "µs",
        how: "validated, planned, recorded and submitted, not waited for; 200 calls a sample, median of 15",
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

/** TFLOP/s by head dim: scores in float32, and in float16. */
const REQUIRED: Readonly<Record<number, { readonly full: number; readonly scores: number }>> = {
  64: { full: 175, scores: 205 },
  128: { full: 220, scores: 265 },
};
/** Of what is required without. */
const CAUSAL = 0.8;

const RATE =
  "operations of visible pairs over the time of a call: how the time of a chain of calls, enqueued one by one and then waited for, grows with its length; median";
const PEER =
  "its time over ours, taking turns: how the time of a chain of its nodes in one graph grows with its length, beside a chain of our calls, up to S 512 recorded 16 a submission";

/** Bytes of keys and values over the time of a call, a second. */
export function readRate(found: Findings, contestant: string, item: AttentionCase): number {
  return keyBytes(item.facts) / (found.ms(contestant, item) / 1000);
}

export function keyBytes({ B, Hkv, Skv, D, dtype }: AttentionCase["facts"]): number {
  return 2 * B * Hkv * Skv * D * (dtype === "float32" ? 4 : 2);
}
