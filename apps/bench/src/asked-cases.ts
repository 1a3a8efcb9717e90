/** Cases that somebody asks for by flags or fields: one set of options over sizes, dtypes and passes. */
import type { FloatDType, TensorSpec } from "@fa/core";
import { attentionCase, type AttentionCase, type CaseOptions } from "./cases.ts";

export const ASKED_PASSES = ["forward", "backward", "decode"] as const;
/** Decode is a forward of one query row over a cache of keys. */
export type AskedPass = (typeof ASKED_PASSES)[number];

/** Options of attention as people give them: those that take a tensor are on or off, their numbers come with the case. */
export interface AskedOptions {
  readonly batch: number;
  readonly heads: number;
  readonly headsKv?: number | undefined;
  readonly dim: number;
  readonly dimV?: number | undefined;
  readonly causal?: "bottom-right" | "top-left" | undefined;
  readonly window?: readonly [number, number] | undefined;
  readonly softcap?: number | undefined;
  readonly dropout?: number | undefined;
  readonly alibi?: boolean | undefined;
  readonly bias?: boolean | undefined;
  readonly mask?: boolean | undefined;
  readonly sinks?: boolean | undefined;
}

export interface Asked extends AskedOptions {
  readonly pass: AskedPass;
  readonly dtype: FloatDType;
  readonly Sq: number;
  readonly Skv: number;
}

/** @throws FaError for what attention refuses */
export function askedCase({ pass, dtype, Sq, Skv, ...asked }: Asked): AttentionCase {
  const { batch: B, heads: H, headsKv: Hkv = H, dim: D, dimV } = asked;
  const sizes = pass === "decode" ? `Skv ${Skv}` : Sq === Skv ? `S ${Sq}` : `Sq ${Sq}, Skv ${Skv}`;
  const words = wordsOf(asked);
  return attentionCase({
    group: "run",
    name: [pass, dtype, Sq === Skv ? Sq : `${Sq}x${Skv}`, ...words].join("/").replaceAll(" ", "-"),
    title: [sizes, ...words].join(", "),
    pass: pass === "backward" ? "backward" : "forward",
    q: [B, H, Sq, D],
    kv: [B, Hkv, Skv, D],
    dtype,
    options: optionsOf(asked, Sq, Skv),
    ...(dimV !== undefined && { Dv: dimV }),
  });
}

export interface AskedSweep extends AskedOptions {
  readonly passes: readonly AskedPass[];
  readonly dtypes: readonly FloatDType[];
  /** Lengths of both sequences; of the cache, where the pass is decode. */
  readonly sizes: readonly number[];
}

/** @throws FaError for what attention refuses */
export function askedCases({ passes, dtypes, sizes, ...asked }: AskedSweep): AttentionCase[] {
  return passes.flatMap((pass) =>
    dtypes.flatMap((dtype) =>
      sizes.map((S) => askedCase({ ...asked, pass, dtype, Sq: pass === "decode" ? 1 : S, Skv: S })),
    ),
  );
}

/** Any will do: the same drops the same elements on every back end. */
const SEED = 42;

function optionsOf(asked: AskedOptions, Sq: number, Skv: number): CaseOptions {
  const { heads: H, causal, window, softcap, dropout } = asked;
  const float = (...shape: number[]): TensorSpec => ({ shape, dtype: "float32" });
  return {
    causal,
    window,
    softcap,
    ...(dropout !== undefined && { dropout: { p: dropout, seed: SEED } }),
    ...(asked.alibi && { alibiSlopes: float(H) }),
    ...(asked.bias && { bias: float(1, H, Sq, Skv) }),
    ...(asked.mask && { mask: { shape: [1, 1, Sq, Skv], dtype: "bool" } }),
    ...(asked.sinks && { sinks: float(H) }),
  };
}

/** "causal", "window 255 0", "softcap 30", "dropout 0.1", "ALiBi", ... */
function wordsOf({ causal, window, softcap, dropout, alibi, bias, mask, sinks }: AskedOptions): string[] {
  return [
    causal && (causal === "top-left" ? "causal top-left" : "causal"),
    window && `window ${window.join(" ")}`,
    softcap !== undefined && `softcap ${softcap}`,
    alibi && "ALiBi",
    bias && "bias",
    mask && "mask",
    sinks && "sinks",
    dropout !== undefined && `dropout ${dropout}`,
  ].filter((word) => typeof word === "string");
}
