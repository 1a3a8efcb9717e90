/**
 * How much memory each piece of a kernel's workspace takes, by the name of the field of `c/params.h` that points to it.
 * A packed operand has its rows padded to whole register blocks and its columns to whole panels.
 */
import { step, type AttentionProblem, type Broadcast, type FloatDType, type LinearProblem, type Tile } from "@fa/core";
import { BACKWARD_PARAMS, FORWARD_PARAMS, LINEAR_PARAMS, PART, sizeOf } from "./abi.ts";
import { ALIGNMENT } from "./allocator.ts";

/** Bytes of each piece. */
export type Pieces = Readonly<Record<string, number>>;

/** A multiple of the rows of every register block that is built (4 and 6), and of the four rows that Delta takes at once. */
const ROW_UNIT = 12;
const PANEL = 8;
/** Decode makes scores of 6 or 8 keys at a time. */
const DECODE_KEYS = 24;
/** Depth of a block of linear. */
export const LINEAR_DEPTH = 256;
const F32 = 4;
const F64 = 8;

const roundUp = (n: number, unit: number): number => Math.ceil(n / unit) * unit;

export function forwardPieces({ B, H, Skv, D, Dv, program }: AttentionProblem, tile: Tile): Pieces {
  const { Br, Bc8, line, tiles, D8, Dv8 } = tileSizes(tile, Skv, D, Dv);
  return {
    params: sizeOf(FORWARD_PARAMS),
    slopes: step(program, "alibi") ? B * H * F32 : 0,
    sinks: step(program, "sinks") ? H * F32 : 0,
    kColumns: tiles * Bc8 * D * F32,
    vPanels: tiles * tile.kv * Dv8 * F32,
    vFinite: tiles,
    qRows: Br * D8 * F32,
    scores: Br * Bc8 * F32,
    scoresLow: Br * Bc8 * F32,
    acc: Br * Dv8 * F32,
    rowMax: Br * F32,
    rowTop: Br * F32,
    rowSum: Br * F32,
    rowScale: Br * F32,
    line: line * F32,
  };
}

/** Few query rows: all of a key head are one block, and of K and V only a tile is copied, if at all. */
export function decodePieces(problem: AttentionProblem, tile: Tile): Pieces {
  const { H, Hkv, Sq, Skv } = problem;
  // Each head fills up its last register block, the last head past the end.
  const rows = (Sq * H) / Math.max(Hkv, 1) + ROW_UNIT;
  return forwardPieces({ ...problem, Skv: Math.min(Skv, tile.kv) }, { q: rows, kv: roundUp(tile.kv, DECODE_KEYS) });
}

export function backwardPieces(problem: AttentionProblem, tile: Tile): Pieces {
  const { B, H, Skv, D, Dv, program } = problem;
  const { Br, Bc8, line, tiles, D8, Dv8 } = tileSizes(tile, Skv, D, Dv);
  const keyRows = tiles * roundUp(tile.kv, ROW_UNIT);
  const dbias = biasGradient(problem);
  return {
    params: sizeOf(BACKWARD_PARAMS),
    slopes: step(program, "alibi") ? B * H * F32 : 0,
    sinks: step(program, "sinks") ? H * F32 : 0,
    dsinks: step(program, "sinks") ? H * F64 : 0,
    dbias: dbias && !dbias.inPlace ? dbias.elements * (dbias.double ? F64 : F32) : 0,
    kColumns: tiles * Bc8 * D * F32,
    vColumns: tiles * Bc8 * Dv * F32,
    kPanels: D8 * Skv * F32,
    kFinite: tiles,
    dkAcc: keyRows * D8 * F32,
    dvAcc: keyRows * Dv8 * F32,
    qRows: Br * D8 * F32,
    qPanels: Br * D8 * F32,
    doutRows: Br * Dv8 * F32,
    doutPanels: Br * Dv8 * F32,
    outRows: Br * Dv8 * F32,
    dqAcc: Br * D8 * F32,
    // The transposed product reads whole register blocks of keys, past the end of the last row.
    probs: (Br * Bc8 + ROW_UNIT) * F32,
    grads: (Br * Bc8 + ROW_UNIT) * F32,
    probsLow: Br * Bc8 * F32,
    capGrads: step(program, "softcap") ? Br * Bc8 * F32 : 0,
    rowLse: Br * F32,
    rowLseLow: Br * F32,
    rowTotal: Br * F64,
    delta: Br * F32,
    line: line * F32,
  };
}

export function linearPieces({ op, N, K, split }: LinearProblem, tile: Tile): Pieces {
  const Mc = roundUp(tile.q, ROW_UNIT);
  const Nc = roundUp(tile.kv, PANEL);
  const depth = op === "linear" ? K : Math.max(N, LINEAR_DEPTH);
  return {
    params: sizeOf(LINEAR_PARAMS),
    y: split.length * sizeOf(PART),
    aBlock: Mc * LINEAR_DEPTH * F32,
    bBlock: depth * Math.min(Nc, roundUp(Math.max(N, K), PANEL)) * F32,
    cBlock: Mc * Nc * F32,
    line: Math.max(N, Nc) * F32,
    sums: op === "linear" ? 0 : N * F64,
  };
}

export interface BiasGradient {
  readonly dtype: FloatDType;
  readonly operand: Broadcast;
  readonly elements: number;
  /** Summed in float64 rather than float32. */
  readonly double: boolean;
  /** Summed in the result itself. */
  readonly inPlace: boolean;
}

/** Where dbias is summed: in the result where that is float32 and the sums are short, else beside it. */
export function biasGradient({ program, Sq, Skv }: AttentionProblem): BiasGradient | undefined {
  const bias = step(program, "bias");
  if (!bias) return undefined;
  const { shape } = bias.operand;
  // Sums along rows or keys are long and their result small: double. Along batches and heads neither holds.
  const double = shape[2] < Sq || shape[3] < Skv;
  const elements = shape.reduce((product, size) => product * size, 1);
  return { dtype: bias.dtype, operand: bias.operand, elements, double, inPlace: !double && bias.dtype === "float32" };
}

function tileSizes(tile: Tile, Skv: number, D: number, Dv: number) {
  return {
    Br: roundUp(tile.q, ROW_UNIT),
    Bc8: roundUp(tile.kv, PANEL),
    /** Dropout draws for 32 keys at a time, from a multiple of 8 on. */
    line: roundUp(tile.kv, 32) + 64,
    tiles: Math.ceil(Skv / tile.kv),
    D8: roundUp(D, PANEL),
    Dv8: roundUp(Dv, PANEL),
  };
}

/** Bytes of the pieces laid one after the other, each aligned. */
export function totalBytes(pieces: Pieces): number {
  return Object.values(pieces).reduce((sum, bytes) => sum + roundUp(bytes, ALIGNMENT), 0);
}

/** The address of each piece in a block that begins at `address`. */
export function layOut(pieces: Pieces, address: number): Readonly<Record<string, number>> {
  let at = address;
  return Object.fromEntries(
    Object.entries(pieces).map(([name, bytes]) => {
      const start = at;
      at += roundUp(bytes, ALIGNMENT);
      return [name, start];
    }),
  );
}
