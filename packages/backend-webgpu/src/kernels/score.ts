import {
  bytesPerElement,
  FaError,
  keepScale,
  keepThreshold,
  step,
  type AttentionProblem,
  type Band,
  type FloatDType,
  type ScoreStepKind,
} from "@fa/core";
import type { ShaderParams } from "../wgsl.ts";
import { DTYPE_CODES, dtypeCode } from "./dtypes.ts";
import { Words, type Pass } from "./row.ts";

/** Sequence lengths that bands and distances are counted in, as signed 32-bit integers. */
const MAX_LENGTH = 2 ** 29;
const UNBOUNDED = 2 ** 30;

function dtypeParams(name: string, dtype: FloatDType = "float32"): ShaderParams {
  return { [`${name}_DTYPE`]: dtypeCode(dtype), [`${name}_PER_WORD`]: 4 / bytesPerElement(dtype) };
}

/** Which steps a shader compiles in: the params that `lib/score.wgsl` reads, dtype codes among them. */
export function scoreParams({ program }: AttentionProblem): ShaderParams {
  const visibility = step(program, "visibility");
  return {
    ...DTYPE_CODES,
    SOFTCAP: step(program, "softcap") !== undefined,
    BIAS: step(program, "bias") !== undefined,
    ALIBI: step(program, "alibi") !== undefined,
    BAND: visibility !== undefined && isBounded(visibility.band),
    MASK: visibility?.mask !== undefined,
    SINKS: step(program, "sinks") !== undefined,
    DROPOUT: step(program, "dropout") !== undefined,
    ...dtypeParams("BIAS", step(program, "bias")?.dtype),
    ...dtypeParams("ALIBI", step(program, "alibi")?.dtype),
    ...dtypeParams("SINKS", step(program, "sinks")?.dtype),
  };
}

function isBounded({ lo, hi }: Band): boolean {
  return lo !== -Infinity || hi !== Infinity;
}

/** Scores are products times a scale, which can wait until exp. */
function isRaw({ program }: AttentionProblem): boolean {
  return !program.some(({ kind }) => kind === "softcap" || kind === "bias" || kind === "alibi");
}

interface ScoreUnits {
  readonly raw: boolean;
  readonly toLogit: number;
  readonly toExponent: number;
  /** Larger raw products are less likely: kernels take them with the other sign. */
  readonly negative: boolean;
}

/** In what scores are counted until exp: raw products where only a scale is to come, so that it costs nothing, else logits. */
export function scoreUnits(problem: AttentionProblem): ScoreUnits {
  const { scale } = step(problem.program, "scale")!;
  const raw = isRaw(problem);
  const toLogit = raw ? Math.abs(scale) : 1;
  return { raw, toLogit, toExponent: toLogit * Math.LOG2E, negative: raw && scale < 0 };
}

/** The same problem without some steps, for a pass that leaves them to another. */
export function withoutSteps(problem: AttentionProblem, ...kinds: readonly ScoreStepKind[]): AttentionProblem {
  return { ...problem, program: problem.program.filter(({ kind }) => !kinds.includes(kind)) };
}

/** Elements that the windows of bias and mask leave out before them. */
export interface ScoreWindows {
  readonly bias: number;
  readonly mask: number;
}

/**
 * The words of `struct Score`.
 * @throws FaError FA_UNSUPPORTED if a sequence is longer than the shader can count
 */
export function scoreWords(words: Words, problem: AttentionProblem, first: ScoreWindows = { bias: 0, mask: 0 }): Words {
  const { program, H, Sq, Skv } = problem;
  if (Math.max(Sq, Skv) > MAX_LENGTH) {
    throw new FaError(
      "FA_UNSUPPORTED",
      `webgpu: sequences must have at most ${MAX_LENGTH} rows; got Sq=${Sq}, Skv=${Skv}. Split the keys and combine by lse.`,
    );
  }
  const { lo, hi } = step(program, "visibility")?.band ?? { lo: -Infinity, hi: Infinity };
  const bias = step(program, "bias")?.operand.strides ?? [0, 0, 0, 0];
  const mask = step(program, "visibility")?.mask?.strides ?? [0, 0, 0, 0];
  const dropout = step(program, "dropout");
  return words
    .f32(step(program, "scale")!.scale, step(program, "softcap")?.cap ?? 0)
    .u32(Skv - Sq, Math.max(lo, -UNBOUNDED), Math.min(hi, UNBOUNDED))
    .u32(H, step(program, "alibi")?.perBatch ? H : 0)
    .u32(first.bias, ...bias)
    .u32(first.mask, ...mask)
    .u32(keepThreshold(dropout?.p ?? 0))
    .f32(keepScale(dropout?.p ?? 0))
    .u32(dropout?.seedLow ?? 0, dropout?.seedHigh ?? 0, dropout?.offset ?? 0)
    .u32(0, 0);
}

/** Tensors that the steps read beside bias and mask, in the order of bindings. */
export function headBuffers({ program }: AttentionProblem): string[] {
  const alibi = step(program, "alibi");
  const sinks = step(program, "sinks");
  if (alibi && sinks) return ["workspace"];
  return alibi ? ["alibiSlopes"] : sinks ? ["sinks"] : [];
}

/** Bytes at the start of the workspace that hold ALiBi slopes and sinks where there are both, for windows to begin behind. */
export function headTermsBytes({ program, B, H }: AttentionProblem): number {
  return step(program, "alibi") && step(program, "sinks") ? Math.ceil((B * H * 8) / 256) * 256 : 0;
}

/** The pass that writes them, if they are needed. */
export function headTermsPasses(problem: AttentionProblem): Pass[] {
  if (headTermsBytes(problem) === 0) return [];
  const { B, H, program } = problem;
  return [
    {
      shader: "head-terms.wgsl",
      params: scoreParams(problem),
      uniforms: new Words().u32(B * H, H, step(program, "alibi")!.perBatch ? H : 0).build(),
      buffers: [{ name: "alibiSlopes" }, { name: "sinks" }, { name: "workspace", bytes: B * H * 8 }],
      workgroups: Math.ceil((B * H) / 64),
      flops: B * H,
    },
  ];
}
