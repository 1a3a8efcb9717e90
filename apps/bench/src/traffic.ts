/** What memory has to move at least, and whether that is what a case waits for. */
import { bytesPerElement, keyRange, resultDType, step, EVERYTHING, type AttentionProblem } from "@fa/core";
import type { AttentionCase, CaseFacts, Pass } from "./cases.ts";

/** Sizes of an attention case, with the keys that some row sees. */
export interface Sizes extends Pick<CaseFacts, "B" | "H" | "Hkv" | "Sq" | "Skv" | "D" | "Dv" | "dtype"> {
  readonly backward: boolean;
}

/** Every input that some row needs read once, every result written once, in bytes; bias and mask left out. */
export function bytesOfSizes({ B, H, Hkv, Sq, Skv, D, Dv, dtype, backward }: Sizes): number {
  const [input, result] = [bytesPerElement(dtype), bytesPerElement(resultDType(dtype))];
  const queries = B * H * Sq;
  const keys = B * Hkv * Skv;
  const inputs = (queries * D + keys * (D + Dv)) * input;
  const out = queries * Dv * result;
  const lse = queries * 4;
  const gradients = (queries * D + keys * (D + Dv)) * result;
  return inputs + out + lse + (backward ? out + gradients : 0);
}

/** Of a problem: keys that no row sees are left out. */
export function attentionBytes(problem: AttentionProblem): number {
  const { op, Sq, Skv, program } = problem;
  const { begin, end } = keyRange(step(program, "visibility")?.band ?? EVERYTHING, 0, Sq, Skv);
  return bytesOfSizes({ ...problem, Skv: end - begin, backward: op === "attentionBackward" }) + operandBytes(problem);
}

/** Of bias and mask: their sizes are those of the scores where they do not repeat. */
function operandBytes({ program }: AttentionProblem): number {
  const elements = (shape: readonly number[] = [0]): number => shape.reduce((product, size) => product * size, 1);
  const bias = step(program, "bias");
  const mask = step(program, "visibility")?.mask;
  return elements(mask?.shape) + (bias ? elements(bias.operand.shape) * bytesPerElement(bias.dtype) : 0);
}

interface ModuleSizes {
  readonly embedDim: number;
  readonly numHeads: number;
  readonly numHeadsKv: number;
}

/** Of a module in float32: x, out and the weights, and with its backward all that again for the gradients. */
export function moduleBytes({ embedDim: E, numHeads, numHeadsKv }: ModuleSizes, rows: number, pass: Pass): number {
  const keyWidth = (E / numHeads) * numHeadsKv;
  const weights = (E + 2 * keyWidth) * E + E * E;
  return 4 * (2 * rows * E + weights) * (pass === "forward" ? 1 : 2);
}

/** Multiplications and additions a byte, below which a case waits for memory on every machine we know of. */
const MEMORY_BOUND = 16;
/** Keys and values that are read in turn take so many bytes together: more than caches hold. */
const BYTES_IN_TURN = 256 * 2 ** 20;
/** Of tiny cases, that many copies would be of no use. */
const MOST_SETS = 64;

/** How many copies of keys and values take turns, so that a case that waits for memory does not find them in a cache. */
export function inputSetsOf({ facts, problem }: Pick<AttentionCase, "facts" | "problem">): number {
  const { flops, bytes, B, Hkv, Skv, D, Dv, dtype } = facts;
  if (problem.op !== "attention" || flops / bytes >= MEMORY_BOUND) return 1;
  const sets = Math.ceil(BYTES_IN_TURN / (B * Hkv * Skv * (D + Dv) * bytesPerElement(dtype)));
  return sets <= MOST_SETS ? Math.max(sets, 1) : 1;
}
