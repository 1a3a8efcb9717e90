import type { Capabilities } from "./backend.ts";
import type { DType, FloatDType } from "./dtype.ts";
import { FaError } from "./errors.ts";
import type { AttentionProblem, BlockSize, Op, Problem } from "./problem.ts";
import { describeProgram, step, type ScoreStepKind } from "./score-program.ts";

/** Rows Br and columns Bc of a tile. For linear, rows and columns of y; for cast, elements along kv. */
export interface Tile {
  readonly q: number;
  readonly kv: number;
}

/**
 * One kernel, as facts. Dispatch, conformance, benchmark and the support table in the README read the same rows, so
 * what is not written here is not claimed.
 */
export interface KernelRow {
  /** Unique within the back end, such as "forward-relaxed". */
  readonly id: string;
  readonly op: Op;
  readonly dtypes: readonly DType[];
  /** D and Dv that it takes, for attention; multiples of 1 unless it says otherwise. */
  readonly headDim?: { readonly min: number; readonly max: number; readonly multipleOf?: number } | undefined;
  /** Query rows that share a key head, Sq H / Hkv, that it takes at most, for attention; left out, any number. */
  readonly maxRows?: number | undefined;
  /** Query rows in all, B H Sq, that it is best for, for attention: larger problems go to later rows; left out, any number. */
  readonly maxTotalRows?: number | undefined;
  /** Steps of the score program that it applies, for attention. */
  readonly steps?: readonly ScoreStepKind[] | undefined;
  /** Whether visibility may come with the user's mask; left out, it may. */
  readonly takesMask?: boolean | undefined;
  /** Why it does not take a problem, where none of these facts says it. */
  readonly refuses?: ((problem: Problem) => string | undefined) | undefined;
  /** What scores are rounded to on their way to probabilities; left out, float32. lse is no more exact than that. */
  readonly scores?: FloatDType | undefined;
  /** Features of the device that it needs. */
  readonly needs: readonly string[];
  /** What it uses unless told otherwise. */
  readonly tile: Tile;
  /** The largest tile that `blockSize` may ask for; every size from 1 works up to there. */
  readonly maxTile: Tile;
  /** Fast memory that a tile takes, in bytes. */
  readonly sharedBytes?: ((problem: Problem, tile: Tile) => number) | undefined;
  /** Pieces that the keys are split into, to be combined by lse; left out, 1. */
  readonly splits?: ((problem: Problem, tile: Tile) => number) | undefined;
  /** Device memory beside the tensors, in bytes. */
  readonly workspaceBytes: (problem: Problem, tile: Tile) => number;
}

/** What will run: a kernel, its tile and grid, and the memory it needs. Made by `plan`, printed by `describePlan`. */
export interface Plan<P extends Problem = Problem> {
  readonly ok: true;
  readonly problem: P;
  readonly kernel: KernelRow;
  readonly tile: Tile;
  /** Tiles along the rows, heads and batches of the result. */
  readonly grid: readonly [number, number, number];
  /** Pieces that the keys are split into, to be combined by lse. */
  readonly splits: number;
  readonly workspaceBytes: number;
}

/** Why no row takes the problem: one reason a row of that op. */
export interface Refusal {
  readonly ok: false;
  readonly problem: Problem;
  readonly reasons: readonly { readonly kernel: string; readonly reason: string }[];
}

/**
 * Chooses the first row of the table that takes the problem. Pure: needs no device, and the same arguments always give
 * the same plan.
 */
export function plan<P extends Problem>(
  problem: P,
  capabilities: Capabilities,
  kernels: readonly KernelRow[],
): Plan<P> | Refusal {
  const reasons: { kernel: string; reason: string }[] = [];
  for (const kernel of kernels) {
    if (kernel.op !== problem.op) continue;
    const tile = chooseTile(problem, kernel);
    const reason = whyNot(problem, capabilities, kernel, tile);
    if (reason === undefined) {
      const workspaceBytes = kernel.workspaceBytes(problem, tile);
      const splits = kernel.splits?.(problem, tile) ?? 1;
      return { ok: true, problem, kernel, tile, grid: gridOf(problem, tile), splits, workspaceBytes };
    }
    reasons.push({ kernel: kernel.id, reason });
  }
  if (reasons.length === 0) reasons.push({ kernel: problem.op, reason: "the kernel table has no row for it" });
  return { ok: false, problem, reasons };
}

function whyNot(problem: Problem, caps: Capabilities, kernel: KernelRow, tile: Tile): string | undefined {
  const missing = kernel.needs.find((feature) => !caps.features.includes(feature));
  if (missing !== undefined) return `needs ${missing}, which the device lacks`;
  for (const dtype of "resultDType" in problem ? [problem.dtype, problem.resultDType] : [problem.dtype]) {
    if (!kernel.dtypes.includes(dtype)) return `does not take ${dtype}; it takes ${kernel.dtypes.join(", ")}`;
    if (!caps.dtypes.includes(dtype)) return `the device does not take ${dtype}`;
  }
  if (isAttention(problem)) {
    const { min, max: kernelMax, multipleOf = 1 } = kernel.headDim ?? { min: 1, max: Infinity };
    const max = Math.min(kernelMax, caps.maxHeadDim);
    for (const dim of [problem.D, problem.Dv]) {
      if (dim < min || dim > max) return `takes head dims ${min} to ${max}, not ${dim}`;
      if (dim % multipleOf !== 0) return `takes head dims that are multiples of ${multipleOf}, not ${dim}`;
    }
    const { B, H, Hkv, Sq } = problem;
    const { maxRows = Infinity, maxTotalRows = Infinity } = kernel;
    if (Sq * H > maxRows * Hkv) return `takes at most ${maxRows} query rows a key head, not ${(Sq * H) / Hkv}`;
    if (B * H * Sq > maxTotalRows) return `takes at most ${maxTotalRows} query rows in all, not ${B * H * Sq}`;
    const unknown = problem.program.find(({ kind }) => !kernel.steps?.includes(kind));
    if (unknown) return `does not apply ${unknown.kind}`;
    if (kernel.takesMask === false && step(problem.program, "visibility")?.mask) return "does not apply a mask";
  }
  const refused = kernel.refuses?.(problem);
  if (refused !== undefined) return refused;
  const shared = kernel.sharedBytes?.(problem, tile) ?? 0;
  if (shared > caps.sharedBytes)
    return `a tile takes ${shared} bytes of fast memory; the device has ${caps.sharedBytes}`;
  const workspace = kernel.workspaceBytes(problem, tile);
  if (workspace > caps.maxBufferBytes)
    return `needs ${workspace} bytes of workspace; a buffer holds ${caps.maxBufferBytes}`;
  return undefined;
}

function isAttention(problem: Problem): problem is AttentionProblem {
  return problem.op === "attention" || problem.op === "attentionBackward";
}

function chooseTile(problem: Problem, { tile, maxTile }: KernelRow): Tile {
  const asked: BlockSize = isAttention(problem) ? problem.blockSize : {};
  return { q: Math.min(asked.q ?? tile.q, maxTile.q), kv: Math.min(asked.kv ?? tile.kv, maxTile.kv) };
}

function gridOf(problem: Problem, tile: Tile): [number, number, number] {
  switch (problem.op) {
    case "cast":
      return [Math.ceil(problem.elements / tile.kv), 1, 1];
    case "linear":
    case "linearBackward":
      return [Math.ceil(problem.M / tile.q), Math.ceil(problem.N / tile.kv), 1];
    case "attention":
      return [Math.ceil(problem.Sq / tile.q), problem.H, problem.B];
    case "attentionBackward":
      return [Math.ceil(problem.Skv / tile.kv), problem.Hkv, problem.B];
  }
}

/** The refusal as the error that a caller sees. */
export function refusalError(where: string, backend: string, { reasons }: Refusal): FaError {
  const list = reasons.map(({ kernel, reason }) => `${kernel} ${reason}`).join("; ");
  return new FaError(
    "FA_UNSUPPORTED",
    `${where}: back end ${backend} must have a kernel for the problem; got none: ${list}. Use another back end or change the problem.`,
  );
}

/** A plan in a few lines, for people: the problem, the kernel row, tile, grid and memory. */
export function describePlan({ problem, kernel, tile, grid, splits, workspaceBytes }: Plan): string {
  const lines = [describeProblem(problem)];
  lines.push(`kernel     ${kernel.id}`);
  lines.push(`tile       ${tile.q} x ${tile.kv}`);
  lines.push(`grid       ${grid.join(" x ")}${splits > 1 ? `, keys split in ${splits}` : ""}`);
  lines.push(`workspace  ${workspaceBytes} bytes`);
  return lines.join("\n");
}

function describeProblem(problem: Problem): string {
  switch (problem.op) {
    case "cast":
      return `cast ${problem.elements} elements, ${problem.dtype} to ${problem.resultDType}`;
    case "linear":
    case "linearBackward": {
      const { op, M, K, N, dtype, split } = problem;
      return `${op} [${M}, ${K}] x [${N}, ${K}]^T ${dtype}${split.length > 1 ? `, split ${split.join(" + ")}` : ""}`;
    }
    default: {
      const { op, B, H, Hkv, Sq, Skv, D, Dv, dtype, layout, program } = problem;
      return `${op} B=${B} H=${H} Hkv=${Hkv} Sq=${Sq} Skv=${Skv} D=${D} Dv=${Dv} ${dtype} ${layout}\nscores     ${describeProgram(program)}`;
    }
  }
}
