import type { FloatDType } from "./dtype.ts";
import type { Band, Broadcast } from "./mask.ts";
import type { DropoutKey } from "./philox.ts";

/**
 * What happens to a raw score q.k on its way to a probability: one ordered list of steps, lowered from the options once.
 * Every kernel applies exactly this order:
 *
 *   scale -> softcap -> bias -> ALiBi -> visibility -> (softmax, with sinks in its denominator) -> dropout
 */
export type ScoreStep =
  | { readonly kind: "scale"; readonly scale: number }
  /** s = cap * tanh(s / cap) */
  | { readonly kind: "softcap"; readonly cap: number }
  /** s += bias[b, h, i, j] */
  | { readonly kind: "bias"; readonly dtype: FloatDType; readonly operand: Broadcast }
  /** s -= slope * abs(i + Skv - Sq - j); slopes [H], or [B, H] when `perBatch` */
  | { readonly kind: "alibi"; readonly dtype: FloatDType; readonly perBatch: boolean }
  /** s = -Infinity where the band or the mask hides key j from row i; only present when something may be hidden */
  | { readonly kind: "visibility"; readonly band: Band; readonly mask: Broadcast | undefined }
  /** l += exp(sink[h] - m): a logit with no value row */
  | { readonly kind: "sinks"; readonly dtype: FloatDType }
  /** P = keep ? P / (1 - p) : 0, on normalised probabilities; m, l and lse do not see it */
  | ({ readonly kind: "dropout" } & DropoutKey);

export type ScoreStepKind = ScoreStep["kind"];
export type ScoreProgram = readonly ScoreStep[];

export const SCORE_STEPS: readonly ScoreStepKind[] = [
  "scale",
  "softcap",
  "bias",
  "alibi",
  "visibility",
  "sinks",
  "dropout",
];

/** The step of a kind, if the program has it. A program has at most one of each. */
export function step<K extends ScoreStepKind>(
  program: ScoreProgram,
  kind: K,
): Extract<ScoreStep, { kind: K }> | undefined {
  return program.find((candidate) => candidate.kind === kind) as Extract<ScoreStep, { kind: K }> | undefined;
}

/** "scale, softcap(30), visibility(j <= i)": the program as people read it. */
export function describeProgram(program: ScoreProgram): string {
  return program.map(describeStep).join(", ");
}

function describeStep(s: ScoreStep): string {
  switch (s.kind) {
    case "scale":
      return `scale(${Number(s.scale.toPrecision(6))})`;
    case "softcap":
      return `softcap(${s.cap})`;
    case "bias":
      return `bias[${s.operand.shape.join(", ")}]`;
    case "alibi":
      return s.perBatch ? "alibi[B, H]" : "alibi[H]";
    case "visibility":
      return `visibility(${[describeBand(s.band), s.mask && `mask[${s.mask.shape.join(", ")}]`].filter(Boolean).join(", ")})`;
    case "sinks":
      return "sinks[H]";
    case "dropout":
      return `dropout(${s.p})`;
  }
}

function describeBand({ lo, hi }: Band): string {
  const shifted = (by: number): string => (by === 0 ? "i" : by > 0 ? `i + ${by}` : `i - ${-by}`);
  if (lo === -Infinity && hi === Infinity) return "";
  if (lo === -Infinity) return `j <= ${shifted(hi)}`;
  if (hi === Infinity) return `j >= ${shifted(lo)}`;
  return `${shifted(lo)} <= j <= ${shifted(hi)}`;
}
