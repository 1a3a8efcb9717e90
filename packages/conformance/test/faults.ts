/** A fault planted in a copy of core's sources: `find` stands there exactly once and becomes `replace`. */
export interface Fault {
  readonly name: string;
  /** Below packages/core/src. */
  readonly file: string;
  readonly find: string;
  readonly replace: string;
}

const TILED = "reference/tiled.ts";
const DATA = "reference/data.ts";

/** Mistakes that attention kernels are known to make. The suite must catch each one. */
export const FAULTS: readonly Fault[] = [
  // The online softmax.
  { name: "acc is not rescaled", file: TILED, find: "acc[r * Dv + d] *= alpha", replace: "acc[r * Dv + d] *= 1" },
  { name: "l is not rescaled", file: TILED, find: "l[r] = alpha * l[r] + sum", replace: "l[r] = l[r] + sum" },
  { name: "each block subtracts its own max", file: TILED, find: "let max = m[r];", replace: "let max = -Infinity;" },
  {
    name: "the max is never subtracted",
    file: TILED,
    find: "const base = subtrahend(max);",
    replace: "const base = 0;",
  },
  {
    name: "-Infinity is subtracted from -Infinity",
    file: DATA,
    find: "return m === -Infinity ? 0 : m;",
    replace: "return m;",
  },
  {
    name: "the row sum is taken after dropout",
    file: TILED,
    find: "sum += P[r * Bc + c];",
    replace: "sum += P[r * Bc + c] * program.dropoutFactor(i0 + r, j0 + c);",
  },
  {
    name: "1e-6 is added to l",
    file: TILED,
    find: "acc[r * Dv + d] / l[r]",
    replace: "acc[r * Dv + d] / (l[r] + 1e-6)",
  },
  { name: "lse is in base 2", file: TILED, find: "m[r] + Math.log(l[r])", replace: "m[r] + Math.log2(l[r])" },
  { name: "lse leaves out m", file: TILED, find: "m[r] + Math.log(l[r])", replace: "Math.log(l[r])" },
  { name: "an empty row is divided by 0", file: TILED, find: "l[r] === 0 ? 0 : finiteOrNaN", replace: "finiteOrNaN" },
  { name: "an empty row has lse 0", file: TILED, find: "l[r] === 0 ? -Infinity :", replace: "l[r] === 0 ? 0 :" },
  // Visibility.
  {
    name: "causal shows one key too many",
    file: "mask.ts",
    find: `causal === "bottom-right" ? diagonal :`,
    replace: `causal === "bottom-right" ? diagonal + 1 :`,
  },
  {
    name: "top-left is taken for bottom-right",
    file: "mask.ts",
    find: `causal === "top-left" ? 0 :`,
    replace: `causal === "top-left" ? diagonal :`,
  },
  {
    name: "bottom-right is taken for top-left",
    file: "mask.ts",
    find: `causal === "bottom-right" ? diagonal :`,
    replace: `causal === "bottom-right" ? 0 :`,
  },
  {
    name: "the window is one key short on the left",
    file: "mask.ts",
    find: "diagonal - left,",
    replace: "diagonal - left + 1,",
  },
  { name: "the window counts from i, not i'", file: "mask.ts", find: "diagonal + right)", replace: "right)" },
  {
    name: "the last tile of keys is lost",
    file: TILED,
    find: "j0 < keys.end; j0",
    replace: "j0 + tile.kv < keys.end; j0",
  },
  {
    name: "a partly visible tile is taken for full",
    file: "mask.ts",
    find: `return fullBegin <= j0 && j1 <= fullEnd ? "full" : "partial";`,
    replace: `return "full";`,
  },
  { name: "a tile whose mask has a hole is taken for full", file: "mask.ts", find: "all &&= visible;", replace: "" },
  {
    name: "the mask is read as true = hidden",
    file: DATA,
    find: "data.mask![offsetIn(mask, b, h, i, j)] !== 0",
    replace: "data.mask![offsetIn(mask, b, h, i, j)] === 0",
  },
  {
    name: "hidden pairs are multiplied by 0, so NaN leaks",
    file: TILED,
    find: "if (!sees(i0 + r, j0 + c)) continue;",
    replace: "",
  },
  {
    name: "NaN is hidden as 0",
    file: DATA,
    find: "return Number.isFinite(x) ? x : NaN;",
    replace: "return Number.isFinite(x) ? x : 0;",
  },
  {
    name: "pairs of weight 0 are skipped, so a visible NaN is lost",
    file: TILED,
    find: "addScaled(acc, r * Dv, weight,",
    replace: "if (weight !== 0) addScaled(acc, r * Dv, weight,",
  },
  // The score program.
  {
    name: "the scale given is ignored",
    file: DATA,
    find: `step(program, "scale")!.scale`,
    replace: "1 / Math.sqrt(problem.D)",
  },
  {
    name: "softcap comes after bias",
    file: DATA,
    find: "      if (cap) s = cap * Math.tanh(s / cap);\n      if (bias) s += data.bias![biasAt(i, j)];",
    replace: "      if (bias) s += data.bias![biasAt(i, j)];\n      if (cap) s = cap * Math.tanh(s / cap);",
  },
  {
    name: "softcap has no derivative",
    file: DATA,
    find: "scale * (1 - Math.tanh((scale * qk) / cap) ** 2)",
    replace: "scale",
  },
  {
    name: "ALiBi counts from i, not i'",
    file: DATA,
    find: "slope * Math.abs(i + diagonal - j)",
    replace: "slope * Math.abs(i - j)",
  },
  { name: "ALiBi is added", file: DATA, find: "s -= slope", replace: "s += slope" },
  {
    name: "ALiBi of the first batch is used for all",
    file: DATA,
    find: "alibi.perBatch ? b * H + h : h",
    replace: "h",
  },
  { name: "a broadcast bias is read with a stride", file: "mask.ts", find: "i === 1 ? 0 : j,", replace: "j," },
  {
    name: "sinks are left out of the denominator",
    file: TILED,
    find: "program.sink === -Infinity ? 0 : 1",
    replace: "0",
  },
  { name: "the sink of the first head is used for all", file: DATA, find: "data.sinks[h]", replace: "data.sinks[0]" },
  // Heads, dims, layout.
  {
    name: "query head h reads key head h mod Hkv",
    file: TILED,
    find: "      const hkv = Math.floor(h / (H / Hkv));\n      const program = headProgram(problem, data, b, h);\n      for (let i0",
    replace: "      const hkv = h % Hkv;\n      const program = headProgram(problem, data, b, h);\n      for (let i0",
  },
  {
    name: "rows of v are D long",
    file: TILED,
    find: "addScaled(acc, r * Dv, weight, data.v, rowAt(rows.v, b, hkv, j0 + c), Dv);",
    replace: "addScaled(acc, r * Dv, weight, data.v, rowAt(rows.v, b, hkv, j0 + c), Math.min(D, Dv));",
  },
  {
    name: "bshd is read as bhsd",
    file: "problem.ts",
    find: `return layout === "bhsd" ? { batch, head: rows * dim`,
    replace: `return layout ? { batch, head: rows * dim`,
  },
  // Dropout.
  {
    name: "kept probabilities are not scaled",
    file: DATA,
    find: "const kept = dropout ? keepScale(dropout.p) : 1;",
    replace: "const kept = 1;",
  },
  { name: "Philox runs 10 rounds", file: "philox.ts", find: "DROPOUT_ROUNDS = 7", replace: "DROPOUT_ROUNDS = 10" },
  {
    name: "the halves of a word are swapped",
    file: "philox.ts",
    find: "draw % 2 ? word >>> 16 : word & 0xffff",
    replace: "draw % 2 ? word & 0xffff : word >>> 16",
  },
  { name: "a draw at the threshold is dropped", file: "philox.ts", find: ") >= threshold", replace: ") > threshold" },
  {
    name: "the high word of the seed is ignored",
    file: "philox.ts",
    find: "[dropout.seedLow, dropout.seedHigh]",
    replace: "[dropout.seedLow, 0]",
  },
  { name: "the offset is ignored", file: "philox.ts", find: "batchHead, dropout.offset]", replace: "batchHead, 0]" },
  {
    name: "every batch and head draws the same mask",
    file: DATA,
    find: "dropoutMask(dropout, b * H + h)",
    replace: "dropoutMask(dropout, 0)",
  },
  {
    name: "dropout counts rows within the tile",
    file: TILED,
    find: "P[r * Bc + c] * program.dropoutFactor(i0 + r, j0 + c);\n              addScaled",
    replace: "P[r * Bc + c] * program.dropoutFactor(r, j0 + c);\n              addScaled",
  },
  // Backward.
  { name: "dS leaves out delta", file: TILED, find: "P * (dP - delta[i])", replace: "P * dP" },
  {
    name: "dv does not see dropout",
    file: TILED,
    find: "addScaled(dv, value, P * factor,",
    replace: "addScaled(dv, value, P,",
  },
  { name: "dP does not see dropout", file: TILED, find: "const dP = factor * dot", replace: "const dP = dot" },
  {
    name: "dq leaves out the scale",
    file: TILED,
    find: "addScaled(dq, query, dqk,",
    replace: "addScaled(dq, query, dS,",
  },
  { name: "dk leaves out the scale", file: TILED, find: "addScaled(dk, key, dqk,", replace: "addScaled(dk, key, dS," },
  {
    name: "a broadcast dbias is overwritten, not summed",
    file: TILED,
    find: "dbias[program.biasAt(i, j)] += dS",
    replace: "dbias[program.biasAt(i, j)] = dS",
  },
  {
    name: "dsinks has the other sign",
    file: TILED,
    find: "gradients.dsinks[h] -=",
    replace: "gradients.dsinks[h] +=",
  },
  {
    name: "the backward pass ignores visibility",
    file: TILED,
    find: `if (visibility !== "full" && !program.visible(i, j)) continue;`,
    replace: "",
  },
  {
    name: "an empty row has probabilities in the backward pass",
    file: TILED,
    find: "if (lse === -Infinity) continue;",
    replace: "",
  },
  {
    name: "the backward pass starts at the wrong tile of rows",
    file: TILED,
    find: "Math.floor(seen.begin / tile.q) * tile.q",
    replace: "Math.ceil(seen.begin / tile.q) * tile.q",
  },
  // Numbers.
  {
    name: "half types are truncated, not rounded",
    file: "dtype.ts",
    find: "x + 2 ** 52 - 2 ** 52",
    replace: "Math.floor(x)",
  },
  {
    name: "float8 overflows to infinity",
    file: "dtype.ts",
    find: `max: 448, overflow: "saturate"`,
    replace: `max: 448, overflow: "infinity"`,
  },
  {
    name: "two runs give different bits",
    file: TILED,
    find: "const alpha = Math.exp(m[r] - base);",
    replace: "const alpha = Math.exp(m[r] - base) * (1 + 1e-6 * Math.random());",
  },
  { name: "linear forgets its bias", file: "reference/linear.ts", find: "+ (bias?.[n] ?? 0)", replace: "" },
  {
    name: "linear splits at the wrong column",
    file: "reference/linear.ts",
    find: "const n = first + c;\n        y[",
    replace: "const n = c;\n        y[",
  },
];
