/**
 * FlashAttention as the kernels run it, written to be read: one tile of scores at a time, an online softmax, nothing of
 * size Sq x Skv ever stored. In float64, so that a kernel's m, l and acc can be compared tile by tile with these.
 *
 * Stages, as in every kernel: setup, load, scores, softmax, accumulate, finish.
 */
import {
  keyRange,
  rowRange,
  tileVisibility,
  EVERYTHING,
  type Band,
  type Broadcast,
  type TileVisibility,
  type VisibleRange,
} from "../mask.ts";
import type { Tile } from "../plan.ts";
import type { AttentionProblem } from "../problem.ts";
import { step } from "../score-program.ts";
import {
  addScaled,
  dot,
  finiteOrNaN,
  headProgram,
  rowAt,
  rowsOf,
  subtrahend,
  type AttentionData,
  type AttentionNumbers,
  type GradientNumbers,
  type HeadProgram,
} from "./data.ts";

/** The state of a block of rows after one tile of keys: what a kernel holds in registers at that moment. */
export interface TileEvent {
  readonly b: number;
  readonly h: number;
  /** Query rows [from, to) of the block. */
  readonly rows: readonly [number, number];
  /** Keys [from, to) of the tile just taken in. */
  readonly keys: readonly [number, number];
  readonly visibility: Exclude<TileVisibility, "empty">;
  /** [Br, Bc] scores of the tile, -Infinity where hidden. */
  readonly S: Float64Array;
  /** [Br, Bc] exp(S - m), before dropout. */
  readonly P: Float64Array;
  /** [Br] running row max. */
  readonly m: Float64Array;
  /** [Br] running row sum. */
  readonly l: Float64Array;
  /** [Br, Dv] running sum of P v. */
  readonly acc: Float64Array;
}

/**
 * Attention by tiles of `tile.q` rows and `tile.kv` keys.
 * @param observe called after each tile with live arrays: copy what should be kept
 * @see Dao et al., "FlashAttention-2", 2023, algorithm 1
 */
export function tiledAttention(
  problem: AttentionProblem,
  data: AttentionData,
  tile: Tile,
  observe?: (event: TileEvent) => void,
): AttentionNumbers {
  const { B, H, Hkv, Sq, Skv, D, Dv } = problem;
  const rows = rowsOf(problem);
  const { band, mask } = visibilityOf(problem);
  const out = new Float64Array(B * H * Sq * Dv);
  const lse = new Float64Array(B * H * Sq);
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < H; h++) {
      const hkv = Math.floor(h / (H / Hkv));
      const program = headProgram(problem, data, b, h);
      for (let i0 = 0; i0 < Sq; i0 += tile.q) {
        const i1 = Math.min(i0 + tile.q, Sq);
        const Br = i1 - i0;

        // setup: m, l [Br], acc [Br, Dv]. A sink is a logit seen before any key, with no value.
        const m = new Float64Array(Br).fill(program.sink);
        const l = new Float64Array(Br).fill(program.sink === -Infinity ? 0 : 1);
        const acc = new Float64Array(Br * Dv);

        const keys = keyRange(band, i0, i1, Skv);
        for (let j0 = Math.floor(keys.begin / tile.kv) * tile.kv; j0 < keys.end; j0 += tile.kv) {
          // load: the tile of keys and values, unless no row of the block sees any of it.
          const j1 = Math.min(j0 + tile.kv, Skv);
          const Bc = j1 - j0;
          const visibility = tileVisibility({ band, mask }, data.mask, [b, h], [i0, i1], [j0, j1]);
          if (visibility === "empty") continue;
          const sees = visibility === "full" ? () => true : program.visible;

          // scores: S = program(q k^T) [Br, Bc]
          const S = new Float64Array(Br * Bc);
          for (let r = 0; r < Br; r++) {
            for (let c = 0; c < Bc; c++) {
              const qk = dot(data.q, rowAt(rows.q, b, h, i0 + r), data.k, rowAt(rows.k, b, hkv, j0 + c), D);
              S[r * Bc + c] = sees(i0 + r, j0 + c) ? program.score(i0 + r, j0 + c, qk) : -Infinity;
            }
          }

          // softmax: P = exp(S - m) [Br, Bc]; what earlier tiles left is rescaled to the new max.
          const P = new Float64Array(Br * Bc);
          for (let r = 0; r < Br; r++) {
            let max = m[r];
            for (let c = 0; c < Bc; c++) if (S[r * Bc + c] > max) max = S[r * Bc + c]!;
            const base = subtrahend(max);
            const alpha = Math.exp(m[r] - base);
            let sum = 0;
            for (let c = 0; c < Bc; c++) {
              P[r * Bc + c] = Math.exp(S[r * Bc + c] - base);
              sum += P[r * Bc + c];
            }
            l[r] = alpha * l[r] + sum;
            m[r] = max;
            for (let d = 0; d < Dv; d++) acc[r * Dv + d] *= alpha;
          }

          // accumulate: acc += dropout(P) v [Br, Dv]. Hidden pairs are skipped, not multiplied by 0: 0 * NaN is NaN.
          for (let r = 0; r < Br; r++) {
            for (let c = 0; c < Bc; c++) {
              if (!sees(i0 + r, j0 + c)) continue;
              const weight = P[r * Bc + c] * program.dropoutFactor(i0 + r, j0 + c);
              addScaled(acc, r * Dv, weight, data.v, rowAt(rows.v, b, hkv, j0 + c), Dv);
            }
          }
          observe?.({ b, h, rows: [i0, i1], keys: [j0, j1], visibility, S, P, m, l, acc });
        }

        // finish: out = acc / l [Br, Dv], lse = m + ln l [Br]. A row that saw nothing has l = 0.
        for (let r = 0; r < Br; r++) {
          const at = rowAt(rows.out, b, h, i0 + r);
          for (let d = 0; d < Dv; d++) out[at + d] = l[r] === 0 ? 0 : finiteOrNaN(acc[r * Dv + d] / l[r]);
          lse[(b * H + h) * Sq + i0 + r] = l[r] === 0 ? -Infinity : m[r] + Math.log(l[r]);
        }
      }
    }
  }
  return { out, lse };
}

/**
 * Gradients by tiles: keys outside, rows inside, probabilities recomputed from lse.
 * @see Dao et al., "FlashAttention-2", 2023, algorithm 2
 */
export function tiledAttentionBackward(
  problem: AttentionProblem,
  data: AttentionData & AttentionNumbers & { readonly dout: Float64Array },
  tile: Tile,
): GradientNumbers {
  const { B, H, Hkv, Sq, Skv, Dv } = problem;
  const rows = rowsOf(problem);
  const { band, mask } = visibilityOf(problem);
  const gradients = {
    dq: new Float64Array(data.q.length),
    dk: new Float64Array(data.k.length),
    dv: new Float64Array(data.v.length),
    dbias: data.bias && new Float64Array(data.bias.length),
    dsinks: data.sinks && new Float64Array(data.sinks.length),
  };
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < H; h++) {
      const hkv = Math.floor(h / (H / Hkv));
      const program = headProgram(problem, data, b, h);

      // setup: delta = rowsum(dout * out) [Sq], which is rowsum(P * dP) without the row; and the sink's share of it.
      const delta = new Float64Array(Sq);
      for (let i = 0; i < Sq; i++) {
        const at = rowAt(rows.out, b, h, i);
        delta[i] = dot(data.dout, at, data.out, at, Dv);
        // Out is 0 where the row sees no key, but 0 times a dout that is NaN is not.
        if (Number.isNaN(delta[i]) && !seesAny(program, i, keyRange(band, i, i + 1, Skv))) delta[i] = 0;
        const lse = data.lse[(b * H + h) * Sq + i];
        if (gradients.dsinks && lse !== -Infinity) gradients.dsinks[h] -= Math.exp(program.sink - lse) * delta[i];
      }

      for (let j0 = 0; j0 < Skv; j0 += tile.kv) {
        const j1 = Math.min(j0 + tile.kv, Skv);
        const seen = rowRange(band, j0, j1, Sq);
        for (let i0 = Math.floor(seen.begin / tile.q) * tile.q; i0 < seen.end; i0 += tile.q) {
          const i1 = Math.min(i0 + tile.q, Sq);
          const visibility = tileVisibility({ band, mask }, data.mask, [b, h], [i0, i1], [j0, j1]);
          if (visibility === "empty") continue;
          backwardTile(problem, data, program, { b, h, hkv }, delta, [i0, i1], [j0, j1], visibility, gradients);
        }
      }
    }
  }
  return gradients;
}

function seesAny({ visible }: HeadProgram, i: number, { begin, end }: VisibleRange): boolean {
  for (let j = begin; j < end; j++) if (visible(i, j)) return true;
  return false;
}

/** One tile of the backward pass: each visible pair adds to dv, dk, dq and dbias. */
function backwardTile(
  problem: AttentionProblem,
  data: AttentionData & AttentionNumbers & { readonly dout: Float64Array },
  program: HeadProgram,
  { b, h, hkv }: { readonly b: number; readonly h: number; readonly hkv: number },
  delta: Float64Array,
  [i0, i1]: readonly [number, number],
  [j0, j1]: readonly [number, number],
  visibility: TileVisibility,
  { dq, dk, dv, dbias }: GradientNumbers,
): void {
  const { H, Sq, D, Dv } = problem;
  const rows = rowsOf(problem);
  for (let i = i0; i < i1; i++) {
    const lse = data.lse[(b * H + h) * Sq + i];
    if (lse === -Infinity) continue;
    // load: one row of q and dout
    const query = rowAt(rows.q, b, h, i);
    const gradient = rowAt(rows.out, b, h, i);
    for (let j = j0; j < j1; j++) {
      if (visibility !== "full" && !program.visible(i, j)) continue;
      const key = rowAt(rows.k, b, hkv, j);
      const value = rowAt(rows.v, b, hkv, j);
      // scores: s = program(q.k), and its softmax from lse
      const qk = dot(data.q, query, data.k, key, D);
      const P = Math.exp(program.score(i, j, qk) - lse);
      // softmax: dS = P (dP - delta), dP through dropout
      const factor = program.dropoutFactor(i, j);
      const dP = factor * dot(data.dout, gradient, data.v, value, Dv);
      const dS = P * (dP - delta[i]);
      // accumulate
      addScaled(dv, value, P * factor, data.dout, gradient, Dv);
      if (dbias) dbias[program.biasAt(i, j)] += dS;
      const dqk = dS * program.scoreSlope(qk);
      addScaled(dq, query, dqk, data.k, key, D);
      addScaled(dk, key, dqk, data.q, query, D);
    }
  }
}

function visibilityOf({ program }: AttentionProblem): { readonly band: Band; readonly mask: Broadcast | undefined } {
  const { band = EVERYTHING, mask } = step(program, "visibility") ?? {};
  return { band, mask };
}
