/**
 * The definition of attention, in float64, with the row of scores written out: what every kernel is measured against.
 * `round` is applied to each array that an unfused implementation would store; with the rounding of a half type it gives
 * the error that such an implementation has, which the tolerances for half types are stated in.
 */
import type { AttentionProblem } from "../problem.ts";
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
} from "./data.ts";

type Round = (x: number) => number;
const exact: Round = (x) => x;

/** Whether query row i of head h of batch b is computed. */
type TakesRow = (b: number, h: number, i: number) => boolean;
const everyRow: TakesRow = () => true;

/**
 * out = softmax(scores) v and lse, with every option of the problem.
 * @param takes rows to compute, where not all are wanted: the others are 0
 */
export function naiveAttention(
  problem: AttentionProblem,
  data: AttentionData,
  round: Round = exact,
  takes: TakesRow = everyRow,
): AttentionNumbers {
  const { B, H, Hkv, Sq, Skv, Dv } = problem;
  const rows = rowsOf(problem);
  const out = new Float64Array(B * H * Sq * Dv);
  const lse = new Float64Array(B * H * Sq);
  for (const row of probabilities(problem, data, round, takes)) {
    const { b, h, i, P, dropoutFactor } = row;
    lse[(b * H + h) * Sq + i] = row.lse;
    if (row.lse === -Infinity) continue;
    const at = rowAt(rows.out, b, h, i);
    for (let j = 0; j < Skv; j++) {
      if (!row.visible[j]) continue;
      const value = rowAt(rows.v, b, Math.floor(h / (H / Hkv)), j);
      addScaled(out, at, round(P[j] * dropoutFactor(i, j)), data.v, value, Dv);
    }
    for (let d = 0; d < Dv; d++) out[at + d] = round(finiteOrNaN(out[at + d]));
  }
  return { out, lse };
}

/**
 * Gradients for `dout`, by the chain rule on the definition.
 * @param takes rows that take part, where not all do: the gradients are those of their out alone
 */
export function naiveAttentionBackward(
  problem: AttentionProblem,
  data: AttentionData,
  dout: Float64Array,
  round: Round = exact,
  takes: TakesRow = everyRow,
): GradientNumbers {
  const { H, Hkv, Skv, D, Dv } = problem;
  const rows = rowsOf(problem);
  const dq = new Float64Array(data.q.length);
  const dk = new Float64Array(data.k.length);
  const dv = new Float64Array(data.v.length);
  const dbias = data.bias && new Float64Array(data.bias.length);
  const dsinks = data.sinks && new Float64Array(data.sinks.length);
  const dP = new Float64Array(Skv);
  for (const { b, h, i, P, qk, visible, lse, sink, scoreSlope, dropoutFactor, biasAt } of probabilities(
    problem,
    data,
    round,
    takes,
  )) {
    const hkv = Math.floor(h / (H / Hkv));
    const at = { q: rowAt(rows.q, b, h, i), dout: rowAt(rows.out, b, h, i) };
    let delta = 0;
    for (let j = 0; j < Skv; j++) {
      if (!visible[j]) continue;
      const value = rowAt(rows.v, b, hkv, j);
      dP[j] = round(dot(dout, at.dout, data.v, value, Dv) * dropoutFactor(i, j));
      delta += P[j] * dP[j];
      addScaled(dv, value, round(P[j] * dropoutFactor(i, j)), dout, at.dout, Dv);
    }
    for (let j = 0; j < Skv; j++) {
      if (!visible[j]) continue;
      const dS = round(P[j] * (dP[j] - delta));
      if (dbias) dbias[biasAt(i, j)] += dS;
      const key = rowAt(rows.k, b, hkv, j);
      addScaled(dq, at.q, round(dS * scoreSlope(qk[j])), data.k, key, D);
      addScaled(dk, key, round(dS * scoreSlope(qk[j])), data.q, at.q, D);
    }
    if (dsinks && lse !== -Infinity) dsinks[h] -= Math.exp(sink - lse) * delta;
  }
  for (const gradient of [dq, dk, dv]) gradient.forEach((x, n) => (gradient[n] = round(x)));
  return { dq, dk, dv, dbias, dsinks };
}

/** Each query row in turn: its raw products, what it sees, and its normalised probabilities before dropout. */
function* probabilities(problem: AttentionProblem, data: AttentionData, round: Round, takes: TakesRow) {
  const { B, H, Hkv, Sq, Skv, D } = problem;
  const rows = rowsOf(problem);
  const qk = new Float64Array(Skv);
  const P = new Float64Array(Skv);
  const visible = new Uint8Array(Skv);
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < H; h++) {
      const program = headProgram(problem, data, b, h);
      const { sink } = program;
      for (let i = 0; i < Sq; i++) {
        if (!takes(b, h, i)) continue;
        let m = sink;
        for (let j = 0; j < Skv; j++) {
          visible[j] = program.visible(i, j) ? 1 : 0;
          if (!visible[j]) continue;
          const key = rowAt(rows.k, b, Math.floor(h / (H / Hkv)), j);
          qk[j] = dot(data.q, rowAt(rows.q, b, h, i), data.k, key, D);
          P[j] = round(program.score(i, j, qk[j]));
          if (P[j] > m) m = P[j]!;
        }
        const base = subtrahend(m);
        let l = Math.exp(sink - base);
        for (let j = 0; j < Skv; j++) {
          P[j] = visible[j] ? Math.exp(P[j] - base) : 0;
          l += P[j];
        }
        for (let j = 0; j < Skv; j++) P[j] = l === 0 ? 0 : round(P[j] / l);
        yield { ...program, b, h, i, qk, visible, P, lse: base + Math.log(l) };
      }
    }
  }
}
