import { FLOAT_DTYPES, type FloatDType, type LinearProblem, type Plan } from "@fa/core";
import { DTYPE_CODES, dtypeCode } from "./dtypes.ts";
import { Words, type BufferWindow, type DeviceLimits, type Pass, type WebgpuRow } from "./row.ts";
import { LEAST_LIMITS, windowElements, windowOf } from "./element-windows.ts";

/** Rows and columns of the tile that a workgroup owns, by blocks a thread along each. */
const TILE_OF_BLOCKS = { 1: 64, 2: 128 } as const;
/** The large tile is taken where at least so many of them keep a device busy. */
const FEWEST_LARGE_TILES = 160;
/** Where tiles are fewer, workgroups share them, up to so many in all, each with at least so much of r. */
const WORKGROUPS_THAT_SHARE = 256;
const LEAST_SHARE = 128;
const TILE = { q: TILE_OF_BLOCKS[2], kv: TILE_OF_BLOCKS[2] };

type Limits = typeof LEAST_LIMITS;

/** A matrix in a tensor: element [row, column] is number base + row * stride + column. */
interface Matrix {
  readonly name: string;
  readonly base: number;
  readonly stride: number;
}

/** One term of a sum of products a b. Rows of a in storage run along i or r, those of b along j or r. */
interface Term {
  readonly a: Matrix & { readonly rows: "i" | "r" };
  readonly b: Matrix & { readonly rows: "j" | "r" };
  readonly R: number;
}

/** c [I, J] = sum of terms, + bias [J]; and the sums of the rows of a, over all terms, [I]. */
interface Product {
  readonly dtype: FloatDType;
  readonly I: number;
  readonly J: number;
  readonly terms: readonly Term[];
  readonly c: Matrix;
  readonly bias?: { readonly name: string; readonly base: number } | undefined;
  readonly rowSums?: { readonly name: string; readonly base: number } | undefined;
}

type Range = readonly [number, number];

/** `[0, size)` in pieces, one even if it is empty. */
function pieces(size: number, most: number): Range[] {
  const made: Range[] = [];
  for (let first = 0; first === 0 || first < size; first += most) made.push([first, Math.min(first + most, size)]);
  return made;
}

/** How a product is cut so that each pass sees windows of its tensors. */
function cut({ dtype, I, J, terms, c }: Product, limits: Limits) {
  // Multiples of 4 keep quads whole.
  const fit = (strides: readonly number[], elements: number): number =>
    strides.reduce((least, stride) => {
      const rows = Math.max(1, Math.floor(elements / Math.max(stride, 1)));
      return Math.min(least, rows > 4 ? rows - (rows % 4) : rows);
    }, Infinity);
  const elements = windowElements(dtype, limits);
  const strides = (rows: "i" | "j" | "r"): number[] =>
    terms.flatMap(({ a, b }) => [a, b].filter((operand) => operand.rows === rows).map(({ stride }) => stride));
  const steps = terms.flatMap((term) =>
    pieces(term.R, fit(strides("r"), elements)).map((range) => ({ ...term, range })),
  );
  const most = {
    I: fit([...strides("i"), c.stride], elements),
    J: Math.min(fit(strides("j"), elements), Math.max(1, J)),
  };
  if (steps.length > 1) most.I = Math.min(most.I, fit([most.J + 1], windowElements("float32", limits)));
  const [iRanges, jRanges] = [pieces(I, most.I), pieces(J, most.J)];
  const slotSums = Math.min(most.I, I) * (Math.min(most.J, J) + 1);
  let slots = 1;
  if (steps.length * iRanges.length * jRanges.length === 1) {
    const tiles = Math.ceil(I / TILE_OF_BLOCKS[1]) * Math.ceil(J / TILE_OF_BLOCKS[1]);
    const room = Math.floor(windowElements("float32", limits) / slotSums);
    slots = Math.max(
      1,
      Math.min(Math.floor(WORKGROUPS_THAT_SHARE / tiles), Math.floor(steps[0].R / LEAST_SHARE), room),
    );
  }
  const sumsBytes = steps.length > 1 ? 4 * slotSums : slots > 1 ? 4 * slots * slotSums : 0;
  return { steps, iRanges, jRanges, slots, sumsBytes };
}

/** Rows and columns of a matrix as a window, and whether they can be handled in quads. */
function partOf(
  { name, base, stride }: Matrix,
  dtype: FloatDType,
  rows: Range,
  columns: Range,
  limits: Limits,
): { readonly window: BufferWindow; readonly base: number; readonly isQuads: boolean } {
  const first = base + rows[0] * stride + columns[0];
  const isEmpty = rows[0] === rows[1] || columns[0] === columns[1];
  const end = isEmpty ? first : base + (rows[1] - 1) * stride + columns[1];
  const isQuads = !isEmpty && [first, stride, end].every((at) => at % 4 === 0);
  return { ...windowOf(name, dtype, [first, end], limits), isQuads };
}

function passesOf(product: Product, limits: Limits): Pass[] {
  const { dtype, I, J, c, bias, rowSums } = product;
  // Without columns there are row sums to write all the same.
  if (I === 0 || (J === 0 && !rowSums)) return [];
  const { steps, iRanges, jRanges, slots } = cut(product, limits);
  const large = Math.ceil(I / TILE_OF_BLOCKS[2]) * Math.ceil(J / TILE_OF_BLOCKS[2]);
  const BLOCKS = large >= FEWEST_LARGE_TILES ? 2 : 1;
  const made: Pass[] = [];
  for (const [i0, i1] of iRanges) {
    for (const [j0, j1] of jRanges) {
      for (const [at, { a, b, range }] of steps.entries()) {
        const isFirst = at === 0;
        const isLast = at === steps.length - 1 && slots === 1;
        const part = (matrix: Matrix, rows: Range, columns: Range) => partOf(matrix, dtype, rows, columns, limits);
        const i = [i0, i1] as const;
        const j = [j0, j1] as const;
        const parts = {
          a: a.rows === "i" ? part(a, i, range) : part(a, range, i),
          b: b.rows === "j" ? part(b, j, range) : part(b, range, j),
          c: part(c, i, j),
        };
        const sizes = [i, j, range].map(([first, end]) => end - first) as [number, number, number];
        const [rows, columns, R] = sizes;
        const hasBias = bias !== undefined && isLast;
        const hasRowSums = rowSums !== undefined && j0 === 0;
        const vector = hasBias
          ? windowOf(bias.name, dtype, [bias.base + j0, bias.base + j1], limits)
          : hasRowSums && isLast
            ? windowOf(rowSums.name, dtype, [rowSums.base + i0, rowSums.base + i1], limits)
            : undefined;
        const tile = TILE_OF_BLOCKS[BLOCKS];
        const jTiles = Math.max(1, Math.ceil(columns / tile));
        const tiles = Math.ceil(rows / tile) * jTiles;
        // Multiples of the depth that a tile takes at a time.
        const rStep = Math.ceil(R / slots / 16) * 16;
        const slotSums = rows * columns + (hasRowSums ? rows : 0);
        made.push({
          shader: "linear.wgsl",
          params: {
            ...DTYPE_CODES,
            DTYPE: dtypeCode(dtype),
            BLOCKS,
            A_ALONG_R: a.rows === "i",
            B_ALONG_R: b.rows === "j",
            A_QUADS: parts.a.isQuads,
            B_QUADS: parts.b.isQuads,
            C_QUADS: parts.c.isQuads && isLast,
            C_BINDING: 3,
            BIAS: hasBias,
            ROW_SUMS: hasRowSums,
            FIRST: isFirst,
            LAST: isLast,
          },
          uniforms: new Words()
            .u32(...sizes, jTiles, tiles, rStep, slotSums)
            .u32(parts.a.base, a.stride, parts.b.base, b.stride, parts.c.base, c.stride, vector?.base ?? 0)
            .build(),
          buffers: [
            parts.a.window,
            parts.b.window,
            ...(isLast ? [parts.c.window] : []),
            ...(vector ? [vector.window] : []),
            ...(isFirst && isLast ? [] : [{ name: "workspace" }]),
          ],
          workgroups: tiles * slots,
          flops: 2 * rows * columns * R,
        });
        if (slots > 1) made.push(sumPass(product, slots, slotSums, limits));
      }
    }
  }
  return made;
}

/** Adds up the slots of a product that is in one piece. */
function sumPass({ dtype, I, J, c, bias, rowSums }: Product, slots: number, slotSums: number, limits: Limits): Pass {
  const result = partOf(c, dtype, [0, I], [0, J], limits);
  const vector = bias
    ? windowOf(bias.name, dtype, [bias.base, bias.base + J], limits)
    : rowSums && windowOf(rowSums.name, dtype, [rowSums.base, rowSums.base + I], limits);
  return {
    shader: "linear-sum.wgsl",
    params: {
      ...DTYPE_CODES,
      DTYPE: dtypeCode(dtype),
      C_QUADS: result.isQuads,
      C_BINDING: 2,
      BIAS: bias !== undefined,
      ROW_SUMS: rowSums !== undefined,
    },
    uniforms: new Words().u32(I, J, slots, slotSums, result.base, c.stride, vector?.base ?? 0).build(),
    buffers: [{ name: "workspace" }, result.window, ...(vector ? [vector.window] : [])],
    workgroups: Math.ceil((I * Math.ceil(J / 4) + (rowSums ? I : 0)) / 64),
    flops: slots * slotSums,
  };
}

/** Where the columns of each result begin among the N of all. */
function firsts(split: readonly number[]): number[] {
  let first = 0;
  return split.map((width) => (first += width) - width);
}

/** y0, y1, ... = x W^T + bias: each result has rows of W to itself. */
function forwardProducts({ dtype, M, K, split, bias }: LinearProblem): Product[] {
  return firsts(split).map((first, n) => ({
    dtype,
    I: M,
    J: split[n],
    terms: [
      {
        a: { name: "x", base: 0, stride: K, rows: "i" },
        b: { name: "weight", base: first * K, stride: K, rows: "j" },
        R: K,
      },
    ],
    c: { name: `y${n}`, base: 0, stride: split[n] },
    bias: bias ? { name: "bias", base: first } : undefined,
  }));
}

/** dx = dy W, a term for each dy; dweight = dy^T x and dbias, the column sums of dy, of which each dy has rows to itself. */
function backwardProducts({ dtype, M, K, split }: LinearProblem): Product[] {
  const dx: Product = {
    dtype,
    I: M,
    J: K,
    terms: firsts(split).map((first, n) => ({
      a: { name: `dy${n}`, base: 0, stride: split[n], rows: "i" },
      b: { name: "weight", base: first * K, stride: K, rows: "r" },
      R: split[n],
    })),
    c: { name: "dx", base: 0, stride: K },
  };
  const dweight = firsts(split).map((first, n): Product => ({
    dtype,
    I: split[n],
    J: K,
    terms: [
      {
        a: { name: `dy${n}`, base: 0, stride: split[n], rows: "r" },
        b: { name: "x", base: 0, stride: K, rows: "r" },
        R: M,
      },
    ],
    c: { name: "dweight", base: first * K, stride: K },
    rowSums: { name: "dbias", base: first },
  }));
  return [dx, ...dweight];
}

function rowOf(op: LinearProblem["op"], products: (problem: LinearProblem) => Product[]): WebgpuRow<LinearProblem> {
  return {
    id: op === "linear" ? "linear" : "linear-backward",
    op,
    dtypes: FLOAT_DTYPES,
    needs: [],
    tile: TILE,
    maxTile: TILE,
    workspaceBytes: (problem) =>
      Math.max(...products(problem as LinearProblem).map((product) => cut(product, LEAST_LIMITS).sumsBytes)),
    passes: ({ problem }: Plan<LinearProblem>, limits: DeviceLimits) =>
      products(problem).flatMap((product) => passesOf(product, limits)),
  };
}

export const LINEAR: WebgpuRow<LinearProblem> = rowOf("linear", forwardProducts);
export const LINEAR_BACKWARD: WebgpuRow<LinearProblem> = rowOf("linearBackward", backwardProducts);
