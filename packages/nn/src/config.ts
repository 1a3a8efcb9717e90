import { checkOptions, MAX_HEAD_DIM, refuse, show, type FloatDType } from "@fa/core";

/** Dtypes of a module. Not float8e4m3: attention would hand bfloat16 to an output projection in float8. */
export type ModuleDType = Exclude<FloatDType, "float8e4m3">;

export interface FlashMHAConfig {
  /** E: features of x and of the result. */
  readonly embedDim: number;
  /** H: query heads; each has head dim D = E / H, 1 to 256. */
  readonly numHeads: number;
  /** Hkv: key/value heads, a divisor of H. 1 is multi-query attention. Default H. */
  readonly numHeadsKv?: number | undefined;
  /** Row i sees rows 0 to i only. Default false. */
  readonly causal?: boolean | undefined;
  /** Probability of dropping an attention weight, 0 to 1, in `forwardTraining` only. Default 0. */
  readonly dropout?: number | undefined;
  /** Whether both projections add a bias. Default true. */
  readonly bias?: boolean | undefined;
  /** Of the weights, x and the result. Default "float32". */
  readonly dtype?: ModuleDType | undefined;
  /**
   * Decides the initial weights and the dropout masks: a safe integer >= 0, or a bigint below 2^64. Modules with equal seeds
   * and shapes start equal, so give each layer its own. Default 0.
   */
  readonly seed?: number | bigint | undefined;
}

/** A configuration with its defaults filled in. */
export interface ResolvedConfig {
  readonly embedDim: number;
  readonly numHeads: number;
  readonly numHeadsKv: number;
  /** D = embedDim / numHeads. */
  readonly headDim: number;
  readonly causal: boolean;
  readonly dropout: number;
  readonly bias: boolean;
  readonly dtype: ModuleDType;
  readonly seed: number | bigint;
}

const OPTIONS = ["embedDim", "numHeads", "numHeadsKv", "causal", "dropout", "bias", "dtype", "seed"] as const;
const MODULE_DTYPES: readonly ModuleDType[] = ["float32", "float16", "bfloat16"];

/** @throws FaError FA_OPTION, naming the option and the rule it breaks */
export function resolveConfig(config: FlashMHAConfig): ResolvedConfig {
  checkOptions("FlashMHA", config, OPTIONS);
  const { embedDim, numHeads, numHeadsKv = numHeads, causal = false, dropout = 0, bias = true } = config;
  const { dtype = "float32", seed = 0 } = config;
  for (const [name, value] of Object.entries({ embedDim, numHeads, numHeadsKv })) {
    mustHold(
      Number.isSafeInteger(value) && value >= 1,
      name,
      "an integer from 1",
      value,
      "8 heads over 512 features are { embedDim: 512, numHeads: 8 }.",
    );
  }
  mustHold(
    embedDim % numHeads === 0,
    "numHeads",
    `a divisor of embedDim = ${embedDim}`,
    numHeads,
    "Each head takes embedDim / numHeads features.",
  );
  mustHold(
    numHeads % numHeadsKv === 0,
    "numHeadsKv",
    `a divisor of numHeads = ${numHeads}`,
    numHeadsKv,
    "Each key/value head serves as many query heads. Leave it out for one each.",
  );
  const headDim = embedDim / numHeads;
  if (headDim > MAX_HEAD_DIM) {
    refuse("FA_OPTION", {
      where: "FlashMHA(numHeads)",
      rule: `the head dim embedDim / numHeads must be at most ${MAX_HEAD_DIM}`,
      got: `${embedDim} / ${numHeads} = ${headDim}`,
      fix: "Use more heads.",
    });
  }
  for (const [name, value] of Object.entries({ causal, bias })) {
    mustHold(typeof value === "boolean", name, "true or false", value, "Leave it out for the default.");
  }
  mustHold(
    typeof dropout === "number" && dropout >= 0 && dropout <= 1,
    "dropout",
    "a number from 0 to 1",
    dropout,
    "0.1 drops a tenth of the attention weights in training.",
  );
  mustHold(
    MODULE_DTYPES.includes(dtype),
    "dtype",
    `one of ${MODULE_DTYPES.join(", ")}`,
    dtype,
    "Leave it out for float32.",
  );
  checkSeed("FlashMHA", seed);
  return Object.freeze({ embedDim, numHeads, numHeadsKv, headDim, causal, dropout, bias, dtype, seed });
}

/** @throws FaError FA_OPTION unless the value is a 64-bit seed */
export function checkSeed(where: string, seed: unknown): asserts seed is number | bigint {
  const holds =
    typeof seed === "bigint" ? seed >= 0n && seed < 1n << 64n : Number.isSafeInteger(seed) && (seed as number) >= 0;
  if (!holds) {
    refuse("FA_OPTION", {
      where: `${where}(seed)`,
      rule: "seed must be an integer from 0 to 2^53 - 1, or a bigint below 2^64",
      got: show(seed),
      fix: "The same seed gives the same numbers on every back end.",
    });
  }
}

/** @throws FaError FA_OPTION unless the value is an unsigned 32-bit number */
export function checkOffset(where: string, offset: unknown): asserts offset is number {
  if (!Number.isInteger(offset) || (offset as number) < 0 || (offset as number) >= 2 ** 32) {
    refuse("FA_OPTION", {
      where: `${where}(offset)`,
      rule: "offset must be an integer from 0 to 2^32 - 1",
      got: show(offset),
      fix: "Give each training step its own, such as the step's number.",
    });
  }
}

function mustHold(holds: boolean, name: string, rule: string, value: unknown, fix: string): asserts holds {
  if (!holds)
    refuse("FA_OPTION", { where: `FlashMHA(${name})`, rule: `${name} must be ${rule}`, got: show(value), fix });
}
