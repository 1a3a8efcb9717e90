import { bytesPerElement, FaError, rowStrides, step, type AttentionProblem, type DType } from "@fa/core";
import type { BufferWindow, DeviceLimits } from "./row.ts";

/**
 * Attention on tensors larger than a shader may see at once runs in pieces: ranges of batches, key heads (with the query heads
 * that share them) and query rows. Keys are never split here.
 */
export interface Piece {
  readonly batch: Span;
  /** Key heads. */
  readonly head: Span;
  /** Query rows. */
  readonly row: Span;
  /** The part of each tensor that the piece reads or writes, and how many elements lie before it. */
  readonly windows: Readonly<Record<string, BufferWindow & { readonly first: number }>>;
}

/** [from, to) */
export interface Span {
  readonly from: number;
  readonly to: number;
}

/** A tensor as pieces see it: strides in elements along batches, heads and rows, and elements of a row. */
export interface Extent {
  readonly bytes: number;
  readonly batch: number;
  readonly head: number;
  readonly row: number;
  readonly inner: number;
  /** Whether heads and rows are those of the keys. */
  readonly keys: boolean;
}

/** Shaders count elements, and bytes of the mask, in 32 bits. */
const MAX_WINDOW_BYTES = 2 ** 32 - 2 ** 16;

/**
 * The fewest pieces, found by halving, whose windows all fit a binding.
 * @param names tensors to see: q, k, v, out, lse, dout, dq, dk, dv, bias, mask
 * @param rowStep pieces begin at rows that are multiples of it; Infinity keeps all rows together
 * @param more parts of the workspace, say
 * @throws FaError FA_UNSUPPORTED if the keys and values of one head do not fit
 */
export function piecesOf(
  problem: AttentionProblem,
  names: readonly string[],
  limits: DeviceLimits,
  rowStep: number,
  more: Readonly<Record<string, Extent>> = {},
): Piece[] {
  const { B, Hkv, Sq } = problem;
  const extents = { ...Object.fromEntries(names.map((name) => [name, extentOf(problem, name)])), ...more };
  const most = Math.min(limits.maxStorageBufferBindingSize, MAX_WINDOW_BYTES);
  const pieces: Piece[] = [];

  const cover = (batch: Span, head: Span, row: Span): void => {
    const windows = windowsOf(problem, extents, { batch, head, row }, limits.minStorageBufferOffsetAlignment);
    const tooLarge = Object.values(windows).find(({ bytes }) => bytes! > most);
    if (!tooLarge) {
      pieces.push({ batch, head, row, windows });
      return;
    }
    if (batch.to - batch.from > 1) for (const half of halves(batch, 1)) cover(half, head, row);
    else if (head.to - head.from > 1) for (const half of halves(head, 1)) cover(batch, half, row);
    else if (row.to - row.from > rowStep) for (const half of halves(row, rowStep)) cover(batch, head, half);
    else {
      throw new FaError(
        "FA_UNSUPPORTED",
        `webgpu: what one head needs of ${tooLarge.name} must fit a binding of ${most} bytes; got ${tooLarge.bytes}. Split the keys and combine by lse, or use layout bhsd.`,
      );
    }
  };
  cover({ from: 0, to: B }, { from: 0, to: Hkv }, { from: 0, to: Sq });
  return pieces;
}

function halves({ from, to }: Span, unit: number): [Span, Span] {
  const middle = from + Math.ceil((to - from) / unit / 2) * unit;
  return [
    { from, to: middle },
    { from: middle, to },
  ];
}

function windowsOf(
  { H, Hkv, Skv }: AttentionProblem,
  extents: Readonly<Record<string, Extent>>,
  { batch, head, row }: Pick<Piece, "batch" | "head" | "row">,
  alignment: number,
): Piece["windows"] {
  const group = H / Hkv;
  const windows: Record<string, BufferWindow & { first: number }> = {};
  for (const [name, { bytes, keys, inner, ...strides }] of Object.entries(extents)) {
    const heads = keys ? head : { from: head.from * group, to: head.to * group };
    const rows = keys ? { from: 0, to: Skv } : row;
    const begin = batch.from * strides.batch + heads.from * strides.head + rows.from * strides.row;
    const last =
      (batch.to - 1) * strides.batch + (heads.to - 1) * strides.head + Math.max(0, rows.to - 1) * strides.row + inner;
    const offset = Math.floor((begin * bytes) / alignment) * alignment;
    windows[name] = { name, offset, bytes: Math.ceil((last * bytes) / 4) * 4 - offset, first: offset / bytes };
  }
  return windows;
}

function extentOf(problem: AttentionProblem, name: string): Extent {
  const { layout, H, Hkv, Sq, Skv, D, Dv, program } = problem;
  const rows = (heads: number, length: number, dim: number, dtype: DType, keys: boolean): Extent => ({
    bytes: bytesPerElement(dtype),
    ...rowStrides(layout, heads, length, dim),
    inner: dim,
    keys,
  });
  const broadcast = (dtype: DType, [batch, head, row, key]: readonly number[]): Extent => ({
    bytes: bytesPerElement(dtype),
    batch,
    head,
    row,
    inner: key === 0 ? 1 : Skv,
    keys: false,
  });
  switch (name) {
    case "q":
      return rows(H, Sq, D, problem.dtype, false);
    case "k":
      return rows(Hkv, Skv, D, problem.dtype, true);
    case "v":
      return rows(Hkv, Skv, Dv, problem.dtype, true);
    case "dq":
      return rows(H, Sq, D, problem.resultDType, false);
    case "dk":
      return rows(Hkv, Skv, D, problem.resultDType, true);
    case "dv":
      return rows(Hkv, Skv, Dv, problem.resultDType, true);
    case "out":
    case "dout":
      return rows(H, Sq, Dv, problem.resultDType, false);
    case "lse":
      return { bytes: 4, batch: H * Sq, head: Sq, row: 1, inner: 1, keys: false };
    case "bias": {
      const { dtype, operand } = step(program, "bias")!;
      return broadcast(dtype, operand.strides);
    }
    case "mask":
      return broadcast("bool", step(program, "visibility")!.mask!.strides);
    default:
      throw new Error(`no extent for ${name}`);
  }
}
