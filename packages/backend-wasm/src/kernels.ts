import { FLOAT_DTYPES, MAX_HEAD_DIM, SCORE_STEPS, type KernelRow, type Problem, type Tile } from "@fa/core";
import type { Variant } from "./module.ts";
import { backwardPieces, decodePieces, forwardPieces, linearPieces, totalBytes, type Pieces } from "./workspace.ts";

/** What a device must have for the rows of a variant. */
export const FEATURE: Readonly<Record<Variant, string>> = { relaxed: "relaxed-simd", plain: "simd128" };

/** Tile sizes, measured (c/NOTES.md). Multiples of 24 fill the register blocks of both variants, 6 and 4 rows by 8. */
const FORWARD_TILE: Tile = { q: 96, kv: 192 };
const DECODE_TILE: Tile = { q: 16, kv: 192 };
/** Query rows of a key head that are decoded as one block; MAX_DECODE_ROWS of c/decode.c. */
const DECODE_ROWS = 16;
const BACKWARD_TILE: Tile = { q: 48, kv: 48 };
const LINEAR_TILE: Tile = { q: 96, kv: 192 };
const MAX_TILE: Tile = { q: 256, kv: 256 };

/** The rows of one variant. Every row takes every dtype, head dim and option: what is not in use costs a test per tile. */
function rowsOf(variant: Variant): KernelRow[] {
  const row = { dtypes: FLOAT_DTYPES, needs: [FEATURE[variant]], maxTile: MAX_TILE };
  const attention = { ...row, headDim: { min: 1, max: MAX_HEAD_DIM }, steps: SCORE_STEPS };
  const sized =
    <P extends Problem>(pieces: (problem: P, tile: Tile) => Pieces) =>
    (problem: Problem, tile: Tile): number =>
      totalBytes(pieces(problem as P, tile));
  return [
    {
      ...attention,
      id: `decode-${variant}`,
      op: "attention",
      maxRows: DECODE_ROWS,
      tile: DECODE_TILE,
      workspaceBytes: sized(decodePieces),
    },
    {
      ...attention,
      id: `forward-${variant}`,
      op: "attention",
      tile: FORWARD_TILE,
      workspaceBytes: sized(forwardPieces),
    },
    {
      ...attention,
      id: `backward-${variant}`,
      op: "attentionBackward",
      tile: BACKWARD_TILE,
      workspaceBytes: sized(backwardPieces),
    },
    { ...row, id: `linear-${variant}`, op: "linear", tile: LINEAR_TILE, workspaceBytes: sized(linearPieces) },
    {
      ...row,
      id: `linear-backward-${variant}`,
      op: "linearBackward",
      tile: LINEAR_TILE,
      workspaceBytes: sized(linearPieces),
    },
    { ...row, id: `cast-${variant}`, op: "cast", tile: { q: 1, kv: 256 }, workspaceBytes: () => 0 },
  ];
}

/** All that this package has; the planner takes the first row whose needs the device meets. */
export const KERNELS: readonly KernelRow[] = [...rowsOf("relaxed"), ...rowsOf("plain")];
